from __future__ import annotations

from collections.abc import Callable

from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.parser import parse
from attngen.ir.traverse import (
    extents,
    free_axes,
    inline,
    live_steps,
    map_steps,
    names_read,
    occurrences,
    once_a_node,
    reads,
    rewrite,
    step_reads,
    walk,
)

TEXT = """
cascade(a[m,n], c[n]; t: float[:])
  x[m,n] = a[m,n] * t[n + 1] + a[m,n]  if m >= n and c[n] > 0.0
  y[m] = sum[n] x[m,n] * to_float(extent(d))
  dead[m] = y[m] * 2.0
  -> y
"""
CASCADE = parse(TEXT)
X, Y, _ = CASCADE.steps


def test_parents_come_before_children() -> None:
    nodes = list(walk(X.body))
    assert nodes[0] == X.body
    assert nodes.index(Read("t", (Apply("add", (Index("n"), build.const(1))),))) < nodes.index(build.const(1))


def test_reads_are_listed_once_in_order() -> None:
    assert names_read(X.body) == ("a", "t")
    assert step_reads(X) == ("a", "t", "c")
    assert len(reads(X.body)) == 2
    assert reads(None) == ()


def test_free_axes_and_extents() -> None:
    assert free_axes(X.body) == ("m", "n")
    assert extents(Y.body) == ("d",)
    assert free_axes(None) == extents(None) == ()


def test_rewrite_shares_what_it_leaves() -> None:
    assert rewrite(X.body, lambda node: None) is X.body

    def rename(node: Expr) -> Expr | None:
        return Index("z") if node == Index("n") else None

    assert free_axes(rewrite(X.body, rename)) == ("m", "z")


def test_inline_replaces_nested_reads() -> None:
    bodies = {"y": Read("x", (Index("m"),)), "x": Read("a", (Index("m"),))}
    assert inline(Apply("exp", (Read("y", (Index("m"),)),)), bodies) == Apply("exp", (Read("a", (Index("m"),)),))


def test_dead_steps_are_not_live() -> None:
    assert [step.name for step in live_steps(CASCADE)] == ["x", "y"]
    assert [step.name for step in live_steps(CASCADE, ("x",))] == ["x"]


def test_map_steps_keeps_inputs_and_outputs() -> None:
    assert map_steps(CASCADE, lambda step: step) == CASCADE


STEPS = 60
"""So many steps of a value that is used twice: as a tree it would have 2 ** 60 leaves."""


def chain() -> Expr:
    x: Expr = build.read("a", ("m",))
    for _ in range(STEPS):
        x = Apply("mul", (x, Apply("sigmoid", (x,))))
    return x


def test_each_node_is_walked_once() -> None:
    nodes = list(walk(chain()))
    assert len(nodes) == len(set(nodes)) == 2 * STEPS + 2
    assert free_axes(chain()) == ("m",)
    assert names_read(chain()) == ("a",)


def test_each_node_is_rewritten_once() -> None:
    seen: list[Expr] = []

    def rule(node: Expr) -> Expr | None:
        seen.append(node)
        return Read("c", node.at) if isinstance(node, Read) else None

    assert names_read(rewrite(chain(), rule)) == ("c",)
    assert len(seen) == 2 * STEPS + 2


def test_occurrences_are_those_of_the_text() -> None:
    assert occurrences(chain())[build.read("a", ("m",))] == 2**STEPS
    a = build.read("a", ("m",))
    assert occurrences(Apply("add", (a, Apply("add", (build.read("a", ("m",)), a)))))[a] == 3


def test_a_recursive_function_is_applied_once_a_node() -> None:
    applied = 0

    def depth(node: Expr, visit: Callable[[Expr], int]) -> int:
        nonlocal applied
        applied += 1
        return 1 + max(map(visit, node.args)) if isinstance(node, Apply) else 0

    assert once_a_node(depth)(chain()) == 2 * STEPS
    assert applied == 2 * STEPS + 1


def test_inlined_steps_are_shared() -> None:
    bodies = {f"y{i + 1}": Apply("mul", (build.read(f"y{i}", ("m",)), build.read(f"y{i}", ("m",)))) for i in range(STEPS)}
    nodes = len(list(walk(inline(build.read(f"y{STEPS}", ("m",)), bodies))))
    assert nodes == STEPS + 4  # with two reads of y0 and the position of each
