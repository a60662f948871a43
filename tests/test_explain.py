from __future__ import annotations

import json

import pytest
import torch

import attngen
from attngen import target as targets
from attngen.errors import ArgumentError
from attngen.explain import Explanation, after, explain
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.schedule.choose import Request, choose
from attngen.schedule.measured import Table
from tests.variants import ALL, CAUSAL_ALIBI, DIFFERENTIAL, SIGMOID


def explained(text: str, atomic: tuple[str, ...] = ()) -> Explanation:
    cascade = parse(text)
    program = analyse(cascade)
    request = Request(tuple((axis, 64) for axis in program.features), "bfloat16", targets.get("sm90"))
    return explain(cascade, program, choose(program.kernels, request, Table(())), atomic)


@pytest.mark.parametrize("name", ALL)
def test_every_variant_explains_itself_on_one_screen(name: str) -> None:
    found = explained(ALL[name])
    assert len(found.text().splitlines()) <= 60
    assert len(found.text(full=True)) > len(found.text())
    assert json.loads(json.dumps(found.as_dict()))["kernels"][0]["role"] == "forward"


def test_causal_alibi() -> None:
    found = explained(CAUSAL_ALIBI)
    assert found.passes == 2
    assert found.ranks == (("o", 1),)
    assert found.saved == ("o[b,g,r,m,e]", "lse[b,g,r,m]")
    assert found.extra == ()
    by_role = {kernel.role: kernel for kernel in found.kernels}
    assert "unmasked in [0, min(first + 1, extent(n)))" in by_role["forward"].visits
    assert by_role["backward_columns"].sums_over == ("r",)
    assert by_role["backward_prepare"].passes is None
    assert found.atomics == ()


def test_differential_saves_one_tensor_as_large_as_an_output() -> None:
    found = explained(DIFFERENTIAL)
    assert found.ranks == (("o", 2),)
    assert len(found.gauges) == 2
    assert len(found.extra) == 1
    assert len(found.rows) == 2


def test_sigmoid_needs_no_gauge_and_saves_nothing() -> None:
    found = explained(SIGMOID)
    assert found.gauges == ()
    assert found.passes == 1
    assert "nothing" in found.text()


def test_atomic_additions_are_named() -> None:
    found = explained(CAUSAL_ALIBI, ("slopes",))
    assert found.atomics[0].startswith("slopes: ")


@pytest.mark.parametrize("step", ["trace", "canonicalize", "streaming", "differentiate", "hoist", "partition"])
def test_the_result_of_every_step_can_be_seen(step: str) -> None:
    assert after(parse(CAUSAL_ALIBI), step)


def test_the_trace_is_what_was_traced_and_streaming_has_a_gauge() -> None:
    cascade = parse(CAUSAL_ALIBI)
    assert after(cascade, "trace") == str(cascade)
    assert "m_i" in after(cascade, "streaming")
    assert "backward_rows: dq" in after(cascade, "partition")


def test_an_unknown_step_lists_the_steps() -> None:
    with pytest.raises(ArgumentError, match="streaming"):
        after(parse(SIGMOID), "lunch")


def test_gaps_are_pointed_out() -> None:
    bias = torch.zeros(64, requires_grad=True)
    spec = attngen.attention(lambda s, b, h, q, k: s + bias[k], lambda b, h, q, k: ((q - k) % 4 == 0) & (q >= k), name="dilated")
    attend = attngen.compile(spec, arch="sm90")
    assert "order=attngen.grid(N).order(dilation=4) leaves about one tile in 4 to visit" in attend.explain()
    other = attngen.attention(mask_mod=lambda b, h, q, k: (q - k) % 4 == 0, order=attngen.grid(64).order(dilation=4), name="dilated")
    assert attngen.compile(other, arch="sm90").explain().endswith("in tiles of 16 of equal remainders by 4")
