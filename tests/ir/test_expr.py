from __future__ import annotations

import copy
import pickle

import pytest

from attngen.ir import build
from attngen.ir.expr import Apply, Const, Expr, Index, Read, kind_of


def chain(steps: int) -> Expr:
    """A value that is used twice, again and again: 2 ** steps reads in the text."""
    x: Expr = build.read("a", ("m",))
    for _ in range(steps):
        x = Apply("mul", (x, Apply("sigmoid", (x,))))
    return x


def test_equal_dags_are_equal_whatever_they_share() -> None:
    assert chain(60) == chain(60)
    assert hash(chain(60)) == hash(chain(60))
    assert chain(60) != chain(61)
    assert len({chain(60), chain(60), chain(59)}) == 2


def test_positions_are_compared_once_a_node() -> None:
    def gather(steps: int) -> Expr:
        at: Expr = Index("m")
        for _ in range(steps):
            at = Apply("add", (at, Read("t", (at,), "int")))
        return Read("a", (at,))

    assert Apply("exp", (gather(60),)) == Apply("exp", (gather(60),))


def test_a_copy_has_the_hash_of_its_process() -> None:
    for copied in (pickle.loads(pickle.dumps(chain(5))), copy.deepcopy(chain(5))):
        assert copied == chain(5)
        assert hash(copied) == hash(chain(5))
    assert b"_hash" not in pickle.dumps(chain(5))


@pytest.mark.parametrize(
    ("expr", "kind"),
    [
        (chain(60), "float"),
        (Apply("add", (Index("m"), Const(True, "bool"))), "int"),
        (Apply("where", (Const(True, "bool"), Const(True, "bool"), Const(False, "bool"))), "bool"),
        (Apply("where", (Const(True, "bool"), Index("m"), build.ONE)), "float"),
        (Apply("lt", (Index("m"), build.ONE)), "bool"),
    ],
)
def test_kinds(expr: Expr, kind: str) -> None:
    assert kind_of(expr) == kind
