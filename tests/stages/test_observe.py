"""Results of steps are checked and printed where the environment asks for it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

import attngen
from attngen import pipeline
from attngen.errors import ArgumentError, InternalError, InvalidKnob, UnsupportedError
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.parser import parse
from attngen.knobs import Knobs
from attngen.pipeline import analyse, compiled
from attngen.report.explain import after
from attngen.schedule.choose import Request
from attngen.stages.observe import Seen, check_step, ignore, watching
from attngen.stages.stage_forms import STEPS
from attngen.targets import table as targets
from tests.variants import CAUSAL_ALIBI

REQUEST = Request((("d", 128), ("e", 128)), "bfloat16", targets.get("sm90"))


def spoilt(found: Cascade) -> Cascade:
    """With a step that nothing reads."""
    return replace(found, steps=(*found.steps, Einsum("dead", ("b",), build.ONE)))


def test_the_page_has_every_step_in_order() -> None:
    seen = Seen()
    source = compiled(parse(CAUSAL_ALIBI), "variant", REQUEST, seen)
    names = [name for name, _ in seen.results]
    # Rewrites that the precision of a dtype allows are carried out once that is known.
    assert names == ["trace", "canonicalize", "streaming", "differentiate", "factor", "partition", *["rewrite", "facts"] * 2, *names[-4:]]
    assert names[-4:] == ["schedule", "tile", "lower", "print"]
    assert tuple(dict.fromkeys(names)) == tuple(STEPS)
    assert dict(seen.results)["print"] == source.text


def test_a_knob_that_is_not_set_costs_nothing() -> None:
    assert watching(Knobs()) is ignore


def test_what_a_step_gives_is_checked_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of a pass is told by the pass, not by what comes of it."""
    factor = pipeline.factor
    monkeypatch.setattr(pipeline, "factor", lambda *args: spoilt(factor(*args)))
    attngen.compile(attngen.attention(name="unwatched", softcap=3.0), arch="sm90").explain()
    monkeypatch.setenv("ATTNGEN_VERIFY", "1")
    with pytest.raises(InternalError, match="the step factor"):
        attngen.compile(attngen.attention(name="watched", softcap=3.0), arch="sm90").explain()


def test_a_pass_that_stumbles_over_a_malformed_value_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step before it is."""
    factor = pipeline.factor
    monkeypatch.setattr(pipeline, "factor", lambda *args: spoilt(factor(*args)))
    monkeypatch.setattr(pipeline, "partition", lambda *args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        analyse(parse(CAUSAL_ALIBI))
    with pytest.raises(InternalError, match="the step factor"):
        analyse(parse(CAUSAL_ALIBI), watching(Knobs(verify=True)))


def test_the_schedule_of_a_call_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = pipeline.choose
    monkeypatch.setattr(pipeline, "choose", lambda *args: replace(choose(*args), asked=("nothing",)))
    monkeypatch.setenv("ATTNGEN_VERIFY", "1")
    with pytest.raises(InternalError, match="the step schedule"):
        attngen.compile(attngen.attention(name="scheduled", softcap=5.0), arch="sm90").explain()


def test_only_the_attempt_that_stays_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that no kernel computes are found out by trying."""
    differentiate = pipeline.differentiate

    def without_slopes(streamed: object, wrt: tuple[str, ...], **options: bool) -> object:
        found = differentiate(streamed, wrt, **options)  # type: ignore[arg-type]
        if "slopes" in wrt:
            raise UnsupportedError("no gradient of slopes")
        return found

    monkeypatch.setattr(pipeline, "differentiate", without_slopes)
    seen = Seen()
    program = analyse(parse(CAUSAL_ALIBI), seen)
    assert [name for name, _ in program.refused] == ["slopes"]
    assert [name for name, _ in seen.results] == list(STEPS)[:8]
    assert dict(seen.results)["differentiate"] == program.backward


def test_steps_are_printed_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = attngen.attention(name="printed")
    attngen.compile(spec, arch="sm90").explain()
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("ATTNGEN_DUMP", "streaming, partition")
    attngen.compile(attngen.attention(name="printed", scale=0.5), arch="sm90").explain()
    printed = capsys.readouterr()
    assert printed.out == ""
    heads = [line.removeprefix("# attngen: after ") for line in printed.err.splitlines() if line.startswith("#")]
    assert heads[:2] == ["streaming", "partition"] and set(heads) == {"streaming", "partition"}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_can_be_printed(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    """ATTNGEN_DUMP prints what `explain --after` shows; where a step is carried out twice, the first time is that of all dtypes."""
    cascade = parse(CAUSAL_ALIBI)
    compiled(cascade, "variant", REQUEST, watching(Knobs(dump=(step,))))
    assert capsys.readouterr().err.startswith(f"# attngen: after {step}\n{after(cascade, step)}\n")


def test_a_step_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_DUMP", "canonicalize,lunch")
    with pytest.raises(InvalidKnob, match="'lunch'") as refused:
        attngen.compile(attngen.attention(name="refused"))
    assert all(step in str(refused.value) for step in STEPS)
    with pytest.raises(ArgumentError, match="'lunch'") as asked:
        check_step("lunch")
    assert all(step in str(asked.value) for step in STEPS)
