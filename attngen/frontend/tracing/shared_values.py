"""Which values of a user's function get a step of their own since it uses them more than once.

    for _ in range(20):                       x2[m,n] = x[m,n] * sigmoid(x[m,n])
        x = x * torch.sigmoid(x)      ->      x3[m,n] = x2[m,n] * sigmoid(x2[m,n])    and so on

A traced value is a DAG. A step is text, in which a value that is used twice stands twice: the text of n such lines is 2 ** n long. So a
body that would be long is split at the values that it shares; a short one stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.traverse import LONG, children, free_axes, once_a_node, walk, with_children


def shared_values(body: Expr, named: Mapping[Expr, Expr], captured: Callable[[str], bool]) -> tuple[Expr, ...]:
    """The values that a long body uses more than once, parts before what holds them.

    A value of positions and captures alone is not among them unless it is long itself, or part of such a one: analyses of masks and
    biases read it in place.

    Args:
        body: with nothing replaced yet.
        named: values that are steps already.
        captured: whether a name is that of a captured input.
    """
    lengths: dict[Expr, int] = {}
    computed: set[Expr] = set()
    uses: Counter[Expr] = Counter()

    def visit(node: Expr) -> int:
        uses[node] += 1
        if node not in lengths:
            inner = () if node in named or not isinstance(node, Apply) else node.args
            lengths[node] = (1 if inner else 0) + sum(visit(arg) for arg in inner)
            if node in named or (isinstance(node, Read) and not captured(node.tensor)) or any(arg in computed for arg in inner):
                computed.add(node)
        return lengths[node]

    if visit(body) <= LONG:
        return ()
    floats = [node for node in lengths if uses[node] > 1 and isinstance(node, Apply) and node.kind == "float" and node not in named]
    inside = {part for node in floats if node not in computed and lengths[node] > LONG for part in walk(node)}
    return tuple(node for node in floats if (node in computed and free_axes(node)) or node in inside)


def replace_parts(expr: Expr, table: Mapping[Expr, Expr]) -> Expr:
    """The expression with the largest parts found in the table replaced."""

    def replaced(node: Expr, visit: Callable[[Expr], Expr]) -> Expr:
        found = table.get(node)
        return with_children(node, tuple(visit(child) for child in children(node))) if found is None else found

    return once_a_node(replaced)(expr)
