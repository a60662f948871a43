"""What is lowered has its form, and each malformed program is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attngen.errors import InternalError
from attngen.ir import build
from attngen.ir.expr import Apply, Expr, Index
from attngen.tile.nodes import Let, Loop, Reduce, Select, Store, TileProgram
from attngen.tile.program_verify import verify
from tests.tile.programs import CATALOGUE, TEXTS, programs

FORWARD = next(programs("alibi_causal"))
PAIRS = next(item for item in programs("learned_bias") if item.role == "backward_pairs")


@pytest.mark.parametrize("name", (*CATALOGUE, *TEXTS))
def test_what_is_lowered_has_its_form(name: str) -> None:
    for program in programs(name):
        assert verify(program) is program


# ---- malformed programs


def loop(change: Callable[[Loop], Loop], program: TileProgram = FORWARD) -> TileProgram:
    assert program.loop is not None
    return replace(program, loop=change(program.loop))


def named(item: Any) -> tuple[str, str]:
    return getattr(item, "name", ""), getattr(item, "tensor", "")


def changed(name: str, program: TileProgram = FORWARD, **fields: Any) -> TileProgram:
    """The program with other fields of the statement, or the carried value, of that name."""

    def each(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(item, **fields) if name in named(item) else item for item in items)

    def inside(own: Loop) -> Loop:
        return replace(own, carried=each(own.carried), masks=each(own.masks), body=each(own.body))

    return loop(inside, replace(program, prologue=each(program.prologue), epilogue=each(program.epilogue)))


def without(name: str) -> TileProgram:
    """The program without the statement, or the carried value, of that name."""

    def rest(items: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(item for item in items if getattr(item, "name", "") != name)

    return loop(lambda own: replace(own, carried=rest(own.carried), masks=rest(own.masks), body=rest(own.body)))


def body(*items: Any) -> TileProgram:
    """The program with more statements at the end of the loop."""
    return loop(lambda own: replace(own, body=(*own.body, *items)))


def bounded_by(name: str) -> TileProgram:
    return loop(lambda own: replace(own, bounds=((name,) * 4,)))


def epilogue(*items: Any) -> TileProgram:
    return replace(FORWARD, epilogue=(*FORWARD.epilogue, *items))


def read(name: str, axes: str, kind: Any = "float") -> Expr:
    return build.read(name, tuple(axes), kind)


SAFE = "m_i_safe"
ROWS = ("b", "g", "r", "m")
MALFORMED: dict[str, tuple[TileProgram, str]] = {
    "twice": (body(Let("alpha", (), build.ONE)), "alpha is assigned twice"),
    "a parameter once more": (body(Let("q", (), build.ONE)), "q is assigned twice"),
    "twice in another section": (epilogue(Let("alpha", (), build.ONE)), "alpha is assigned twice"),
    "before it is assigned": (without("k_value"), "k_value is read before it is assigned"),
    "an expression before it is assigned": (without(SAFE), f"{SAFE} is read before it is assigned"),
    "behind the loop": (epilogue(Let("late", ROWS, read("alpha", "bgrm"))), "alpha is read where it is not known"),
    "a lost carried value": (without("l_i_value"), "l_i_value is read before it is assigned"),
    "a mask of numbers": (changed("valid", kind="float", body=build.apply("to_float", Index("m"))), "any of float values"),
    "a select by numbers": (changed("x_seen", mask="x_value"), "x_value is float, and a mask bool"),
    "tiles visited by numbers": (
        loop(lambda own: replace(own, masks=(*own.masks, Let("number", (), build.ONE)), visited="number")),
        "number is float, and a mask bool",
    ),
    "tiles visited by no mask": (loop(lambda own: replace(own, visited="alpha")), "none of the masks"),
    "a bound that is not known": (
        loop(lambda own: replace(own, bounds=(("late",) * 4,))),
        "late bounds the loop, and is not known before it",
    ),
    "a bound of rows": (
        loop(lambda own: replace(own, bounds=(("q_value",) * 4,))),
        "q_value bounds the loop, and is not one integer a tile",
    ),
    "a dot over an axis of one operand": (changed("s_value", over=("m",)), "the sum has m, which the axes of k_value lack"),
    "a dot with too few axes": (changed("s_value", axes=("b", "g", "r", "m")), "the axes of operands make b, g, m, n, r"),
    "a dot that adds more": (changed("acc_value_new", add="w_value"), "w_value has n, which the axes of the statement lack"),
    "a dot of truth": (changed("s_value", left="q_value", right="valid"), "FULL tiles do not have"),
    "a reduction over an axis that is none": (changed("m_i_peak", over=("d",)), "the reduction has d, which the axes of x_seen lack"),
    "a reduction that keeps its axis": (changed("m_i_peak", axes=("b", "g", "r", "m", "n")), "the axes of operands make b, g, m, r"),
    "any of numbers": (changed("m_i_peak", op="any"), "any of float values"),
    "a maximum of truth": (changed("seen", op="max"), "max of bool values"),
    "an expression of another axis": (changed(SAFE, axes=("b", "g", "r")), "has m, which the axes of the statement lack"),
    "a value read elsewhere": (changed(SAFE, body=read("m_i_new", "bgrn")), r"m_i_new\[b,g,r,n\] is not at the axes of m_i_new"),
    "a value of another kind": (changed(SAFE, kind="int"), "a value is float, and stands as int"),
    "a tensor in an expression": (changed(SAFE, body=read("q", "bgrm")), "q is a tensor, and not loaded"),
    "a load of an output": (changed("v_value", tensor="o"), "o is no tensor of the inputs"),
    "a load of too few dimensions": (changed("v_value", at=(Index("b"),)), "v has 4 dimensions"),
    "a load at fractions": (changed("slopes_value", at=(Apply("to_float", (Index("g"),)),)), "is no integer"),
    "a load of other axes": (changed("v_value", axes=("b", "g", "r", "n", "e")), "the axes of operands make b, e, g, n"),
    "a select of other axes": (changed("x_seen", axes=("m", "n")), "the axes of operands make b, g, m, n, r"),
    "a mask in an expression": (body(Let("t", ("m", "n"), build.apply("to_float", read("valid", "mn", "bool")))), "FULL tiles do not have"),
    "a mask that is reduced": (body(Reduce("t", ("m",), "any", "valid", ("n",), "bool")), "FULL tiles do not have"),
    "a mask that is selected": (body(Select("t", ("m", "n"), "valid", "valid", 0.0, "bool")), "FULL tiles do not have"),
    "a mask that writes": (loop(lambda own: replace(own, masks=(*own.masks, Store("lse", ROWS, "m_i")))), "a mask is a value"),
    "a next that is none": (changed("m_i", next="m_i"), "the next m_i, is not assigned in the body"),
    "a next of a mask": (changed("m_i", next="seen"), "the next m_i, is not assigned in the body"),
    "a next of other axes": (changed("m_i", next="w_value"), "w_value has n, which the axes of the statement lack"),
    "carried along the loop": (changed("m_i", axes=("b", "g", "r", "m", "n")), "does not vary along n"),
    "a value along the loop behind it": (epilogue(Let("late", ("n",), build.apply("to_float", Index("n")))), "does not vary along n"),
    "an output that is none": (changed("lse", tensor="lse_2"), "lse_2 is no output"),
    "an input as an output": (changed("lse", tensor="q"), "q is no output"),
    "an output that is lost": (replace(FORWARD, epilogue=FORWARD.epilogue[:-1]), "the output lse is never written"),
    "an output stored twice": (epilogue(FORWARD.epilogue[-1]), "lse is stored twice"),
    "an output of other axes": (changed("lse", axes=("b", "g", "r")), "lse_value has m, which the axes of the statement lack"),
    "a parameter stored": (changed("lse", value="q"), "q is a parameter, and no value"),
    "an axis twice": (changed(SAFE, axes=("b", "g", "r", "m", "m")), "has an axis twice"),
    "a scatter to nothing": (changed("dbias", PAIRS, target="bias_2"), "bias_2 is no tensor of the inputs"),
    "a scatter by numbers": (changed("dbias", PAIRS, mask="s_value"), "s_value is float, and a mask bool"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_programs_are_told(name: str) -> None:
    program, message = MALFORMED[name]
    with pytest.raises(InternalError, match=message) as told:
        verify(program)
    assert f"in the tile program {program.role}" in str(told.value)
