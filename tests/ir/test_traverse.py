from __future__ import annotations

from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index, Read
from attngen.ir.parser import parse
from attngen.ir.traverse import extents, free_axes, inline, live_steps, map_steps, names_read, reads, rewrite, step_reads, walk

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
