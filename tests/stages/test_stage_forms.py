"""The Form of every step is checked: what every variant gives passes, and each malformed value is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from attngen.emit.params import Param
from attngen.errors import InternalError
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr, Read
from attngen.ir.parser import parse
from attngen.kernel.kernel import Kernel
from attngen.knobs import Knobs
from attngen.pipeline import analyse, compiled, for_dtype, fused
from attngen.schedule.choose import Choice, Request
from attngen.schedule.tile_schedule import ModuleSchedule, parse_tile
from attngen.stages.observe import Seen, watching
from attngen.stages.stage_forms import STEPS, verify_step
from attngen.targets import table as targets
from tests.variants import ALL, CAUSAL_ALIBI

REQUEST = Request((("d", 64), ("e", 64)), "bfloat16", targets.get("sm90"))
VERIFY = watching(Knobs(verify=True))


@pytest.mark.parametrize("name", ALL)
def test_what_every_variant_gives_has_its_form(name: str) -> None:
    cascade = parse(ALL[name])
    program = analyse(cascade, VERIFY)
    for form in (program, *(for_dtype(program, dtype, VERIFY) for dtype in ("bfloat16", "float16", "float32"))):
        fused(form, VERIFY)
    lengths = dict.fromkeys(program.features, 64)
    compiled(cascade, name, Request(tuple(lengths.items()), "bfloat16", targets.get("sm90")), VERIFY)
    analyse(cascade, VERIFY, wanted=frozenset(), divided=True)
    analyse(cascade, VERIFY, precise_delta=True)


# ---- malformed values


def results() -> dict[str, Any]:
    seen = Seen()
    compiled(parse(CAUSAL_ALIBI), "variant", REQUEST, seen)
    found = dict(seen.results)
    # What rewrites leave has no shape that is easily spoilt by hand; the kernels before them have.
    return {**found, "rewrite": found["partition"]}


GOOD = results()


def with_steps(cascade: Cascade, change: Callable[[Einsum], Einsum]) -> Cascade:
    return replace(cascade, steps=tuple(change(step) for step in cascade.steps))


def changed(cascade: Cascade, name: str, **fields: Any) -> Cascade:
    assert cascade.step(name) is not None
    return with_steps(cascade, lambda step: replace(step, **fields) if step.name == name else step)


def more(cascade: Cascade, name: str, factor: Expr) -> Cascade:
    """One step times something more."""
    step = cascade.step(name)
    assert step is not None
    return changed(cascade, name, body=build.mul(step.body, factor))


def read(cascade: Cascade, name: str) -> Expr:
    return build.read(name, cascade.axes(name))


def streamed(change: Callable[[Cascade], Cascade]) -> Any:
    return replace(GOOD["streaming"], cascade=change(GOOD["streaming"].cascade))


def backward(**fields: Any) -> Any:
    return replace(GOOD["differentiate"], **fields)


def kernels(change: Callable[[Kernel], Kernel], role: str = "backward_rows") -> tuple[Kernel, ...]:
    found = tuple(change(kernel) if kernel.role == role else kernel for kernel in GOOD["partition"])
    assert found != GOOD["partition"]
    return found


def first(kernel: Kernel, **fields: Any) -> Kernel:
    return replace(kernel, steps=(replace(kernel.steps[0], **fields), *kernel.steps[1:]))


def late(cascade: Cascade) -> Cascade:
    """A value of pairs that needs the end of the pass."""
    return replace(cascade, steps=(*cascade.steps, Einsum("late", ("b", "g", "r", "m", "n"), read(cascade, "lse"))))


def nothing(items: tuple[Any, ...], field: str) -> tuple[Any, ...]:
    """The same items, which name nothing that exists."""
    return tuple(replace(item, **{field: "nothing"}) for item in items)


def of_logsumexps(kernel: Kernel) -> Kernel:
    return replace(kernel, steps=tuple(replace(step, reduce="logsumexp") if "n" in step.over else step for step in kernel.steps))


def facts(role: str = "forward", **fields: Any) -> tuple[KernelFacts, ...]:
    return tuple(replace(item, **fields) if item.role == role else item for item in GOOD["facts"])


def lowered(change: Callable[[tuple[Param, ...]], tuple[Param, ...]]) -> Any:
    (kernel, item), *others = LOWERED
    return ((kernel, replace(item, params=change(item.params))), *others)


FORWARD: KernelFacts = GOOD["facts"][0]
CHOICE: Choice = GOOD["schedule"]
LOWERED = GOOD["lower"]
GRADIENT: Cascade = GOOD["factor"]
DEAD = Einsum("dead", ("b",), build.ONE)
ACCUMULATOR = GOOD["streaming"].accumulators[0]
MALFORMED = {
    "traced name": ("trace", parse(CAUSAL_ALIBI.replace("slopes", "extent"))),
    "dead step": ("canonicalize", replace(GOOD["canonicalize"], steps=(*GOOD["canonicalize"].steps, DEAD))),
    "logsumexp in a pass": ("streaming", streamed(lambda c: changed(c, "l_i", reduce="logsumexp"))),
    "finished value in a pass": ("streaming", streamed(late)),
    "finished value in a sum": ("streaming", streamed(lambda c: more(c, "acc", read(c, "l_i")))),
    "gauge in a sum": ("streaming", streamed(lambda c: more(c, "l_i", Read("m_i", c.step("lse").body.args[0].at)))),  # type: ignore[union-attr]
    "step that reads nothing": ("streaming", streamed(lambda c: more(c, "s", build.read("nothing", ("m",))))),
    "accumulator of nothing": ("streaming", replace(GOOD["streaming"], accumulators=(replace(ACCUMULATOR, name="nothing"),))),
    "gauge without a value": ("streaming", replace(GOOD["streaming"], gauges=nothing(GOOD["streaming"].gauges, "value"))),
    "cotangent of nothing": ("differentiate", backward(cotangents=(("nothing", "do"),))),
    "cotangent that is no input": ("differentiate", backward(cotangents=(("o", "nothing"),))),
    "nothing saved": ("differentiate", backward(saved=nothing(GOOD["differentiate"].saved, "name"))),
    "gradient that is no output": ("differentiate", backward(gradients=nothing(GOOD["differentiate"].gradients, "step"))),
    "gradient of nothing": ("differentiate", backward(gradients=nothing(GOOD["differentiate"].gradients, "target"))),
    "forward of a gradient": ("differentiate", backward(forward=streamed(lambda c: changed(c, "l_i", reduce="logsumexp")))),
    "dead gradient step": ("factor", replace(GRADIENT, steps=(*GRADIENT.steps, DEAD))),
    "gradient step twice": ("factor", replace(GRADIENT, steps=(*GRADIENT.steps, GRADIENT.steps[-1]))),
    "gradient step of another kind": ("factor", changed(GRADIENT, GRADIENT.steps[-1].name, where=build.ONE)),
    "one role twice": ("partition", kernels(lambda kernel: replace(kernel, role="forward"))),
    "an axis twice": ("partition", kernels(lambda kernel: replace(kernel, grid=(*kernel.grid, kernel.resident)))),
    "a foreign axis": ("partition", kernels(lambda kernel: replace(kernel, grid=kernel.grid[1:]))),
    "no such output": ("partition", kernels(lambda kernel: replace(kernel, outputs=("nothing",)))),
    "no such input": ("partition", kernels(lambda kernel: replace(kernel, inputs=kernel.inputs[1:]))),
    "steps out of order": ("rewrite", kernels(lambda kernel: replace(kernel, steps=kernel.steps[::-1]))),
    "an index that no axis binds": ("rewrite", kernels(lambda kernel: first(kernel, body=build.read("q", ("b", "g", "r", "m", "e"))))),
    "a logsumexp along the stream": ("rewrite", kernels(of_logsumexps, "forward")),
    "facts of a malformed kernel": ("facts", facts(kernel=replace(FORWARD.kernel, outputs=("nothing",)))),
    "work of another kernel": ("facts", facts(work=replace(FORWARD.work, role="backward_rows"))),
    "a step without a guard": ("facts", facts(guards=dict(list(FORWARD.guards.items())[1:]))),
    "a guard of nothing": ("facts", facts(guards={**FORWARD.guards, "nothing": None})),
    "a prefetched dot that is no step": ("facts", facts(prefetched=("nothing",))),
    "rows of no input": ("facts", facts(dense_rows=("nothing",))),
    "a masked product that is no step": ("facts", facts(dots_to_zero={"nothing": build.TRUE})),
    "a stream without ranges": ("facts", facts(ranges=None)),
    "a list of nothing": ("facts", facts("backward_prepare", listed=True)),
    "a tile too few": ("schedule", replace(CHOICE, schedule=ModuleSchedule(CHOICE.schedule.tiles[1:]))),
    "tiles in another order": ("schedule", replace(CHOICE, schedule=ModuleSchedule(CHOICE.schedule.tiles[::-1]))),
    "a tile that nobody chose": ("schedule", replace(CHOICE, schedule=CHOICE.schedule.replace({"forward": parse_tile("16x16,w1,s1")}))),
    "a user's tile of no kernel": ("schedule", replace(CHOICE, asked=("nothing",))),
    "a doubtful tile of no kernel": ("schedule", replace(CHOICE, doubtful=("nothing",))),
    "one kernel twice": ("lower", (*LOWERED, LOWERED[0])),
    "one parameter twice": ("lower", lowered(lambda params: (*params, params[-1]))),
    "a length before pointers": ("lower", lowered(lambda params: params[::-1])),
    "an output that is not stored": ("lower", lowered(lambda params: tuple(param for param in params if param.kind != "result"))),
    "no Python": ("print", "def forward(:"),
    "no forward": ("print", "def backward():\n    pass\n"),
}


@pytest.mark.parametrize(("step", "value"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_value_is_a_bug_of_ours_that_is_named(step: str, value: object) -> None:
    verify_step(step, GOOD[step])
    with pytest.raises(InternalError, match=f"the result of the step {step}"):
        verify_step(step, value)


def test_every_step_has_a_form() -> None:
    assert tuple(GOOD) == tuple(STEPS)
    for name, value in GOOD.items():
        verify_step(name, value)
