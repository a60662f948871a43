"""Whether the whole numbers of a call stay within the integers that kernels compute with.

Positions and lengths are 32 bits wide. A captured number widens what it is part of to 64 bits once it does not fit 32 itself; just below
that, a sum or a product of it would wrap around, in Triton as in PyTorch, and a mask would quietly be another one. Intervals over the
lengths of a call tell before the launch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from attngen.analysis.value_ranges import value_range
from attngen.errors import ArgumentError
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Apply, Const, Expr, Extent, Index, kind_of
from attngen.ir.printer import print_expr
from attngen.ir.traverse import walk

_Interval = tuple[float, float]
_GROWING = frozenset(("add", "sub", "mul", "neg", "abs"))
_MOST = 64
"""Numbers and lengths that are remembered at once."""


class WholeNumbers:
    """The sums and products of whole numbers of a cascade; calls with equal numbers and lengths are checked once."""

    def __init__(self, cascade: Cascade) -> None:
        self._growing = tuple(
            (node, step)
            for step in cascade.steps
            for node in (*walk(step.body), *(walk(step.where) if step.where is not None else ()))
            if isinstance(node, Apply) and node.op in _GROWING and kind_of(node) == "int"
        )
        self._passed: set[tuple[object, ...]] = set()

    def check(self, captures: Mapping[str, object], extents: Mapping[str, int]) -> None:
        """Refuse a call in which arithmetic with whole numbers can leave its type.

        Args:
            captures: values by name; of tensors nothing is known here.
            extents: lengths of the axes.

        Raises:
            ArgumentError: naming the expression, its largest value and the line.
        """
        if not self._growing:
            return
        numbers = tuple((name, value) for name, value in captures.items() if type(value) is int)
        key = (numbers, tuple(extents.items()))
        if key in self._passed:
            return
        known: dict[Expr, _Interval] = {build.read(name, (), "int"): (value, value) for name, value in numbers}
        known.update({Index(axis): (0, max(length - 1, 0)) for axis, length in extents.items()})
        known.update({Extent(axis): (length, length) for axis, length in extents.items()})
        for node, step in self._growing:
            _check(node, step, known)
        if len(self._passed) >= _MOST:
            self._passed.clear()
        self._passed.add(key)


def _check(node: Apply, step: Einsum, known: Mapping[Expr, _Interval]) -> None:
    found = value_range(node, known)
    leaves = tuple(dict.fromkeys(leaf for leaf in walk(node) if leaf in known or isinstance(leaf, Const)))
    bits = 64 if any(_is_wide(leaf, known) for leaf in leaves) else 32
    if any(map(math.isinf, found)) or -(2 ** (bits - 1)) <= found[0] <= found[1] < 2 ** (bits - 1):
        return
    given = ", ".join(f"{print_expr(leaf)} = {int(known[leaf][0])}" for leaf in leaves if not isinstance(leaf, Const | Index))
    raise ArgumentError(
        f"{print_expr(node)} reaches {int(max(found, key=abs))}{f' at {given}' if given else ''}, beyond {bits} bits",
        loc=step.loc,
        remedy="Take a smaller number, or compare differences of positions with it.",
    )


def _is_wide(leaf: Expr, known: Mapping[Expr, _Interval]) -> bool:
    """Whether a number needs 64 bits by itself."""
    value = leaf.value if isinstance(leaf, Const) else known[leaf][0]
    return not -(2**31) <= value < 2**31
