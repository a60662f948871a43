"""Truth tiles of masks: which pairs of a tile exist.

    m >= n and n < len_n        until_n = tl.minimum(offs_m + 1, len_n)
                                valid = range_n[None, :] < (until_n - start_n)[:, None]

Comparisons are solved for the position in the streamed tile: what a row compares it with is computed once a row, not once a pair, and the
end of the axis comes with it. What has no such form stays as the user wrote it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from attngen.analysis.affine import smallest
from attngen.analysis.intervals import ZERO, Interval
from attngen.analysis.kv_ranges import solved
from attngen.emit.identifiers import Code
from attngen.emit.loop_bounds import large, unclipped
from attngen.emit.placement import Stage, Value
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Extent, Index, Read, kind_of
from attngen.ir.traverse import free_axes, reads, rewrite
from attngen.kernel.masked_out import keys_resident, projected_mask, row_count

if TYPE_CHECKING:
    from attngen.emit.lower import Lowering


class Masks:
    """The masks of one kernel, each defined on first use and only in tiles under masks, and what is read as 0 outside of them."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.names: dict[Expr | None, Code] = {}
        self.limits: dict[tuple[str, Expr], str] = {}
        self.ends: dict[Expr, Code] = {}
        self.alive: dict[tuple[Expr | None, str], Code] = {}

    def valid(self, predicate: Expr | None) -> Code:
        """The name of the truth tile of a predicate within the bounds of the axes."""
        writer = self.lowering.writer
        if predicate not in self.names:
            name = self.names[predicate] = writer.name("valid")
            before, writer.partial, writer.stage = (writer.partial, writer.stage), True, Stage.TILE
            terms, left = self.terms(predicate)
            whole = [*terms, *([] if left is None else [writer.printer.code(left, self.lowering.pair)])]
            line = f"{name} = {' & '.join(_operand(term) for term in whole) if len(whole) > 1 else whole[0]}"
            if writer.fits(line):
                writer.put(line)
            else:
                if left is not None:
                    writer.assign(name, left, self.lowering.pair, Stage.TILE)
                for i, term in enumerate(terms):
                    writer.put(f"{name} = {name} & {_operand(term)}" if i or left is not None else f"{name} = {term}")
            writer.partial, writer.stage = before
        return self.names[predicate]

    def kept(self, predicate: Expr, axis: str, stage: Stage) -> Code:
        """The name of what is asked of positions along one axis by themselves; as early as `stage`, within a turn under masks only."""
        writer = self.lowering.writer
        key = Apply("to_bool", (predicate,)), stage == Stage.TILE
        if key not in writer.known:
            before, writer.partial = writer.partial, stage == Stage.TILE
            name = writer.name(f"kept_{axis}")
            writer.assign(name, predicate, (axis,), stage)
            writer.known[key], writer.partial = Value(name, (axis,), stage), before
        return writer.known[key].code

    def end(self, bound: Expr) -> Code:
        """The name of a number of rows, at least one: a matrix without any has no descriptor, and nobody asks for its tiles."""
        writer, stream = self.lowering.writer, self.lowering.pair[1]
        if bound not in self.ends:
            wide, length = rewrite(unclipped(bound), self.wide), writer.length(stream)
            text = f"tl.minimum({length}, {writer.printer.code(bound, ())})"
            if wide != unclipped(bound):
                writer.use("position")
                text = f"position({writer.printer.code(wide, ())}, {length})"
            self.ends[bound] = writer.name(f"end_{stream}")
            writer.put(f"{self.ends[bound]} = tl.cast(tl.maximum({text}, 1), tl.int32)", Stage.PROLOGUE)
        return self.ends[bound]

    def seen(self, predicate: Expr | None, axis: str) -> Code:
        """The name of which positions along one axis have a pair in the tile."""
        writer, key = self.lowering.writer, (predicate, axis)
        if key not in self.alive:
            resident, stream = self.lowering.pair
            other = resident if axis == stream else stream
            inside = writer.printer.broadcast(f"ok_{other}", (other,), (resident, stream))
            valid, name = self.valid(predicate), writer.name(f"seen_{axis}")
            self.alive[key] = name
            self.lowering.under_masks(f"{name} = tl.max(({valid} & {inside}).to(tl.int32), {0 if axis == stream else 1}) != 0")
        return self.alive[key]

    def clear(self, read: Read, value: Value) -> None:
        """Set an input that was loaded to 0 where nobody needs it and its memory may hold anything: once, or in tiles under masks."""
        writer, zeros = self.lowering.writer, self.lowering.zeros
        if kind_of(read) != "float":
            return
        if read.tensor in zeros.cleared and not (value.tiled and self.end_of(read) is not None):
            self.zero_outside(zeros.cleared[read.tensor], value)
        alive = zeros.quieted.get(read.tensor)
        if alive is not None and not self.lowering.kernel.seeing:
            before, writer.partial = writer.partial, False
            for statistic in reads(alive):  # which weights are measured from, in every tile
                writer.loads.load(statistic)
            writer.partial = before
            self.zero_outside(alive, value)
        elif alive is not None:
            with writer.only_if("SILENT"):
                self.zero_outside(alive, value)

    def end_of(self, read: Read) -> Code | None:
        """A number of rows behind which a matrix that streams counts for nothing, if that clears it."""
        kept = self.lowering.zeros.cleared.get(read.tensor)
        bound = None if kept is None else row_count(self.lowering.kernel, kept)
        return None if bound is None else self.end(bound)

    def zero_outside(self, kept: Expr, value: Value) -> None:
        """Set a loaded value to 0 where a predicate along one axis fails."""
        writer = self.lowering.writer
        axis, stage = next(axis for axis in self.lowering.pair if axis in free_axes(kept)), max(value.stage, writer.stage_of(kept))
        if axis in value.layout:
            lifted = writer.printer.broadcast(self.kept(kept, axis, stage), (axis,), value.layout)
            before, writer.partial = writer.partial, writer.partial or stage == Stage.TILE
            writer.put(f"{value.code} = tl.where({lifted}, {value.code}, 0.0)", stage)
            writer.partial = before

    def stored_outside(self, name: str, part: Read, value: Value) -> None:
        """Set a gradient of keys to 0 before it is stored, where no row sees the key and what is left to compute may be no number."""
        kernel, writer = self.lowering.kernel, self.lowering.writer
        axis = kernel.resident
        kept = projected_mask(kernel, axis) if keys_resident(kernel) and name not in kernel.atomic_adds else None
        if kept is not None and not self.lowering.zeros.is_settled(part, axis) and part.tensor in self.lowering.by_name:
            lifted = writer.printer.broadcast(self.kept(kept, axis, Stage.PROLOGUE), (axis,), value.layout)
            writer.put(f"{value.code} = tl.where({lifted}, {value.code}, 0.0)", Stage.EPILOGUE)

    def terms(self, predicate: Expr | None) -> tuple[list[str], Expr | None]:
        """Comparisons with limits of rows, or that the tile has such positions, and the part of a predicate that is left."""
        resident, stream = self.lowering.pair
        end = Extent(stream)
        span, parts = (Interval(ZERO, end), ()) if predicate is None else solved(predicate, stream)
        hi = smallest(span.hi, end, resident)
        terms: list[str] = []
        if hi != end:
            terms.append(self.compared("<", self.limit("until", hi)))
        elif not any(map(self.is_by_place, parts)):
            terms.append(f"ok_{stream}[None, :]")
        if span.lo != ZERO:
            terms.append(self.compared(">=", self.limit("from", span.lo)))
        # Where something is summed over the axis that stays, rows beyond its end count for nothing.
        terms += [f"ok_{resident}[:, None]"] if self.lowering.atomic_adds else []
        return terms, build.both(*parts)

    def compared(self, sign: Literal["<", ">="], limit: str) -> str:
        """Positions in the streamed tile against a limit."""
        writer, positions = self.lowering.writer, f"range_{self.lowering.pair[1]}[None, :]"
        return writer.dialect.compared(writer, (positions, limit), sign, prefetched=bool(self.lowering.prefetched.names))

    def is_by_place(self, part: Expr) -> bool:
        """Whether a part compares where captured values last occur, at positions that are checked: no row has the 0 that is loaded for what
        lies beyond the end of the axis."""
        places = {runs.last for runs in self.lowering.kernel.document_extents}
        if not (isinstance(part, Apply) and part.op == "eq"):
            return False
        return all(isinstance(arg, Read) and arg.tensor in places and all(isinstance(at, Index) for at in arg.at) for arg in part.args)

    def limit(self, which: str, bound: Expr) -> str:
        """A bound of rows, measured from the start of the tile."""
        writer, (resident, stream) = self.lowering.writer, self.lowering.pair
        layout = writer.layout(bound)
        if (which, bound) not in self.limits:
            simple = not isinstance(bound, Apply) and large(writer, bound) is None
            self.limits[which, bound] = writer.printer.operand(bound, layout, 10) if simple else self.named(which, bound)
        text = f"({self.limits[which, bound]} - start_{stream})"
        return writer.printer.broadcast(text, layout, (resident, stream)) if layout else text

    def named(self, which: str, bound: Expr) -> Code:
        """A name for a computed bound, where tiles are under masks: the compiler moves it before that walk, and not before the one over
        full tiles, whose registers it would take. Numbers of the user's may be of any size."""
        writer, stream = self.lowering.writer, self.lowering.pair[1]
        name, layout = writer.name(f"{which}_{stream}"), writer.layout(bound)
        wide = rewrite(unclipped(bound), self.wide)
        if wide == unclipped(bound):
            writer.assign(name, bound, layout, Stage.TILE)
        else:
            writer.use("position")
            writer.put(f"{name} = position({writer.printer.code(wide, layout)}, {writer.length(stream)})")
        return name

    def wide(self, node: Expr) -> Expr | None:
        """A captured number, or a large one, in 64 bits."""
        if not isinstance(node, Read) or node.kind != "int":
            return large(self.lowering.writer, node)
        writer = self.lowering.writer
        code, layout = writer.leaf(node)
        writer.use("wide")
        # No step has a name with a space.
        writer.steps[f"wide {code}"] = Value(Code(f"wide({code})"), layout, writer.stage_of(node))
        return Read(f"wide {code}", tuple(Index(axis) for axis in layout), "int")


def _operand(term: str) -> str:
    """A truth tile as an operand of `&`, which binds more tightly than comparisons."""
    return term if re.fullmatch(r"~?(\w+|\w+\[[^\]]*\]|below\(.*\))", term) else f"({term})"
