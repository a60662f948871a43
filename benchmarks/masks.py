"""Tiles visited under every mask of attention-gym, compared with FlexAttention's BlockMask: `python benchmarks/masks.py`.

Needs attn-gym (`pip install attn-gym`) and no GPU: tiles come from `attend.mask_tiles`, the truth from the mask evaluated at every pair.
Prints one row for each mask, then how many masks visit no more than the BlockMask and 1.25 times the needed tiles. With `--verify` every
tile of every kernel is checked against the dense mask, and a tile wrongly skipped or wrongly unmasked makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mask_cases import CASES, Case, Mod
from torch.nn.attention.flex_attention import create_block_mask, create_mask

import attngen
from attngen.report.mask_tiles import EMPTY_TILE, FULL_TILE, MaskTiles

Grid = np.ndarray[Any, np.dtype[np.bool_]]
CELL = 16
FLEX_BLOCK = 128
GOOD_RATIO = 1.25


# ---- the truth


@dataclass(frozen=True, slots=True)
class Cells:
    """A mask at every pair, gathered in cells of CELL × CELL; a tile is a rectangle of them.

    Attributes:
        some, every: [heads, cells along queries, cells along keys], whether any and whether all pairs of a cell are allowed; positions
            beyond the last query or key do not count.
        pairs: allowed, over all heads.
    """

    some: Grid
    every: Grid
    pairs: int

    def tiles(self, block_m: int, block_n: int) -> tuple[Grid, Grid]:
        """Whether any and whether all pairs of each tile are allowed."""
        return gathered(self.some, block_m, block_n, np.any), gathered(self.every, block_m, block_n, np.all)


def gathered(cells: Grid, block_m: int, block_n: int, reduce: Callable[..., Any]) -> Grid:
    """Cells to tiles."""
    if block_m % CELL or block_n % CELL:
        raise ValueError(f"tiles of {block_m} x {block_n} are not made of cells of {CELL}")
    m, n = block_m // CELL, block_n // CELL
    heads, rows, columns = cells.shape
    padded = np.pad(cells, ((0, 0), (0, -rows % m), (0, -columns % n)), constant_values=reduce is np.all)
    return reduce(padded.reshape(heads, padded.shape[1] // m, m, padded.shape[2] // n, n), axis=(2, 4))


def evaluated(case: Case, rows: int = 256) -> Cells:
    """The mask at every pair, `rows` queries at a time."""
    some: list[Grid] = []
    every: list[Grid] = []
    pairs = 0
    for first in range(0, case.q_len, rows):
        count = min(rows, case.q_len - first)
        block = create_mask(shifted(case.mod, first), 1, case.heads, count, case.kv_len, device="cpu")[0].numpy()
        pairs += int(block.sum())
        padding = ((0, 0), (0, -count % CELL), (0, -case.kv_len % CELL))
        for found, reduce in ((some, np.any), (every, np.all)):
            padded = np.pad(block, padding, constant_values=reduce is np.all)
            heads, height, width = padded.shape
            found.append(reduce(padded.reshape(heads, height // CELL, CELL, width // CELL, CELL), axis=(2, 4)))
    return Cells(np.concatenate(some, 1), np.concatenate(every, 1), pairs)


def in_classes(case: Case, divisor: int) -> Case:
    """The mask over residue classes: one head for each class of each head."""

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        key = kv_idx * divisor + h % divisor
        return case.mod(b, h // divisor, q_idx * divisor + h % divisor, key) & (key < case.kv_len)

    lengths = (math.ceil(length / divisor) for length in (case.q_len, case.kv_len))
    return Case(mask_mod, *lengths, case.heads * divisor)


def shifted(mod: Mod, first: int) -> Mod:
    """The mask of queries from `first` on."""

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return mod(b, h, q_idx + first, kv_idx)

    return mask_mod


# ---- one mask


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel: tiles visited and tiles with an allowed pair, tiles visited as FULL and tiles that are FULL."""

    role: str
    block_m: int
    block_n: int
    executed: int
    needed: int
    full: int
    full_possible: int
    segments_max: int
    executed_pairs: int

    @property
    def ratio(self) -> float:
        return self.executed / self.needed if self.needed else math.inf


@dataclass(frozen=True, slots=True)
class Row:
    """One mask at one length; with an `error` the other fields are unset."""

    mask: str
    length: int
    q_len: int = 0
    kv_len: int = 0
    heads: int = 0
    pairs: int = 0
    flex_pairs: int = 0
    kernels: tuple[Kernel, ...] = ()
    setup: str = ""
    bytes: int = 0
    problems: tuple[str, ...] = ()
    error: str = ""

    @property
    def forward(self) -> Kernel:
        return next(kernel for kernel in self.kernels if kernel.role == "forward")


