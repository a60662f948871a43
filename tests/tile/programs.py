"""Programs of variants, values for them, and what the reference makes of their kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from attngen import catalog
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret as reference
from attngen.ir.expr import Read
from attngen.ir.parser import parse
from attngen.ir.traverse import step_reads
from attngen.kernel.kernel import Kernel
from attngen.pipeline import Program, analyse, for_dtype, fused
from attngen.tile.lowering import lower
from attngen.tile.nodes import TileProgram
from tests.kernel.computed import within
from tests.kernels import cases
from tests.variants import ALL

Values = Mapping[str, Any]
SIZES = {"b": 2, "g": 2, "r": 2, "h": 4, "m": 7, "n": 11, "d": 4, "e": 5, "f": 3, "part": 3}
CAPTURES: dict[str, Any] = {
    "window": 3,
    "width": 3,
    "lengths": [7, 0],
    "document": [[0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3], [2, 2, 2, 2, 1, 0, 0, 0, 3, 3, 3]],
    "scattered": [[i * 7 // 3 % 4 for i in range(11)], [i % 2 for i in range(11)]],
    "ends": [i * 11 // 7 + 2 for i in range(7)],
    "seed": -(2**40) - 7,
}
"""Integers that are captured; a prefix is a number, or one for each batch."""
SHAPES = {"slopes": (4,), "sink": (4,), "bias": (4, 7, 11), "table": (18,), "col": (2, 11), "row": (2, 7), "phi": (4, 7, 3), "psi": (11, 3)}
"""Shapes of captured floats; others are numbers."""
CATALOGUE = catalog.names()
SHIFTED = cases.masked("m - 2 >= n and n >= 2")
"""Rows without keys, and keys at both ends without rows."""
_PLAIN = {name if name not in CATALOGUE else f"plain_{name}": text for name, text in ALL.items()}
_OF_CASES = (
    *("skipping", "multiples", "nothing", "lengths", "documents", "scattered_documents", "row_ends", "two_masks", "every_other_value"),
    *("two_masks_of_sums", "reciprocal", "table_twice", "dropout", "low_rank", "branches"),
)
TEXTS = {**_PLAIN, **{name: cases.ALL[name] for name in _OF_CASES}, "shifted": SHIFTED}


@cache
def program(name: str) -> Program:
    """A variant of the catalogue or of `TEXTS`."""
    return analyse(_cascade(name))


def _cascade(name: str) -> Cascade:
    return catalog.load(name).cascade if name in CATALOGUE else parse(TEXTS[name])


@cache
def lowered(name: str, form: str = "") -> tuple[tuple[KernelFacts, TileProgram], ...]:
    """The kernels of a variant that compute values, in order, each with its tile program.

    Args:
        form: "" for the variant as it is, "fused", "divided", "precise" (delta is summed over the keys), or a dtype.
    """
    found: Program | None = program(name)
    if form == "divided":
        found = analyse(_cascade(name), wanted=frozenset(), divided=True)
    elif form == "precise":
        found = analyse(_cascade(name), precise_delta=True)
    elif form:
        found = fused(program(name)) if form == "fused" else for_dtype(program(name), form)
    facts = () if found is None else found.facts
    return tuple((item, lower(item)) for item in facts if not item.kernel.tile_list_of)


def programs(name: str) -> Iterator[TileProgram]:
    """The tile programs of a variant, those of the catalogue in all forms."""
    for form in ("", "fused", "bfloat16", "divided") if name in CATALOGUE else ("", "fused"):
        yield from (item for _, item in lowered(name, form))


# ---- values


def drawn(item: Input) -> Any:
    """A value of an input, the same for the same name and shape."""
    if item.name == "prefix":
        return np.asarray([5, 2]) if item.rank else 4
    if item.name in CAPTURES:
        return np.asarray(CAPTURES[item.name])
    shape = (SHAPES[item.name] if item.rank else ()) if item.axes is None else [SIZES[axis] for axis in item.axes]
    return np.random.default_rng(sum(map(ord, item.name))).normal(size=shape)


def extents_of_documents(kernel: Kernel, values: Values) -> dict[str, Any]:
    """What the host derives from captured integers."""
    found: dict[str, Any] = {}
    for item in kernel.document_extents:
        rows, keys = np.asarray(values[item.values]), np.asarray(values[item.keys])
        same = rows[..., :, None] == keys[..., None, :]
        first, last = np.argmax(same, -1), same.shape[-1] - np.argmax(same[..., ::-1], -1)
        first, last = first * same.any(-1), last * same.any(-1)
        run = np.where(last - first == same.sum(-1), last, first)
        found |= dict(zip(item.names, (first, last, run), strict=True))
    return found


# ---- the reference


def expected(kernel: Kernel, values: Values) -> dict[str, Any]:
    """The outputs of a kernel; a part of a split one sees its share of the loop axis."""
    if kernel.split_axis not in kernel.grid or kernel.streamed is None:
        return _outputs(kernel, values)
    length, count = SIZES[kernel.streamed], SIZES[kernel.split_axis]
    size = -(-length // count)
    shares = [_outputs(within(kernel, kernel.streamed, i * size, (i + 1) * size), values) for i in range(count)]
    return {name: np.stack([share[name][i] for i, share in enumerate(shares)]) for name in kernel.outputs}


def _outputs(kernel: Kernel, values: Values) -> dict[str, Any]:
    """The outputs of a kernel. Running maxima are inputs of it, which have their last values, 0 in rows without keys."""
    rows = {gauge.name: tuple(axis for axis in kernel.axes(gauge.exponent) if axis != kernel.streamed) for gauge in kernel.gauges}
    maxima = _largest(kernel, rows, values)
    finite = {name: np.where(value == -np.inf, 0.0, value) for name, value in maxima.items()}
    inputs = (*kernel.inputs, *(Input(name, axes, len(axes)) for name, axes in rows.items()))
    steps = tuple(step for step in kernel.steps if step.name not in finite)
    found = reference(*_measured(Cascade(inputs, steps, kernel.outputs), {**values, **finite}))
    states = {step.name: step.body.tensor for step in steps if isinstance(step.body, Read) and step.body.tensor in maxima}
    parts = {name: np.broadcast_to(maxima[state], found[name].shape) for name, state in states.items()}
    return {name: parts.get(name, found[name]) for name in kernel.outputs}


def _largest(kernel: Kernel, rows: Mapping[str, tuple[str, ...]], values: Values) -> dict[str, Any]:
    """The last value of each running maximum: at least minus infinity, and what it must dominate."""
    later = set(rows)
    early: list[Einsum] = []
    for step in kernel.steps:
        if later & set(step_reads(step)) or kernel.streamed in step.over:
            later.add(step.name)
        else:
            early.append(step)
    known = {step.name: step for step in kernel.steps}
    steps: list[Einsum] = []
    for gauge in kernel.gauges:
        exponent = build.add(build.mul(build.read(gauge.exponent, kernel.axes(gauge.exponent)), gauge.scale), gauge.shift)
        peak = Einsum(f"{gauge.name}_of_keys", rows[gauge.name], exponent, "max", (kernel.streamed or "",), known[gauge.weight].where)
        body = build.read(peak.name, peak.axes)
        for floor in gauge.floor:
            body = build.apply("max", body, floor)
        steps += [peak, Einsum(gauge.name, rows[gauge.name], body)]
    if not steps:
        return {}
    found = reference(*_measured(Cascade(kernel.inputs, (*early, *steps), tuple(rows)), values))
    return {name: found[name] for name in rows}


def _measured(cascade: Cascade, values: Values) -> tuple[Cascade, Values]:
    """A cascade with an input that tells the lengths of all axes: a kernel may read nothing that tells them."""
    lengths = Input("all_lengths", tuple(SIZES), len(SIZES))
    return replace(cascade, inputs=(*cascade.inputs, lengths)), {**values, "all_lengths": np.broadcast_to(0.0, tuple(SIZES.values()))}
