"""Which steps run in which kernel, and what each needs of masks."""

from __future__ import annotations

import pytest
import torch

from attngen.errors import UnsupportedError
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.kernel.kernel import Kernel
from attngen.kernel.partition import addends, contributing, dots_to_zero, readers_of, with_tile_masks
from attngen.pipeline import analyse
from tests import variants
from tests.kernel.computed import close, computed, drawn, kernels, program
from tests.transform import more_variants

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}
STORED = {
    "softmax": {"forward": "o lse", "backward_prepare": "dl_i lse_safe", "backward_rows": "dq", "backward_columns": "dk dv"},
    "sigmoid": {"forward": "o", "backward_rows": "dq", "backward_columns": "dk dv"},
    "relu": {"forward": "o l", "backward_statistics": "dl", "backward_rows": "dq", "backward_columns": "dk dv"},
    "gate": {
        "forward": "z lse o",
        "backward_prepare": "dl_i dgate lse_safe",
        "backward_rows": "dq",
        "backward_columns": "dk dv",
    },
    "learned_bias": {
        "forward": "o lse",
        "backward_statistics": "dl_i",
        "backward_rows": "dq drow dtemp",
        "backward_columns": "dk dv dcol",
        "backward_pairs": "dbias",
        "backward_pairs_2": "dtable",
    },
}


@pytest.mark.parametrize("name", STORED)
def test_what_each_kernel_stores(name: str) -> None:
    assert {role: " ".join(kernel.outputs) for role, kernel in kernels(TEXTS[name]).items()} == STORED[name]


@pytest.mark.parametrize("name", TEXTS)
def test_kernels_in_turn_compute_what_the_gradient_cascade_does(name: str) -> None:
    """Each from what it reads of those before: row values, statistics, and gradients of rows, keys and pairs."""
    whole = program(TEXTS[name])
    assert whole.gradient is not None
    gradient = Kernel("whole", "m", "n", (), (), whole.features, whole.gradient.inputs, whole.gradient.steps, whole.gradient.outputs)
    drawn_values = drawn(gradient.inputs)
    truth = computed(gradient, drawn_values)
    known: dict[str, torch.Tensor] = {}
    for kernel in whole.parts:
        if kernel.role.startswith("backward"):
            stored = computed(kernel, {**drawn_values, **known})
            assert not known.keys() & stored.keys(), "each is stored once"
            known |= stored
    close({output: known[output] for output in truth}, truth, 1e-9)


@pytest.mark.parametrize("name", TEXTS)
def test_axes_of_kernels(name: str) -> None:
    for kernel in program(TEXTS[name]).parts:
        if kernel.role.startswith("backward_columns"):
            assert (kernel.resident, kernel.streamed) == ("n", "m")
        elif kernel.role == "backward_prepare":
            assert (kernel.resident, kernel.streamed) == ("m", None)
            assert not any("n" in (*step.axes, *step.over) for step in kernel.steps)
        else:
            assert (kernel.resident, kernel.streamed) == ("m", "n")
        assert not {*kernel.grid} & {*kernel.loops, *kernel.features, kernel.resident, kernel.streamed}


def test_query_heads_of_a_key_head_take_turns() -> None:
    found = kernels(variants.SOFTMAX)
    assert (found["forward"].grid, found["forward"].loops) == (("b", "g", "r"), ())
    assert (found["backward_columns"].grid, found["backward_columns"].loops) == (("b", "g"), ("r",))


def test_an_output_without_rows_is_refused() -> None:
    text = variants.SOFTMAX.replace("-> o, lse", "  total[b,g,e] = sum[n] v[b,g,n,e]\n  -> o, total")
    with pytest.raises(UnsupportedError, match=r"the output total\[b,g,e\] does not vary along m"):
        analyse(parse(text), wanted=frozenset())


def kernel(steps: str, outputs: str, inputs: str = "q[m,d], k[n,d], v[n,d]") -> Kernel:
    cascade = parse(f"cascade({inputs}; w: int)\n{steps}\n  -> {outputs}")
    return Kernel("forward", "m", "n", (), (), ("d",), cascade.inputs, cascade.steps, cascade.outputs)


SCORES = "  s[m,n] = sum[d] q[m,d] * k[n,d]\n"


@pytest.mark.parametrize(
    ("steps", "outputs", "may", "must"),
    [
        (SCORES + "  l[m] = sum[n] s[m,n]", "l", None, None),
        (SCORES + "  l[m] = sum[n] s[m,n]  if m >= n", "l", "m >= n", "m >= n"),
        (SCORES + "  l[m] = sum[n] s[m,n]  if m >= n\n  y[m] = sum[n] s[m,n]", "l, y", None, "m >= n"),
        (
            SCORES + "  l[m] = sum[n] s[m,n]  if m >= n\n  y[m] = sum[n] s[m,n]  if n < w",
            "l, y",
            "m >= n or n < w",
            "m >= n and n < w",
        ),
        (SCORES + "  x[m,n] = s[m,n] * 2.0  if n < w\n  l[m] = sum[n] s[m,n]  if m >= n", "x, l", "n < w or m >= n", "n < w and m >= n"),
    ],
)
def test_which_tiles_are_visited_and_which_need_no_masks(steps: str, outputs: str, may: str | None, must: str | None) -> None:
    found = with_tile_masks(kernel(steps, outputs))
    assert tuple(None if mask is None else print_expr(mask) for mask in (found.may_mask, found.must_mask)) == (may, must)


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ("  s[m,n] = sum[d] q[m,d] * k[n,d]  if m >= n\n  l[m] = sum[n] s[m,n]", {"s": "m >= n"}),
        ("  s[m,n] = sum[d] q[m,d] * k[n,d]  if m >= n\n  l[m] = sum[n] s[m,n] * 2.0  if n < w", {"s": "m >= n"}),
        ("  s[m,n] = sum[d] q[m,d] * k[n,d]  if m >= n\n  l[m] = sum[n] s[m,n] * 2.0  if n < w and m >= n", {}),
        (SCORES + "  l[m] = sum[n] s[m,n]  if m >= n", {}),
        ("  t[m,n,d] = q[m,d] * k[n,d]  if m >= n\n  s[m,n] = sum[d] t[m,n,d]\n  l[m] = sum[n] s[m,n]", {"s": "m >= n"}),
    ],
)
def test_sums_that_must_be_zero_where_their_mask_fails(steps: str, found: dict[str, str]) -> None:
    """A reduction ends masks: a reader without the mask takes what is there, so it has to be 0."""
    own = kernel(steps, "l")
    assert {name: print_expr(mask) for name, mask in dots_to_zero(own, contributing(own)).items()} == found


def test_what_only_adds_up_passes_on() -> None:
    own = kernel(
        SCORES + "  t[m,n] = sum[d] q[m,d] * v[n,d]\n  u[m,n] = s[m,n] + t[m,n]\n  l[m] = sum[n] u[m,n] * 2.0\n  y[m] = sum[n] t[m,n]",
        "l, y",
    )
    s, t, u, *_ = own.steps
    assert addends(u) == ("s", "t") and addends(s) == ()
    assert [step.name for step in readers_of(s, own)] == ["l"]
    assert [step.name for step in readers_of(t, own)] == ["y", "l"]
