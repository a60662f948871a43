"""The Gluon dialect: explicit layouts, rings of shared memory for streamed tiles, asynchronous dots.

    PAIRS                  scores; row and key vectors are slices of it
    SUM_E                  accumulators over the features e
    ROWS_E                 tiles of features as they lie in memory

A worker owns half of the rows of a program: four warps, BLOCK_M = 64 rows. Gluon refuses illegal layouts when it compiles the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attngen.emit.context import FunctionContext
from attngen.emit.dialect import Dialect, Rows
from attngen.emit.format import WIDTH
from attngen.emit.identifiers import Code, folded
from attngen.emit.placement import Shapes, Stage
from attngen.emit.software_pipeline import PrefetchedDots, free
from attngen.errors import InternalError
from attngen.kernel.partition import Kernel

if TYPE_CHECKING:
    from attngen.emit.builder import Writer
    from attngen.emit.expression import Layout
    from attngen.emit.lower import Lowering
    from attngen.emit.segments import Segments

LANGUAGES = frozenset({"tl", "gl", "LOG2E"})
"""What a module knows everywhere."""
MMA = "gl.NVMMADistributedLayout([3, 0], [4, 1], [16, {columns}, 16])"
MEMORY = "gl.BlockedLayout([1, 8], [256 // {columns}, {columns} // 8], [4, 1], [1, 0])"


@dataclass(frozen=True, slots=True)
class Ring:
    """A ring buffer for the tiles of a matrix: names of its slots, of the barriers of full slots, and of those of free slots."""

    rows: Rows
    names: tuple[Code, Code, Code]


def parted(rings: Mapping[str, Ring], scores: Iterable[Code]) -> tuple[list[Ring], list[Ring]]:
    """The rings of the prefetched dots, which the statements of the scores take tiles from, and the others."""
    taken = {line.partition(" = ")[0] for line in scores}
    return [ring for tile, ring in rings.items() if tile in taken], [ring for tile, ring in rings.items() if tile not in taken]


class Gluon(Dialect):
    """The dialect of one kernel, and what it has asked for so far.

    Attributes:
        rings: in the order of the text.
        layouts: names of the layouts of feature axes, with their definitions.
    """

    language = "gl"
    vectors = False

    def __init__(self, kernel: Kernel, shapes: Shapes) -> None:
        self.shapes = shapes
        self.pair = (kernel.resident, kernel.streamed or "")
        inside = [step for step in kernel.steps if kernel.streamed in step.over]
        self.sums = {axis for step in inside for axis in step.axes if axis in kernel.features}
        self.rings: dict[str, Ring] = {}
        self.layouts: dict[str, Code] = {}
        self.shared: dict[str, Code] = {}

    # ---- layouts

    def layout(self, kind: str, axis: str) -> Code:
        """The layout of tiles over a feature axis: "SUM" or "ROWS"."""
        name = f"{kind}_{axis.upper()}"
        form = MMA if kind == "SUM" else MEMORY
        self.layouts[name] = Code(form.format(columns=f"{'PAD' if axis in self.shapes.padded else 'DIM'}_{axis.upper()}"))
        return Code(name)

    def home(self, layout: Layout) -> str:
        """Where values of a layout live."""
        if layout == self.pair:
            return "PAIRS"
        if len(layout) == 1 and layout[0] in self.pair:
            return f"gl.SliceLayout({1 - self.pair.index(layout[0])}, PAIRS)"
        if len(layout) == 1:
            return f"gl.SliceLayout(0, {self.layout('ROWS', layout[0])})"
        return self.layout("SUM" if layout[1] in self.sums else "ROWS", layout[1])

    def place(self, layout: Layout) -> str:
        return f", {self.home(layout)}"

    def positions(self, axis: str, first: str, end: str) -> str:
        own = super().positions(axis, first, end)
        return f"PART * {end} + {own}" if axis == self.pair[0] else own

    def scalar(self, text: str, dtype: str) -> str:
        return f"tl.cast({text}, {dtype})"

    def lift(self, writer: Writer, text: str, own: Layout, layout: Layout) -> str:
        return self.lifted(writer, text, (own, layout), self.home(layout))

    def in_memory(self, writer: Writer, text: str, own: Layout, layout: Layout) -> str:
        return self.lifted(writer, text, (own, layout), "PAIRS" if layout == self.pair else self.layout("ROWS", layout[1]))

    def lifted(self, writer: Writer, text: str, layouts: tuple[Layout, Layout], home: str) -> str:
        """A value in a tile that lives elsewhere."""
        (own, layout), plain = layouts, super().lift(writer, text, *layouts)
        if layout == self.pair or home == f"ROWS_{own[0].upper()}":
            return plain
        if own == layout[:1]:
            writer.use("column")
            return f"column({text}, {home})"
        return f"gl.convert_layout({text}, gl.SliceLayout(0, {home}))[None, :]"

    def loaded(self, text: str, layout: Layout) -> str:
        return f"gl.convert_layout({text}, {self.home(layout)})" if self.is_sum(layout) else text

    def stored(self, text: str, layout: Layout) -> str:
        return f"gl.convert_layout({text}, {self.layout('ROWS', layout[1])})" if self.is_sum(layout) else text

    def row_sum(self, text: str, layout: Layout) -> str:
        return f"gl.convert_layout({super().row_sum(text, layout)}, {self.home(layout[:1])})"

    def row_max(self, text: str, layout: Layout) -> str:
        return f"gl.convert_layout({super().row_max(text, layout)}, {self.home(layout[:1])})"

    def is_sum(self, layout: Layout) -> bool:
        """Whether tiles of a layout live as sums do."""
        return len(layout) == 2 and layout[1] in self.sums

    # ---- rings and products

    def matrix(self, writer: Writer, rows: Rows) -> str:
        writer.use("matrix")
        return f"matrix({', '.join((rows.first, rows.length, rows.stride, rows.width, *rows.blocks))})"

    def fetch(self, writer: Writer, rows: Rows, ok: str, full: str) -> str:
        names = writer.name(f"{rows.tile}_ring"), writer.name(f"{rows.tile}_ready"), writer.name(f"{rows.tile}_free")
        self.rings[rows.tile] = Ring(rows, names)
        writer.helpers |= {"slots", "barriers", "put", "take", "give"}
        return f"take({names[0]}, {names[1]}, turn, STAGES)"

    def product(self, writer: Writer, sides: tuple[str, str], total: str, *, prefetched: bool) -> str:
        a, b = self.in_shared(writer, sides[0]), self.in_ring(sides[1])
        if total:
            return f"warpgroup_mma({a}, {b}.permute((1, 0)), {total}, is_async=True)"
        writer.use("start_product")
        return f"start_product({a}, {b}, BLOCK_{self.pair[0].upper()}, BLOCK_{self.pair[1].upper()}, ACC, PAIRS)"

    def compared(self, writer: Writer, sides: tuple[str, str], sign: Literal["<", ">="], *, prefetched: bool) -> str:
        return super().compared(writer, sides, sign, prefetched=False)

    def accumulate(self, writer: Writer, sides: tuple[str, str], total: str, feature: str) -> str:
        writer.use("left")
        return f"warpgroup_mma(left({sides[0]}, {self.layout('SUM', feature)}), {self.in_ring(sides[1])}, {total})"

    def in_shared(self, writer: Writer, text: str) -> Code:
        """An operand that stays, in the shared memory of its worker."""
        if text not in self.shared:
            base = re.match(r"\w*", text)
            name = self.shared[text] = writer.name(f"{base.group() if base is not None else ''}_shared")
            writer.use("shared")
            writer.put(f"{name} = shared({text})", Stage.PROLOGUE)
        return self.shared[text]

    def in_ring(self, text: str) -> str:
        """An operand that streams, which is a tile of a matrix as it lies in memory."""
        if text not in self.rings:
            raise InternalError(f"the specialised form multiplies with tiles as they lie in memory, and {text} is computed")
        return text

    def prefetched(self, lowering: Lowering) -> PrefetchedDots:
        return Queue(lowering, self)


class Queue(PrefetchedDots):
    """Prefetched dots as asynchronous ones: started before the softmax of the iteration, waited for after it."""

    def __init__(self, lowering: Lowering, dialect: Gluon) -> None:
        super().__init__(lowering)
        self.dialect = dialect

    def function(self, segments: Segments) -> FunctionContext | None:
        if not self.names:
            return None
        writer, results = self.lowering.writer, self.results()
        params = free(self.lines, {*LANGUAGES, "turn"})
        values = [param for param in params if not param.isupper()]
        constants = [param for param in params if param.isupper()]
        name = Code(f"{self.lowering.kernel.role}_scores")
        following = {result: writer.name(f"{result}_next") for result in results}
        formed = {result: writer.name(f"{result}_formed") for result in results}

        def form(turn: str) -> str:
            return f"{', '.join(formed.values())} = {name}({', '.join((*values, turn, *constants))})"

        prefetched, behind = parted(self.dialect.rings, self.lines)

        def wait(turn: str) -> list[str]:
            waits = [f"{following[result]} = warpgroup_mma_wait(0, ({formed[result]},))" for result in results]
            return [*waits, *(f"give({ring.names[2]}, {turn}, STAGES)" for ring in prefetched)]

        tile = writer.sections.tile
        place = self.behind_loads(results)
        # Behind masks of the scores themselves, before which the assembler would wait for the products.
        begin = next((i for i in range(place, len(tile)) if tile[i][1] is None), place)
        first = next((i for i, (code, _) in enumerate(tile) if " = take(" in code), len(tile))
        tile[first:first] = [(Code(line), None) for line in wait("turn + 1")]
        tile[begin:begin] = [(Code(form("turn + 1")), None)]
        tile[place:place] = [(Code(f"{result} = {following[result]}"), None) for result in results]
        tile += [(Code(f"give({ring.names[2]}, turn, STAGES)"), None) for ring in behind]
        tile.append((Code("turn += 1"), None))
        writer.sections.init += [Code(line) for line in ("turn = 0", form("turn"), *wait("turn"))]
        steps = [step for step in self.lowering.kernel.steps if step.name in self.names]
        return FunctionContext(
            name=name,
            params=(*map(Code, (*values, "turn")), *(Code(f"{param}: gl.constexpr") for param in constants)),
            title=Code("Begins the products with the tiles of a turn, counted over both walks."),
            note=tuple(part for step in steps for part in folded(str(step), WIDTH - 4)),
            body=tuple(self.lines),
            returned=Code(", ".join(results)),
        )
