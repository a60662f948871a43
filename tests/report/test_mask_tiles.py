from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attngen
from attngen.errors import ArgumentError, ShapeMismatch
from attngen.report.mask_tiles import MaskTiles

TILES = {role: {"BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}
ONE_HEAD = ("causal", "window", "sink", "apart", "prefix", "chunks", "dilated", "document", "ends", "flags")


def parts(window: int, doc: torch.Tensor, ends: torch.Tensor, flag: torch.Tensor) -> dict[str, object]:
    """Masks that people write, to be combined."""
    return {
        "causal": lambda b, h, q, k: q >= k,
        "window": lambda b, h, q, k: (q - k < window) & (k - q < window),
        "sink": lambda b, h, q, k: (k < 5) | (abs(q - k) < window),
        "apart": lambda b, h, q, k: (abs(q - k - 20) > window) & (abs(q - k + 20) > 12),
        "prefix": lambda b, h, q, k: k < window,
        "chunks": lambda b, h, q, k: q // window == k // window,
        "dilated": lambda b, h, q, k: (q - k) % 3 == 0,
        "document": lambda b, h, q, k: doc[q] == doc[k],
        "ends": lambda b, h, q, k: k < ends[q],
        "flags": lambda b, h, q, k: flag[k] | flag[q],
        "heads": lambda b, h, q, k: (h == 0) | (k >= q),
        "batches": lambda b, h, q, k: k < ends[b] + q,
    }


def dense(mask: object, batch: int, heads: int, rows: int, keys: int) -> np.ndarray:
    axes = [torch.arange(length).view([-1 if i == j else 1 for j in range(4)]) for i, length in enumerate((batch, heads, rows, keys))]
    return mask(*axes).expand(batch, heads, rows, keys).numpy()  # type: ignore[operator]


def assert_sound(found: MaskTiles, truth: np.ndarray) -> None:
    """No pair in an EMPTY tile, no gap in a FULL one."""
    heads = len(found.classes)
    truth = truth.reshape(-1, *truth.shape[2:])
    told_apart = truth if len(truth) == heads else truth[:heads]
    for classes, pairs in zip(found.classes, told_apart, strict=True):
        for i, j in np.ndindex(classes.shape):
            tile = pairs[i * found.block_m : (i + 1) * found.block_m, j * found.block_n : (j + 1) * found.block_n]
            assert classes[i, j] != 0 or not tile.any(), (found.role, i, j)
            assert classes[i, j] != 2 or tile.all(), (found.role, i, j)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(ONE_HEAD), min_size=1, max_size=3, unique=True),
    st.sampled_from(["and", "or", "not"]),
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(0, 2**16),
)
def test_tiles_cover_every_pair(names: list[str], how: str, rows: int, keys: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    length = max(rows, keys)
    doc = torch.randint(0, 4, (length,), generator=generator)
    doc = doc.sort().values if seed % 3 else doc
    ends = torch.randint(-3, keys + 3, (length,), generator=generator)
    known = parts(window, doc, ends, torch.rand(length, generator=generator) < 0.2)

    def mask(b: object, h: object, q: object, k: object) -> object:
        found = known[names[0]](b, h, q, k)  # type: ignore[operator]
        for name in names[1:]:
            other = known[name](b, h, q, k)  # type: ignore[operator]
            found = found | other if how == "or" else found & other if how == "and" else found & ~other
        return found

    attend = attngen.compile(attngen.attention(mask_mod=mask, name="composed"), arch="sm90", schedule=TILES)
    for found in attend.mask_tiles(q_len=rows, kv_len=keys, head_dim=16):
        assert_sound(found, dense(mask, 1, 1, rows, keys))


def test_keys_up_to_a_length() -> None:
    length = 40
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: k < length, name="length"), arch="sm90", schedule=TILES)
    for found in attend.mask_tiles(q_len=32, kv_len=100, head_dim=16):
        assert (found.full, found.partial, found.empty) == (2, 2, 4)


