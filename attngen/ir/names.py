"""Names inside one cascade: fresh ones, `w`, then `w2`, `w3`, and what messages call the values that it reads."""

from __future__ import annotations

from collections.abc import Iterable

from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr, Index, Read
from attngen.ir.printer import print_expr
from attngen.ir.traverse import rewrite, walk


class Names:
    """The names taken in a cascade, axes included, for one pass that adds steps."""

    def __init__(self, cascade: Cascade) -> None:
        self.taken = {item.name for item in cascade.inputs} | {step.name for step in cascade.steps}
        for step in cascade.steps:
            self.taken |= set(step.axes) | set(step.over)
            self.taken |= {node.axis for node in walk(step.body) if isinstance(node, Index)}

    def fresh(self, base: str) -> str:
        """`base`, or `base` with the first number that makes it unique."""
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}{number}", number + 1
        self.taken.add(name)
        return name


def spell(expr: Expr, steps: Iterable[Einsum]) -> str:
    """The text of an expression for a message: steps by what the user calls them, and those that are computed on the way in full."""
    known = {step.name: step for step in steps}

    def rule(node: Expr) -> Expr | None:
        step = known.get(node.tensor) if isinstance(node, Read) else None
        if step is None or not isinstance(node, Read) or step.called == step.name:
            return None
        if step.reduce is None and not step.called.isidentifier():
            return rewrite(step.body, rule)
        return Read(step.called, node.at, node.kind)

    return print_expr(rewrite(expr, rule))