def setup_of(attend: attngen.Attention, forward: MaskTiles) -> tuple[str, int]:
    """The setup of a call before its forward kernel, and its bytes."""
    kernel = attend.program.kernels[0]
    if kernel.document_extents:
        return "documents", forward.setup_bytes
    return ("list" if forward.setup_bytes else "none"), forward.setup_bytes


def measured(name: str, length: int, verify: bool, pictures: Path | None) -> Row:
    """A row; an exception becomes its error.

    Args:
        name: a key of CASES. length: of the longer sequence, about.
        verify: check every tile against the dense mask.
        pictures: a folder to draw the tiles into.
    """
    try:
        case = CASES[name](length)
        attend = attngen.compile(attngen.attention(mask_mod=case.mod))
        found = attend.mask_tiles(q_len=case.q_len, kv_len=case.kv_len, heads=case.heads)
        cells = evaluated(case)
        if pictures is not None:
            draw(name, length, found, cells.pairs, pictures)
        flex_blocks = int(cells.tiles(FLEX_BLOCK, FLEX_BLOCK)[0].sum())
        problems = tuple(wrong_blocks(case, flex_blocks)) if verify else ()
        met = case if found[0].divisor == 1 else in_classes(case, found[0].divisor)
        cells_met = cells if met is case else evaluated(met)
        problems += tuple(wrong(met, attend, found, cells_met)) if verify else ()
        setup = setup_of(attend, found[0])
        kernels = tuple(compared(met, attend, tiles, cells_met) for tiles in found)
        flex_pairs = flex_blocks * FLEX_BLOCK * FLEX_BLOCK
        return Row(name, length, case.q_len, case.kv_len, case.heads, cells.pairs, flex_pairs, kernels, *setup, problems)
    except Exception as error:
        return Row(name, length, error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def compared(case: Case, attend: attngen.Attention, tiles: MaskTiles, cells: Cells) -> Kernel:
    """A kernel compared with the dense mask."""
    some, every = cells.tiles(tiles.block_m, tiles.block_n)
    return Kernel(
        role=tiles.role,
        block_m=tiles.block_m,
        block_n=tiles.block_n,
        executed=tiles.full + tiles.partial,
        needed=int(some.sum()),
        full=tiles.full,
        full_possible=int((every & ~overhanging(case, attend, tiles, some.shape)).sum()),
        segments_max=tiles.segments_max,
        executed_pairs=tiles.executed_pairs,
    )


def draw(name: str, length: int, tiles: Sequence[MaskTiles], pairs: int, folder: Path) -> None:
    from attngen.report.plot import plot_mask

    folder.mkdir(parents=True, exist_ok=True)
    plot_mask(tiles, folder / f"{name.replace(',', '').replace(' ', '_')}-{length}.png", title=f"{name}, {length} tokens", needed=pairs)


# ---- whether the tiles are right


def wrong(case: Case, attend: attngen.Attention, found: Sequence[MaskTiles], cells: Cells) -> Iterator[str]:
    """Contradictions to the dense mask."""
    for tiles in found:
        yield from (f"{tiles.role}: {text}" for text in wrong_tiles(case, attend, tiles, cells))


def wrong_blocks(case: Case, flex_blocks: int) -> Iterator[str]:
    """Whether FlexAttention counts other blocks than were counted here."""
    if case.q_len <= 2048 and case.kv_len <= 2048:
        block = create_block_mask(case.mod, 1, case.heads, case.q_len, case.kv_len, device="cpu", BLOCK_SIZE=FLEX_BLOCK)
        full = block.full_kv_num_blocks
        count = int(block.kv_num_blocks.sum()) + (int(full.sum()) if full is not None else 0)
        if count != flex_blocks:
            yield f"the BlockMask has {count} blocks, {flex_blocks} were counted"


def wrong_tiles(case: Case, attend: attngen.Attention, tiles: MaskTiles, cells: Cells) -> Iterator[str]:
    """Of one kernel: needed tiles skipped, FULL tiles with a forbidden pair or past the end of the loop axis, inconsistent counts."""
    some, every = cells.tiles(tiles.block_m, tiles.block_n)
    if tiles.classes.shape[0] not in (1, case.heads) or tiles.classes.shape[1:] != some.shape[1:]:
        yield f"classes of shape {tiles.classes.shape}, expected {some.shape}"
        return
    classes = np.broadcast_to(tiles.classes, some.shape)
    unmasked = classes == FULL_TILE
    yield from told("needed, but empty", some & (classes == EMPTY_TILE), tiles)
    yield from told("full, with a forbidden pair", unmasked & ~every, tiles)
    yield from told("full, past the end of the loop axis", unmasked & overhanging(case, attend, tiles, some.shape), tiles)
    counts = tuple(int((classes == kind).sum()) for kind in (2, 1, 0))
    if counts != (tiles.full, tiles.partial, tiles.empty):
        yield f"full, partial, empty are {(tiles.full, tiles.partial, tiles.empty)}, by classes {counts}"


def overhanging(case: Case, attend: attngen.Attention, tiles: MaskTiles, shape: tuple[int, ...]) -> Grid:
    """Tiles that end past the last position of the loop axis, which always need a mask."""
    rows, columns = (np.arange(1, count + 1) for count in shape[1:])
    queries_pass = {kernel.role: kernel.streamed for kernel in attend.program.kernels}[tiles.role] == attend.program.streamed.resident
    beyond = (rows * tiles.block_m > case.q_len)[:, None] if queries_pass else (columns * tiles.block_n > case.kv_len)[None, :]
    return np.broadcast_to(beyond, shape)


def told(what: str, where: Grid, tiles: MaskTiles) -> Iterator[str]:
    """How many tiles, and the first."""
    if where.any():
        head, row, column = (int(place) for place in np.argwhere(where)[0])
        yield (
            f"{int(where.sum())} tiles of {tiles.block_m} x {tiles.block_n} {what}, the first at head {head}, "
            f"query {row * tiles.block_m}, key {column * tiles.block_n}"
        )


# ---- the table

TITLES = [
    *("mask", "queries × keys", "Mpairs", "Mpairs of BlockMask", "share", "tile", "executed", "needed", "ratio"),
    *("full", "full possible", "segments", "setup", "bytes"),
]


def printed(row: Row) -> list[str]:
    """The entries of a row."""
    size = f"{row.q_len}×{row.kv_len}" + (f", {row.heads} heads" if row.heads > 1 else "")
    if row.error:
        return [row.mask, f"{row.length}", row.error.partition(":")[0], *[""] * (len(TITLES) - 3)]
    kernel = row.forward
    numbers = [kernel.executed, kernel.needed, f"{kernel.ratio:.2f}", kernel.full, kernel.full_possible, kernel.segments_max]
    millions = [f"{pairs / 1e6:.3f}" for pairs in (kernel.executed_pairs, row.flex_pairs)]
    share = f"{kernel.executed_pairs / row.flex_pairs:.2f}" if row.flex_pairs else "-"
    return [row.mask, size, *millions, share, f"{kernel.block_m}×{kernel.block_n}", *map(str, numbers), str(row.setup), str(row.bytes)]


def footer(rows: Sequence[Row]) -> list[str]:
    """How many masks stay within the limits."""
    built = [row for row in rows if not row.error]
    within = sum(row.forward.executed_pairs <= row.flex_pairs for row in built)
    close = sum(row.forward.ratio <= GOOD_RATIO for row in built)
    return [
        f"{within} of {len(rows)} masks execute at most as many pairs as the BlockMask has",
        f"{close} of {len(rows)} masks execute at most {GOOD_RATIO} times the tiles that they need",
    ]


def as_text(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)).rstrip() for line in table]


