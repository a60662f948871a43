"""Random bits by position: the published answers of Philox, equal in both array libraries, uniform and unrelated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attngen.errors import MalformedCascade
from attngen.ir.eval.philox import BITS, _philox, random_bits
from attngen.ir.parser import parse
from attngen.ir.verify import TracedForm, verify

ONES = 0xFFFFFFFF
# kat_vectors of Random123, philox4x32 10.
ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SIDE = 1000


def uniform(seed: int = 0, stream: int = 0, first_row: int = 0) -> np.ndarray:
    """Numbers in [0, 1) for a square of positions."""
    rows, columns = np.arange(SIDE)[:, None] + first_row, np.arange(SIDE)[None, :]
    found: np.ndarray = random_bits(np.int64(seed), np.int64(stream), rows, columns) / 2**BITS
    return found


@pytest.mark.parametrize(("counter", "key", "words"), ANSWERS)
def test_published_answers(counter, key, words):
    assert _philox(counter, key) == words


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_both_libraries_agree(seed):
    rows, columns, stream = np.arange(70)[:, None] + 2**32, np.arange(50)[None, :] + 2**31, 2**48 + 5
    mine = random_bits(np.int64(seed), np.int64(stream), rows, columns)
    other = random_bits(torch.tensor(seed), torch.tensor(stream), torch.from_numpy(rows), torch.from_numpy(columns))
    assert (mine == other.numpy()).all()
    assert mine.min() >= 0 and mine.max() < 2**BITS


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_rate_is_kept(rate):
    """Over a million draws, within five standard deviations."""
    kept = (uniform(seed=3) >= rate).mean()
    assert abs(kept - (1 - rate)) < 5 * (rate * (1 - rate)) ** 0.5 / SIDE


NEIGHBOURS = {
    "seeds": (uniform(1), uniform(2)),
    "upper halves of seeds": (uniform(1), uniform(1 + 2**32)),
    "heads": (uniform(1), uniform(1, stream=1)),
    "draws of a variant": (uniform(1), uniform(1, stream=2**48)),
    "rows": (uniform(1), uniform(1, first_row=1)),
    "pairs of rows": (uniform(1), uniform(1, first_row=2)),
    "columns": (uniform(1)[:, :-1], uniform(1)[:, 1:]),
    "pairs of columns": (uniform(1)[:, :-2], uniform(1)[:, 2:]),
    "halves of a seed": (uniform(1, stream=0), uniform(0, stream=1)),
}


@pytest.mark.parametrize("between", NEIGHBOURS)
def test_neighbours_are_unrelated(between):
    one, other = (side - 0.5 for side in NEIGHBOURS[between])
    assert abs((one * other).mean()) * 12 < 5 / one.size**0.5


def test_nothing_repeats_beyond_32_bits():
    """2**32 pairs further, along every axis, there are other bits."""
    rows, columns = np.arange(64)[:, None], np.arange(64)[None, :]
    places = [(0, 0, 0), (2**16, 0, 0), (0, 2**16, 0), (2**32, 0, 0), (0, 2**32, 0), (0, 0, 2**32), (0, 0, 2**20)]
    found = [random_bits(np.int64(7), np.int64(stream), rows + row, columns + column) for row, column, stream in places]
    assert len({tile.tobytes() for tile in found}) == len(places)
    assert len(np.unique(np.stack(found))) > 0.999 * len(places) * 64**2


def test_they_are_whole_numbers_of_whole_numbers():
    text = "cascade(q[m,d]; seed: int[])\n  o[m] = sum[d] q[m,d] * random_bits(seed, 0, m, d)\n  -> o"
    assert str(verify(parse(text), TracedForm)) == text
    with pytest.raises(MalformedCascade, match="needs integers"):
        verify(parse(text.replace("0, m", "0.5, m")), TracedForm)
