"""One walk computes what two do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Read
from attngen.kernel.fused_backward import fused
from attngen.kernel.kernel import Kernel
from tests import variants
from tests.kernel.computed import Values, close, computed, drawn, kernels, program
from tests.transform import more_variants

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}
STREAMS = ("backward_statistics", "backward_rows", "backward_columns", "backward_fused", "backward_finish", "backward_pairs")


def backward(found: tuple[Kernel, ...]) -> dict[str, object]:
    """What the kernels of a backward store in turn, from drawn values of what they read."""
    known: Values = {}
    stored: dict[str, object] = {}
    for kernel in found:
        if kernel.role.startswith("backward"):
            known = {**drawn(kernel.inputs), **known}
            mine = computed(kernel, known)
            known = {**known, **mine}
            stored |= mine
    return stored


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.slow
def test_one_walk_computes_what_two_do(name: str) -> None:
    parts = program(TEXTS[name]).parts
    one = fused(parts)
    if not one.kernels:
        assert one.refused or not any(kernel.role == "backward_rows" for kernel in parts)
        return
    truth, found = backward(parts), backward(one.kernels)
    assert truth.keys() <= found.keys()
    close({key: found[key] for key in truth}, truth)  # type: ignore[arg-type]


def test_scores_are_formed_once() -> None:
    """The kernel of both holds each step of the two once: five products a tile in place of seven."""
    two, one = kernels(variants.SOFTMAX), {kernel.role: kernel for kernel in fused(program(variants.SOFTMAX).parts).kernels}
    assert set(one) == {"forward", "backward_prepare", "backward_fused", "backward_finish"}

    def products(kernel: Kernel) -> int:
        features = set(kernel.features)
        return sum(step.reduce == "sum" and bool(features & {*step.axes, *step.over}) for step in kernel.steps)

    assert products(two["backward_rows"]) + products(two["backward_columns"]) == 7
    assert products(one["backward_fused"]) == 5


def test_what_is_left_to_do_with_a_whole_sum() -> None:
    (finish,) = (kernel for kernel in fused(program(variants.SOFTMAX).parts).kernels if kernel.role == "backward_finish")
    (step,) = finish.steps
    assert isinstance(step.body, Read) or str(step).endswith("* 0.25")
    assert (finish.resident, finish.streamed) == ("m", None)
    assert finish.outputs == ("dq",)


def obstacle(change: Kernel) -> str:
    """Why a kernel of rows keeps its own walk."""
    parts = tuple(change if kernel.role == change.role else kernel for kernel in program(variants.SOFTMAX).parts)
    found = fused(parts)
    assert found.kernels == ()
    (reason,) = found.refused
    return reason


def test_why_not() -> None:
    rows = kernels(variants.SOFTMAX)["backward_rows"]
    total = next(step for step in rows.steps if "n" in step.over)
    peak = replace(rows, steps=tuple(replace(step, reduce="max") if step is total else step for step in rows.steps))
    assert obstacle(peak) == f"backward_rows: {total.name} is not a sum"
    extra = Einsum("extra", ("b", "g", "r", "m"), rows.steps[0].body, "sum", ("d",))
    own = replace(rows, steps=(extra, *rows.steps), outputs=(*rows.outputs, "extra"))
    assert obstacle(own) == "backward_rows: it stores a value that is not a sum"
    wide = replace(rows, steps=tuple(replace(step, over=(*step.over, "d")) if step is total else step for step in rows.steps))
    assert obstacle(wide) == f"backward_rows: {total.name} sums over features"
    alone = tuple(kernel for kernel in program(variants.SOFTMAX).parts if kernel.role != "backward_columns")
    assert fused(alone).refused == ("backward_rows: no kernel loops over the same tiles along the other axis",)
