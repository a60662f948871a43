"""What printed programs call, each function by itself."""

from __future__ import annotations

import pytest
import torch

from attngen.engine import library


@pytest.mark.parametrize("pairs", [1, 2**16, 2**18, 2**24])
def test_chunks_cover_the_grid(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every head belongs to one chunk, whatever the size of chunks; those that a program sums over stay together."""
    monkeypatch.setattr(library, "PAIRS", pairs)
    counts = torch.zeros(3, 5, 2, 4, dtype=torch.int64)
    found = [*library.chunks((3, 5, 2, 4), 1, 2, (100, 100))]
    for at in found:
        assert at[3] == slice(0, 4)
        assert at[2].stop - at[2].start == 1
        counts[at] += 1
    assert (counts == 1).all()
    assert len(found) == {1: 30, 2**16: 30, 2**18: 6, 2**24: 2}[pairs]


@pytest.mark.parametrize(("begin", "end", "length"), [(0, 0, 16), (3, 500, 128), (0, 130, 128), (7, 8, 128), (0, 1000, 17)])
def test_tiles_cover_a_range(begin: int, end: int, length: int) -> None:
    found = [*library.tiles(begin, end, length)]
    assert [place for at in found for place in range(at.start, at.stop)] == [*range(begin, end)]
    assert all(at.stop - at.start <= 2 * length + 16 for at in found)


def test_loop_tiles_visit_each_position_once() -> None:
    """Pieces overlap, and bounds of heads differ: what one of them needs is visited, and FULL is what is so for all."""
    first = (torch.tensor([0, 3]), torch.tensor([40, 60]), torch.tensor([0, 8]), torch.tensor([40, 35]))
    second = (30, 100, 70, 100)
    found = [*library.loop_tiles([first, second], slice(0, 90), 16)]
    assert [place for at, _ in found for place in range(at.start, at.stop)] == [*range(90)]
    full = {place for at, is_full in found if is_full for place in range(at.start, at.stop)}
    assert full <= {*range(8, 35), *range(70, 90)}
    assert {*range(16, 32), *range(80, 90)} <= full


@pytest.mark.parametrize(("count", "length"), [(1, 10), (3, 10), (7, 10), (20, 10), (4, 0)])
def test_slices_of_an_axis(count: int, length: int) -> None:
    found = [library.slice_of(number, count, length) for number in range(count)]
    assert [place for at in found for place in range(at.start, at.stop)] == [*range(length)]


def test_a_gather_outside_is_inside() -> None:
    tensor = torch.arange(12.0).view(3, 4)
    found = library.gather(tensor, torch.tensor([0, 2, 9, -1]), torch.tensor([1, -1, -40, 50]))
    assert found.tolist() == [1.0, 11.0, 8.0, 11.0]
    assert library.gather(torch.empty(0, 4), torch.tensor([0, 5]), 1).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_masked_elements_lose_all_of_their_bits(dtype: torch.dtype) -> None:
    inf = float("inf")
    tile, mask = torch.tensor([[1.5, float("nan"), -inf, inf]], dtype=dtype), torch.tensor([[True, False, True, False]])
    words = library.bits(mask, dtype)
    assert library.keep(tile.clone(), words).tolist() == [[1.5, 0.0, -inf, 0.0]]
    assert library.keep(tile.clone(), words, library.lowest(words)).tolist() == [[1.5, -inf, -inf, -inf]]


def test_keys_of_places() -> None:
    """The place in two dimensions as one number; what a mask takes away or lies outside has none."""
    at = (torch.tensor([[0], [1], [5]]), torch.tensor([[0, -1, 2]]))
    assert library.scatter_keys(at, (2, 3), None, (3, 3)).tolist() == [[0, 2, 2], [3, 5, 5], [-1, -1, -1]]
    mask = torch.tensor([[True, False, True]]).expand(3, 3)
    assert library.scatter_keys(at, (2, 3), mask, (3, 3)).tolist() == [[0, -1, 2], [3, -1, 5], [-1, -1, -1]]


def test_a_quotient_of_nothing_is_nothing() -> None:
    found = library.safe_div(torch.tensor([1.0, 6.0, 0.0]), torch.tensor([0.0, 3.0, 0.0]))
    assert found.tolist() == [0.0, 2.0, 0.0]


def test_the_product_and_the_difference_have_one_rounding() -> None:
    x, row = torch.full((1,), 3.0), torch.full((1,), 3.0 * 0.1)
    assert library.exp_scaled(x, 0.1, row, torch.empty(1)).item() == pytest.approx(1.0, abs=1e-7)
    assert library.power(4, -0.5) == 0.5
    assert library.power(0.0, -1.0) == float("inf")
