from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.errors import InternalError, MaxNotAShift
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum
from attngen.ir.parser import parse
from attngen.transform.canonicalize import canonicalize
from attngen.transform.streaming.check_streaming import check_streaming
from attngen.transform.streaming.gauges import Streamed
from attngen.transform.streaming.streaming import streaming
from tests import variants
from tests.transform import more_variants


def both(text: str) -> tuple[Cascade, Streamed]:
    cascade = canonicalize(parse(text))
    return cascade, streaming(cascade, "m", "n")


def changed(streamed: Streamed, name: str, **fields: object) -> Streamed:
    steps = tuple(replace(step, **fields) if step.name == name else step for step in streamed.cascade.steps)  # type: ignore[arg-type]
    return replace(streamed, cascade=replace(streamed.cascade, steps=steps))


def body(streamed: Streamed, name: str) -> Einsum:
    step = streamed.cascade.step(name)
    assert step is not None
    return step


def test_what_was_derived_passes_again() -> None:
    for text in (*variants.ALL.values(), *(text for text, _ in more_variants.HIGHER_RANKS.values())):
        check_streaming(*both(text))


@pytest.mark.parametrize("text", [variants.SOFTMAX, variants.ENTROPY, variants.CAUSAL_ALIBI])
def test_a_wrong_output_is_found(text: str) -> None:
    cascade, streamed = both(text)
    wrong = changed(streamed, "o", body=build.mul(body(streamed, "o").body, build.const(1.001)))
    with pytest.raises(InternalError):
        check_streaming(cascade, wrong)


def test_a_lost_mask_is_found() -> None:
    cascade, streamed = both(more_variants.ALL["on_the_sum"][0])
    with pytest.raises(InternalError):
        check_streaming(cascade, changed(streamed, "o", where=None))


def test_an_output_that_depends_on_the_gauge_is_found() -> None:
    cascade, streamed = both(variants.SOFTMAX)
    acc = body(streamed, "acc")
    with pytest.raises(InternalError):
        check_streaming(cascade, changed(streamed, "o", body=build.read("acc", acc.axes)))


def test_a_maximum_is_blamed_for_it() -> None:
    cascade, streamed = both(more_variants.ALL["own_maximum"][0])
    acc = next(step for step in streamed.cascade.steps if step.reduce == "sum" and "e" in step.axes)
    with pytest.raises(MaxNotAShift):
        check_streaming(cascade, changed(streamed, "o", body=build.read(acc.name, acc.axes)))


@pytest.mark.parametrize("field", ["weight_power", "offset_power", "lower"])
def test_an_accumulator_that_does_not_follow_is_found(field: str) -> None:
    cascade, streamed = both(variants.ENTROPY)
    empty = None if field == "lower" else ()
    wrong = tuple(replace(item, **{field: empty}) if item.offset_power else item for item in streamed.accumulators)  # type: ignore[arg-type]
    assert wrong != streamed.accumulators
    with pytest.raises(InternalError):
        check_streaming(cascade, replace(streamed, accumulators=wrong))
