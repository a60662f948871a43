"""A picture of the tiles that a mask makes kernels visit.

Takes what `attend.mask_tiles` gives, draws one panel a kernel with matplotlib, which is needed here only. Figures are made without pyplot,
so that no global state changes and no window opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attngen.errors import ArgumentError
from attngen.report.mask_tiles import EMPTY_TILE, FULL_TILE, PARTIAL_TILE, MaskTiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

SUFFIXES = (".png", ".svg")
COLOURS = {EMPTY_TILE: "#f3f1ec", PARTIAL_TILE: "#e69f00", FULL_TILE: "#0b3c6f"}
"""Apart in hue for every kind of colour vision, and from light to dark in print."""

_NAMES = {FULL_TILE: "full: no masks applied", PARTIAL_TILE: "partial: masks applied", EMPTY_TILE: "empty: not visited"}
_PANEL = 4.2
_GRID_UP_TO = 80


def plot_mask(tiles: Sequence[MaskTiles], path: str | Path | None = None, *, title: str = "", needed: int | None = None) -> Figure:
    """Draw the tile grid of every kernel: queries downwards, keys to the right, the first head where there are several.

    Args:
        tiles: of the kernels, from `attend.mask_tiles`.
        path: a file to write, .png or .svg.
        title: above the panels.
        needed: pairs that the mask allows, over all batches and heads; with it each panel says how many times as many are executed.

    Returns:
        The figure, which `path` need not be given for.

    Raises:
        ArgumentError: there are no tiles, the suffix is another, or matplotlib is missing.
    """
    if not tiles:
        raise ArgumentError("there are no tiles to draw", remedy="Pass what attend.mask_tiles(q_len=..., kv_len=...) gives.")
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        raise ArgumentError(f"{str(path)!r} names no kind of picture", remedy=f"Its suffix should be {' or '.join(SUFFIXES)}.")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ArgumentError("pictures need matplotlib", remedy="pip install matplotlib") from error
    shape = min(max(_height(tiles[0]), 0.25), 4.0)
    figure: Any = Figure(figsize=(_PANEL * len(tiles), (_PANEL - 0.6) * shape + 1.7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: list[Any] = list(figure.subplots(1, len(tiles), squeeze=False)[0])
    for axes, one in zip(panels, tiles, strict=True):
        _panel(axes, one, shape, needed)
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    if path is not None:
        metadata = {"Date": None} if Path(path).suffix.lower() == ".svg" else {}
        figure.savefig(path, dpi=150, bbox_inches="tight", metadata=metadata)
    return figure


def _height(tiles: MaskTiles) -> float:
    """Of a grid as wide as 1, in tokens."""
    _, rows, columns = tiles.classes.shape
    return rows * tiles.block_m / (columns * tiles.block_n)


def _panel(axes: Any, tiles: MaskTiles, shape: float, needed: int | None) -> None:
    """One kernel."""
    from matplotlib.colors import ListedColormap  # pyright: ignore[reportMissingImports]

    grid = tiles.classes[0]
    rows, columns = grid.shape
    height, width = rows * tiles.block_m, columns * tiles.block_n
    colours = ListedColormap([COLOURS[kind] for kind in (EMPTY_TILE, PARTIAL_TILE, FULL_TILE)])
    axes.imshow(grid, cmap=colours, vmin=-0.5, vmax=2.5, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    axes.set_box_aspect(shape)
    if max(rows, columns) <= _GRID_UP_TO:
        axes.set_xticks(range(0, width + 1, tiles.block_n), minor=True)
        axes.set_yticks(range(0, height + 1, tiles.block_m), minor=True)
        axes.grid(which="minor", color="white", linewidth=0.5)
        axes.tick_params(which="minor", length=0)
    _ticks(axes, width, height)
    axes.set_xlabel("keys (tokens)")
    axes.set_ylabel("queries (tokens)")
    lines = _caption(tiles, needed)
    axes.set_title(tiles.role.replace("_", " "), loc="left", fontsize=11, fontweight="bold", pad=6 + 11.5 * len(lines))
    axes.annotate("\n".join(lines), (0, 1), (0, 4), "axes fraction", "offset points", fontsize=8, va="bottom", linespacing=1.25)


def _ticks(axes: Any, width: int, height: int) -> None:
    """Marks at round numbers of tokens in powers of two."""
    for length, place in ((width, axes.set_xticks), (height, axes.set_yticks)):
        step = max(1 << (length - 1).bit_length() - 2, 1)
        place(range(0, length + 1, step))
    axes.tick_params(labelsize=8)


def _caption(tiles: MaskTiles, needed: int | None) -> list[str]:
    """The figures of a panel, in two or three lines; they count every batch and head, of which the first is drawn."""
    total = tiles.full + tiles.partial + tiles.empty
    share = (tiles.full + tiles.partial) / total if total else 0.0
    executed = f"executes {share:.1%} of the tiles"
    if needed:
        executed += f", {tiles.executed_pairs / needed:.2f} × the needed pairs"
    lines = [f"tiles of {tiles.block_m} × {tiles.block_n}: {tiles.full} full, {tiles.partial} partial, {tiles.empty} empty", executed]
    heads = total // max(tiles.classes[0].size, 1)
    if tiles.divisor > 1:
        lines.append(f"tokens {tiles.divisor} apart, in {tiles.divisor} classes of equal remainder")
    return [*lines, f"first of {heads} heads drawn, all {heads} counted"] if heads > tiles.divisor else lines


def _legend() -> list[Any]:
    from matplotlib.patches import Patch  # pyright: ignore[reportMissingImports]

    return [Patch(facecolor=COLOURS[kind], edgecolor="#777777", linewidth=0.6, label=name) for kind, name in _NAMES.items()]
