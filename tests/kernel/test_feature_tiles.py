from __future__ import annotations

import pytest

from attngen.kernel.feature_tiles import Cut, columns, cuts, label, tile_axes, tile_widths


@pytest.mark.parametrize(
    ("length", "found"),
    [
        *((1, (16,)), (8, (16,)), (16, (16,)), (17, (32,)), (24, (32,)), (40, (32, 16)), (64, (64,)), (72, (64, 16)), (80, (64, 16))),
        *((96, (64, 32)), (112, (64, 32, 16)), (120, (128,)), (160, (128, 32)), (192, (128, 64)), (256, (256,)), (576, (512, 64))),
    ],
)
def test_pieces(length, found):
    assert tile_widths(length) == found


@pytest.mark.parametrize("length", range(1, 300))
def test_less_than_16_columns_pad(length):
    assert 0 <= columns(length) - length < 16
    assert list(tile_widths(length)) == sorted(set(tile_widths(length)), reverse=True)
    assert all(size >= 16 and size & (size - 1) == 0 for size in tile_widths(length))


def test_the_text_of_a_module_depends_on_the_number_of_pieces_and_on_padding():
    assert cuts({"d": 64, "e": 256}) == ()
    assert cuts({"d": 96, "e": 192}) == cuts({"d": 80, "e": 576}) == (Cut("d", 2, False), Cut("e", 2, False))
    assert cuts({"d": 72, "e": 8}) == (Cut("d", 2, True), Cut("e", 1, True))


def test_labels():
    assert [label(n) for n in (64, 96, 72, 8, 112)] == ["64", "64-32", "64-16p", "16p", "64-32-16"]


def test_axes_of_pieces_have_names_of_their_own():
    assert tile_axes(Cut("d", 2, False), {"b", "d", "e"}) == ("d_0", "d_1")
    assert tile_axes(Cut("d", 1, True), {"b", "d"}) == ("d",)
    assert tile_axes(Cut("d", 2, False), {"d", "d_1"}) == ("d__0", "d__1")