@pytest.mark.parametrize("name", ["heads", "batches"])
def test_heads_are_told_apart(name: str) -> None:
    mask = parts(8, torch.zeros(1), torch.tensor([3, 40]), torch.zeros(1))[name]
    attend = attngen.compile(attngen.attention(mask_mod=mask, name=name), arch="sm90", schedule=TILES)
    for found in attend.mask_tiles(q_len=60, kv_len=70, batch=2, heads=2, head_dim=16):
        assert len(found.classes) == 2
        truth = dense(mask, 2, 2, 60, 70)
        assert_sound(found, truth[:1] if name == "heads" else truth[:, :1])
        assert found.full + found.partial + found.empty == 4 * found.classes[0].size


def test_figures_of_a_causal_mask() -> None:
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k, name="causal"), arch="sm90", schedule=TILES)
    forward = attend.mask_tiles(q_len=64, kv_len=64, head_dim=16)[0]
    figures = {"block_m": 16, "block_n": 32, "full": 2, "partial": 4, "empty": 2, "segments_max": 2, "setup_bytes": 0, "divisor": 1}
    assert forward.as_dict() == {"role": "forward", **figures}
    assert forward.executed_pairs == 6 * 16 * 32


def test_a_mask_in_an_argument_is_refused() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", keep="b n")
    def padded(q, k, v, keep):  # type: ignore[no-untyped-def]
        scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        p = attngen.softmax(attngen.where(keep > 0, scores, -torch.inf), over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    with pytest.raises(ArgumentError, match="keep"):
        attngen.compile(padded, arch="sm90").mask_tiles(q_len=8, kv_len=8, head_dim=16)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 150), st.sampled_from(["q", "k", "b", "h"]), st.booleans())
def test_what_a_call_refuses_is_not_counted(length: int, axis: str, rest: bool) -> None:
    """A captured tensor reaches as far as positions do, or there are no figures; what lies behind it never counts."""
    needed = {"q": 100, "k": 120, "b": 2, "h": 3}
    behind = torch.full((400,), rest)
    behind[:length] = torch.arange(length) % 3 == 0
    flag = behind[:length]
    mods = {
        "q": lambda b, h, q, k: (q >= k) | flag[q],
        "k": lambda b, h, q, k: (q >= k) | flag[k],
        "b": lambda b, h, q, k: (q >= k) | flag[b],
        "h": lambda b, h, q, k: (q >= k) | flag[h],
    }
    attend = attngen.compile(attngen.attention(mask_mod=mods[axis]), arch="sm90", schedule=TILES)
    batch, heads = 1 if axis == "h" else 2, 1 if axis == "b" else 3
    sizes = {"q_len": 100, "kv_len": 120, "batch": batch, "heads": heads, "head_dim": 16}
    if length < needed[axis]:
        with pytest.raises(ShapeMismatch, match=f"has {length} elements, but it is indexed by positions up to {needed[axis] - 1}"):
            attend.mask_tiles(**sizes)
        return
    for found in attend.mask_tiles(**sizes):
        assert_sound(found, dense(mods[axis], batch, heads, 100, 120))


@pytest.mark.parametrize(("heads", "width", "shift"), [(4, 32, 32), (2, 24, 11)])
def test_captured_numbers_bound_as_literals_do(heads: int, width: int, shift: int) -> None:
    """Heads that are told apart by captured numbers: the tiles of the mask, found without a list."""

    def mask(b, h, q, k):  # type: ignore[no-untyped-def]
        by = torch.where(h >= heads // 2, shift // 2, 0)
        return ((q + by) // width == (k + by) // width) & (q >= k)

    attend = attngen.compile(attngen.attention(mask_mod=mask), arch="sm90", schedule=TILES)
    for found in attend.mask_tiles(q_len=100, kv_len=120, heads=heads, head_dim=16):
        assert found.setup_bytes == 0
        assert found.empty > 0
        assert_sound(found, dense(mask, 1, heads, 100, 120))


def test_bounds_of_heads_that_a_kernel_sums_over() -> None:
    """Parts of bounds that have names of their own stand in the function that needs them."""

    def mask(b, h, q, k):  # type: ignore[no-untyped-def]
        by = torch.where(h >= 2, 3, 0)
        return ((q + by) // 1 == (k + by) // 1) & (q >= k)

    attend = attngen.compile(attngen.attention(mask_mod=mask), arch="sm90", schedule=TILES)
    for found in attend.mask_tiles(q_len=60, kv_len=70, heads=4, head_dim=16):
        assert_sound(found, dense(mask, 1, 4, 60, 70))
