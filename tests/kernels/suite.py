"""What emitted kernels have to survive, in few seconds: the suite that mutants are run against.

Every tensor ends at an unmapped page and has NaN in front of it and between its rows, fresh memory is NaN, and everything is float64
but where a test of rounding needs less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import torch

from attngen.ir.cascade import Cascade
from tests.kernels import cases, harness, memory

WIDE = cases.Sizes(b=2, g=1, r=2, m=40, n=70, d=24, e=16)
TALL = cases.Sizes(b=1, g=2, r=1, m=65, n=33, d=16, e=40)
LONG = cases.Sizes(b=1, g=1, r=1, m=130, n=140)
APART = cases.Sizes(b=1, g=1, r=1, m=70, n=170)
DEEP = cases.Sizes(b=3, g=1, r=1, m=20, n=20)
IN_WIDE = ("causal_alibi", "entropy", "learned_bias", "differential", "window", "first_and_last", "up_to_a_third", "from_a_third")
IN_TALL = (
    *("causal_bottom_right", "relu_window", "sigmoid_causal", "sink_prefix", "gate", "strict", "outside", "half_rate", "blocks", "lengths"),
    *(
        "documents",
        "scattered_documents",
        "row_ends",
        "table_twice",
        "dilated",
        "softcap",
        "relative",
        "flat",
        "two_sided_window",
        "entropy_causal",
        "reciprocal",
        "two_masks",
        "two_masks_of_sums",
        "every_other_value",
        "multiples",
        "scores_of_some",
        "dropout",
        "low_rank",
    ),
)


def survive(variants: Iterable[str]) -> None:
    """Variants in fenced memory, more keys than queries and the other way round, every feature axis with padding at its end.

    Raises:
        AssertionError: a result is wrong. A read or a write behind a tensor ends the process.
    """
    for variant in variants:
        # Lengths of features that are cut alike share a module.
        for sizes in (replace(WIDE, e=TALL.e), replace(TALL, d=WIDE.d)):
            check(variant, sizes)


def emit() -> None:
    """Emit what `kill` runs first, so that a mutant that emits nothing is told from one that computes nonsense."""
    case = cases.case("causal_alibi", WIDE)
    harness.prepare(case.cascade, case.values, memory.fenced_empty)


def checks() -> dict[str, Callable[[], None]]:
    """Everything that a mutant should die of, by name."""
    found: dict[str, Callable[[], None]] = {variant: partial(check, variant, WIDE) for variant in IN_WIDE}
    found |= {variant: partial(check, variant, TALL) for variant in IN_TALL}
    found |= {"narrow": _narrow, "infinite": _infinite_padding, "rounding": _rounding, "far": _far, "needed": _needed, "empty": _empty}
    return found | {"pieces": partial(check, "skipping", APART)}


def kill(first: str = "", *, alone: bool = False) -> None:
    """Run all checks.

    Args:
        first: the check that begins, to find out sooner.
        alone: nothing but that.
    """
    known = checks()
    for name in dict.fromkeys((first or next(iter(known)), *(() if alone else known))):
        known[name]()


def check(variant: str, sizes: cases.Sizes) -> None:
    """One variant at one size, in fenced memory."""
    _exact(cases.case(variant, sizes))


def _exact(case: cases.Case, tolerance: float = 1e-12) -> None:
    fenced = memory.stored(case, memory.fenced)
    found = harness.run(case.cascade, fenced.values, fenced.cotangents, harness.tiles(32, 32), memory.fenced_empty)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents), tolerance)


def _infinite_padding() -> None:
    """Captured numbers of a thousand."""
    for variant, name in (("learned_bias", "table"), ("sink", "sink")):
        case = cases.case(variant, TALL)
        case.values[name] = 1000.0 * case.values[name].abs() + 1000.0
        _exact(case, 1e-10)


def _narrow() -> None:
    """A window that begins right at the end of a tile."""
    _exact(cases.case("window", TALL, overrides={"width": 2}))


def _empty() -> None:
    check("softmax", cases.Sizes(b=2, g=1, r=1, m=10, n=0))


def _rounding() -> None:
    half, single = torch.float16, torch.float32
    for variant, dtype, scale in (("causal", half, 1.0), ("causal", half, 1000.0), ("causal", single, 1.0), ("causal_alibi", half, 1.0)):
        case = cases.case(variant, TALL, scale=scale).to(dtype)
        arguments = case.cascade, case.values, case.cotangents
        found = harness.run(*arguments, harness.tiles(32, 32), memory.fenced_empty)
        golden, plain = harness.expected(*arguments), harness.yardstick(*arguments, dtype)
        forward = [harness.Results(result.outputs, {}) for result in (found, golden, plain)]
        harness.contract(*(forward if scale > 1.0 else (found, golden, plain)))


def _far() -> None:
    for axis in ("b", "m", "n"):
        case = cases.case("gate", LONG if axis in "mn" else DEEP)
        _in_place(case, stretched(case, axis))
    case = cases.case("learned_bias", LONG)
    values = {name: memory.far(x, x.dim() - 1) if name in ("table", "bias") else x for name, x in case.values.items()}
    _in_place(case, cases.Case(case.cascade, values, case.cotangents))


def _in_place(case: cases.Case, stored: cases.Case) -> None:
    found = harness.run(case.cascade, stored.values, stored.cotangents, allocate=memory.fenced_empty)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))


def stretched(case: cases.Case, axis: str, step: int = 0) -> cases.Case:
    """Every argument and cotangent that has an axis, far along it, or `step` elements from one position to the next."""
    cascade: Cascade = case.cascade
    axes = {item.name: item.axes or () for item in cascade.inputs} | {f"d{name}": cascade.axes(name) for name in case.cotangents}

    def far(name: str, x: torch.Tensor) -> torch.Tensor:
        return memory.far(x, axes[name].index(axis), step) if axis in axes[name] else x

    values = {name: far(name, x) for name, x in case.values.items()}
    return cases.Case(cascade, values, {name: far(f"d{name}", x) for name, x in case.cotangents.items()})


def _needed() -> None:
    """Each gradient alone."""
    for variant in ("learned_bias", "gate"):
        case = cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=20, n=30))
        kernels = harness.prepare(case.cascade, case.values)
        tile = harness.tiles(32, 32)
        known = harness.forward(kernels, case.values, tile)
        golden = harness.expected(case.cascade, case.values, case.cotangents).gradients
        for name in kernels.targets:
            found = harness.backward(kernels, case.values, known, case.cotangents, tile, (name,))
            assert list(found) == [name]
            harness.exact_to(harness.Results({}, found), harness.Results({}, {name: golden[name]}))
