"""What a second compile of an equal spec costs: tracing, and little besides."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

import attngen
from attngen import pipeline
from attngen.runtime.kernel_table import FORMER_NAMES, rewrites_named


def spec(seed: int) -> attngen.Spec:
    """Closures and captured tensors made anew, as in each forward of a model."""
    generator = torch.Generator().manual_seed(seed)
    slopes, document = torch.rand(2, generator=generator), torch.arange(20) // (5 + seed % 3)
    return attngen.attention(
        lambda score, b, h, i, j: score + slopes[h] * (j - i), lambda b, h, i, j: (document[i] == document[j]) & (i >= j)
    )


def cpu_ms(run: Callable[[int], object]) -> float:
    found: list[float] = []
    for number in range(9):
        begin = time.process_time()
        run(number)
        found.append(1000 * (time.process_time() - begin))
    return min(found)


@pytest.mark.parametrize("require", [(), ("bias_separation",)])
def test_nothing_is_worked_out_again(require: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    attngen.compile(spec(0), require=require)

    def again(*_: object) -> None:
        raise AssertionError("an equal spec is rewritten")

    for name in ("canonicalize", "streaming", "differentiate", "rewriting", "_rewritten"):
        monkeypatch.setattr(pipeline, name, again)
    attngen.compile(spec(1), require=require)


def test_rewrites_wait_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("attngen.plan.programs.for_dtype", lambda program, dtype, *_: asked.append(dtype) or program)
    attngen.compile(attngen.attention(name="patient"))
    assert asked == []


def test_an_equal_spec_compiles_in_the_time_of_its_trace() -> None:
    attngen.compile(spec(0))
    assert cpu_ms(lambda number: attngen.compile(spec(number))) < 3 * cpu_ms(spec)


def test_former_names_of_rewrites_are_understood() -> None:
    assert rewrites_named(["split_biases", "static_max"]) == {"bias_separation", "static_max"}
    assert set(FORMER_NAMES.values()) <= pipeline.REWRITES.keys()
