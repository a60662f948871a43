"""Fresh names inside one cascade: `w`, then `w2`, `w3`."""

from __future__ import annotations

from attngen.ir.cascade import Cascade
from attngen.ir.expr import Index
from attngen.ir.traverse import walk


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
