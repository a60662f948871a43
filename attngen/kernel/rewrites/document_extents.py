"""Document extents: where equal captured values lie, computed once per call in O(N), so that a document mask has tile bounds.

    doc[m] == doc[n]     visited:  first_doc[m] <= n < last_doc[m]        full:  first_doc[m] <= n < run_doc[m]

`first` and `last` enclose all keys with the row's value, in whatever order values come; `run` is the end of the enclosed keys if all have
the value, else their beginning. The may-mask and the must-mask for bounds are in these terms. The mask itself is unchanged, except that two
values of one tensor are compared by their last occurrence, which takes half of the bits. Such an equality is substituted in the other
conjuncts, so that positions within documents cancel: `m - start[doc[m]] >= n - start[doc[n]]` becomes `m >= n`.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.analysis.intervals import Axes, is_uniform
from attngen.analysis.kv_ranges import related
from attngen.ir import build
from attngen.ir.cascade import Input
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.traverse import free_axes, rewrite
from attngen.kernel.partition import DocumentExtents, Kernel


def with_document_extents(kernel: Kernel) -> Kernel:
    """Takes and gives a kernel; its `extent_masks` may now read document extents, which become inputs."""
    if kernel.streamed is None or kernel.may_mask is None:
        return kernel
    finder = _Finder(kernel, Axes(kernel.streamed, kernel.resident))
    extent_masks = finder.bound(kernel.may_mask, "last"), None if kernel.must_mask is None else finder.bound(kernel.must_mask, "run")
    if not finder.found:
        return kernel
    inputs = tuple(Input(name, None, extents.rank, "int") for extents in finder.found.values() for name in extents.names)
    may_mask, must_mask = (None if part is None else rewrite(part, finder.by_place) for part in (kernel.may_mask, kernel.must_mask))
    steps = tuple(step if step.where is None else replace(step, where=rewrite(step.where, finder.by_place)) for step in kernel.steps)
    known = replace(kernel, may_mask=may_mask, must_mask=must_mask, steps=steps)
    return replace(known, extent_masks=extent_masks, inputs=(*kernel.inputs, *inputs), document_extents=tuple(finder.found.values()))


class _Finder:
    """Replaces equalities of captured values, except under a negation."""

    def __init__(self, kernel: Kernel, axes: Axes) -> None:
        self.axes = axes
        self.ranks = {item.name: item.rank for item in kernel.inputs if item.kind == "int" and item.axes is None}
        self.taken = {item.name for item in kernel.inputs}
        self.found: dict[tuple[str, str], DocumentExtents] = {}

    def bound(self, predicate: Expr, end: str) -> Expr:
        match predicate:
            case Apply(op="and"):
                parts = build.conjuncts(predicate)
                if not any(self.sides(part) for part in parts):
                    return build.both(*(self.bound(part, end) for part in parts)) or build.TRUE
                return build.both(*(self.bound(part, end) for part in related(parts, self.axes))) or build.TRUE
            case Apply(op="or", args=(a, b)):
                return build.apply("or", self.bound(a, end), self.bound(b, end))
            case _:
                sides = self.sides(predicate)
                return predicate if sides is None else self.enclosed(*sides, end)

    def by_place(self, node: Expr) -> Expr | None:
        """An equality of two values of one tensor as one of their last occurrences."""
        sides = self.sides(node)
        extents = None if sides is None else self.found.get((sides[0].tensor, sides[1].tensor))
        if sides is None or extents is None or extents.values != extents.keys:
            return None
        row, key = (Read(extents.last, side.at, "int") for side in sides)
        return build.apply("eq", row, key)

    def enclosed(self, row: Read, key: Read, end: str) -> Expr:
        extents = self.extents(row, key)
        n, first = Index(self.axes.stream), Read(extents.first, row.at, "int")
        until = Read(extents.last if end == "last" else extents.run, row.at, "int")
        return build.apply("and", build.apply("ge", n, first), build.apply("lt", n, until))

    def sides(self, predicate: Expr) -> tuple[Read, Read] | None:
        """The row's and the key's value of an equality of captured integers, the key's indexed by its position."""
        if isinstance(predicate, Apply) and predicate.op == "eq":
            for row, key in (predicate.args, predicate.args[::-1]):
                if isinstance(row, Read) and isinstance(key, Read) and self.is_row(row) and self.is_key(key, row):
                    return row, key
        return None

    def is_row(self, read: Read) -> bool:
        return read.tensor in self.ranks and self.axes.resident in free_axes(read) and self.axes.stream not in free_axes(read)

    def is_key(self, read: Read, row: Read) -> bool:
        """Whether a read is along the loop axis in its last dimension and like the row's in the others, which are uniform."""
        if read.tensor not in self.ranks or not read.at or len(read.at) != len(row.at):
            return False
        before = read.at[:-1]
        return read.at[-1] == Index(self.axes.stream) and before == row.at[:-1] and all(is_uniform(at, self.axes) for at in before)

    def extents(self, row: Read, key: Read) -> DocumentExtents:
        pair = (row.tensor, key.tensor)
        if pair not in self.found:
            stem = row.tensor if row.tensor == key.tensor else f"{row.tensor}_in_{key.tensor}"
            first, last, run = (self.fresh(f"{which}_of_{stem}") for which in ("first", "last", "run"))
            self.found[pair] = DocumentExtents(row.tensor, key.tensor, first, last, run, self.ranks[row.tensor])
        return self.found[pair]

    def fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name