def as_markdown(table: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(line)} |" for line in table]
    return [lines[0], "|" + " --- |" * len(table[0]), *lines[1:]]


def report(rows: Sequence[Row]) -> dict[str, Any]:
    """For JSON."""
    described = [{**asdict(row), "kernels": [{**asdict(kernel), "ratio": kernel.ratio} for kernel in row.kernels]} for row in rows]
    return {"versions": {"torch": torch.__version__, "attngen": attngen.__version__}, "footer": footer(rows), "rows": described}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048])
    parser.add_argument("--masks", nargs="+", choices=list(CASES), default=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--verify", action="store_true", help="hold every tile of every kernel to the dense mask")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the tiles of every mask; needs matplotlib")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows: list[Row] = []
    for length, name in product(options.lengths, options.masks):
        print(f"{name} at {length} ...", file=sys.stderr, flush=True)
        rows.append(measured(name, length, options.verify, options.pictures))
    table = [TITLES, *map(printed, rows)]
    print("\n".join([*as_text(table), "", *footer(rows)]))
    for row in rows:
        notes = [row.error] if row.error else row.problems
        print("".join(f"\n{row.mask} at {row.length}: {note}" for note in notes), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(report(rows), indent=1) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text("\n".join([*as_markdown(table), "", *(f"{line}  " for line in footer(rows))]) + "\n", encoding="utf-8")
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
