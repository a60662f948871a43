from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from attngen.errors import ArgumentError
from attngen.report.mask_tiles import MaskTiles
from attngen.report.plot import plot_mask

CLASSES = np.array([[[1, 0, 0, 0], [2, 1, 0, 0]], [[1, 0, 0, 0], [1, 1, 0, 0]]], np.int8)


def tiles(role: str, heads: int) -> MaskTiles:
    """One or both heads of CLASSES."""
    classes = CLASSES[:heads]
    full, partial, empty = (int((classes == kind).sum()) for kind in (2, 1, 0))
    return MaskTiles(role, 128, 64, full, partial, empty, 2, 0, classes)


def words(figure: object) -> str:
    """Every text of a figure."""
    from matplotlib.text import Text  # pyright: ignore[reportMissingImports]

    return "\n".join(text.get_text() for text in figure.findobj(Text))  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PNG", b"\x89PNG")])
def test_files_follow_the_suffix(tmp_path: Path, suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"mask{suffix}"
    plot_mask([tiles("forward", 1), tiles("backward_columns", 1)], path, title="causal")
    assert path.read_bytes().startswith(start)


def test_one_panel_a_kernel_with_its_figures() -> None:
    pytest.importorskip("matplotlib")
    figure = plot_mask([tiles("forward", 1), tiles("backward_rows", 1)], needed=12288)
    assert len(figure.axes) == 2
    assert figure.axes[0].yaxis_inverted()
    assert figure.axes[0].get_xlim() == (0, 256)
    found = words(figure)
    assert "backward rows" in found
    assert "tiles of 128 × 64: 1 full, 2 partial, 5 empty" in found
    assert "executes 37.5% of the tiles, 2.00 × the needed pairs" in found
    assert "drawn" not in found


def test_several_heads_are_mentioned() -> None:
    pytest.importorskip("matplotlib")
    assert "first of 2 heads drawn, all 2 counted" in words(plot_mask([tiles("forward", 2)]))


def test_no_global_state() -> None:
    pytest.importorskip("matplotlib")
    already = "matplotlib.pyplot" in sys.modules
    plot_mask([tiles("forward", 1)])
    assert ("matplotlib.pyplot" in sys.modules) == already


@pytest.mark.parametrize("name", ["mask.jpg", "mask", "mask.png.txt"])
def test_other_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"\.png or \.svg"):
        plot_mask([tiles("forward", 1)], tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw() -> None:
    with pytest.raises(ArgumentError, match="mask_tiles"):
        plot_mask([])


def test_missing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArgumentError, match="pip install matplotlib"):
        plot_mask([tiles("forward", 1)])
