"""Each Form behind `canonicalize` is checked: what every variant gives passes, and each malformed value is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import attngen
from attngen import pipeline
from attngen.errors import InternalError, InvalidKnob
from attngen.explain import after, watching
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.expr import Expr, Read
from attngen.ir.parser import parse
from attngen.kernel.kernel import Kernel
from attngen.kernel.stage_forms import verify_kernels, verify_step
from attngen.knobs import Knobs
from attngen.pipeline import STEPS, analyse, for_dtype, fused
from tests.variants import ALL, CAUSAL_ALIBI

VERIFY = watching(Knobs(verify=True))


@pytest.mark.parametrize("name", ALL)
def test_what_every_variant_gives_has_its_form(name: str) -> None:
    cascade = parse(ALL[name])
    program = analyse(cascade, VERIFY)
    for form in (program, *(for_dtype(program, dtype) for dtype in ("bfloat16", "float16", "float32"))):
        verify_kernels(form.kernels)
        one = fused(form)
        verify_kernels(one.kernels if one is not None else ())
    verify_kernels(analyse(cascade, VERIFY, wanted=frozenset(), divided=True).kernels)
    analyse(cascade, VERIFY, precise_delta=True)


# ---- malformed values


def results() -> dict[str, Any]:
    found: dict[str, Any] = {}

    def keep(name: str, value: object) -> object:
        found[name] = value
        return value

    analyse(parse(CAUSAL_ALIBI), keep)
    return found


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
}


@pytest.mark.parametrize(("step", "value"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_value_is_a_bug_of_ours_that_is_named(step: str, value: object) -> None:
    verify_step(step, GOOD[step])
    with pytest.raises(InternalError, match=f"the result of the step {step}"):
        verify_step(step, value)


def test_every_step_has_a_form() -> None:
    assert tuple(GOOD) == STEPS
    for name, value in GOOD.items():
        verify_step(name, value)


# ---- the knobs


def test_what_a_step_gives_is_checked_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a pass is told by the pass, not by what comes of it."""
    factor = pipeline.factor
    monkeypatch.setattr(pipeline, "factor", lambda *args: replace(found := factor(*args), steps=(*found.steps, DEAD)))
    attngen.compile(attngen.attention(name="unwatched", softcap=3.0))
    monkeypatch.setenv("ATTNGEN_VERIFY", "1")
    with pytest.raises(InternalError, match="the step hoist"):
        attngen.compile(attngen.attention(name="watched", softcap=3.0))


def test_steps_are_printed_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = attngen.attention(name="printed")
    attngen.compile(spec)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("ATTNGEN_DUMP", "streaming, partition")
    attngen.compile(attngen.attention(name="printed", scale=0.5))
    printed = capsys.readouterr()
    assert printed.out == ""
    heads = [line.removeprefix("# attngen: after ") for line in printed.err.splitlines() if line.startswith("#")]
    assert heads == ["streaming", "partition"]


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_be_printed(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    cascade = parse(CAUSAL_ALIBI)
    analyse(cascade, watching(Knobs(dump=(step,))))
    assert capsys.readouterr().err == f"# attngen: after {step}\n{after(cascade, step)}\n"


def test_a_step_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_DUMP", "canonicalize,lunch")
    with pytest.raises(InvalidKnob, match="'lunch'") as refused:
        attngen.compile(attngen.attention(name="refused"))
    assert all(step in str(refused.value) for step in STEPS)
