from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import attngen
from attngen.errors import ArgumentError
from attngen.ir.parser import parse
from attngen.pipeline import analyse, for_dtype
from attngen.report.explain import Explanation, after, explain
from attngen.report.savings import savings
from attngen.schedule.choose import Request, choose
from attngen.schedule.tables import Table
from attngen.targets import table as targets
from tests.variants import ALL, CAUSAL_ALIBI, DIFFERENTIAL, SIGMOID, SOFTMAX


def explained(text: str) -> Explanation:
    cascade = parse(text)
    program = analyse(cascade)
    request = Request(tuple((axis, 64) for axis in program.features), "bfloat16", targets.get("sm90"))
    return explain(cascade, program, choose(program.facts, request, Table(())))


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
    assert by_role["backward_prepare"].streamed is None
    assert found.captured == ("slopes[g * extent(r) + r]: by rows in backward_rows, partials summed over b, m",)


def test_what_rewrites_save_is_counted() -> None:
    """The penalty by distance is one addition that takes in the product with the scale, after the split. A product of 16 columns adds it
    instead, which leaves the scale by itself, for the exponent to take in."""
    program = for_dtype(analyse(parse(CAUSAL_ALIBI)), "bfloat16")
    found = savings(program)
    assert found["bias_separation"] == ("operations 2 less in forward, backward_rows, backward_columns",)
    assert found["bias_as_dot"] == ("flops of products 32 more in forward, backward_rows, backward_columns",)
    assert found["scale_folding"] == ("operations 1 less in forward, backward_rows, backward_columns",)
    assert "bias_as_dot" not in savings(for_dtype(analyse(parse(CAUSAL_ALIBI), without=frozenset({"bias_as_dot"})), "bfloat16"))
    assert "static_max" not in savings(for_dtype(analyse(parse(SOFTMAX)), "bfloat16")), "scores without bounds keep their maximum"


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


def test_gradients_of_captured_tensors_tell_how_they_are_formed() -> None:
    captures = "bias: float[:, :, :, :], pair: float[:, :], table: float[:], near: int[:, :], last: float[:]"
    score = "* 0.25 + bias[b, g, m, n] + pair[m, n] + table[abs(m - n)] + table[near[m, n]] + last[n]"
    found = explained(SOFTMAX.replace("e])", f"e]; {captures})", 1).replace("* 0.25", score, 1))
    assert [line.rpartition("]: ")[2] for line in found.captured] == [
        "summed over r, stored once in backward_pairs",
        "summed over b, g, r, stored once in backward_pairs_2",
        "summed over b, g, r, added up by diagonals in backward_pairs_2",
        "summed over b, g, r, added up by sorted positions in backward_pairs_2",
        "by columns in backward_columns, partials summed over b, g",
    ]
    biased = SOFTMAX.replace("e])", "e]; bias: float[:, :, :, :])", 1)
    whole = explained(biased.replace("* 0.25", "* 0.25 + bias[b, g * extent(r) + r, m, n]"))
    assert whole.captured == ("bias[b, g * extent(r) + r, m, n]: stored once in backward_rows",)


@pytest.mark.parametrize("step", ["trace", "canonicalize", "streaming", "differentiate", "factor", "partition"])
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
    """Tokens stay as they come where a length is read."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def dilated(q: Any, k: Any, v: Any) -> Any:
        m, n = attngen.index("m"), attngen.index("n")
        scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        holds = ((m - n) % 4 == 0) & (m + attngen.extent("n") - attngen.extent("m") >= n)
        weights = attngen.softmax(attngen.where(holds, scores, -torch.inf), over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", weights, v)

    attend = attngen.compile(dilated, arch="sm90")
    assert "order=attngen.grid(N).order(dilation=4) leaves about one tile in 4 to visit" in attend.explain()
    other = attngen.attention(mask_mod=lambda b, h, q, k: (q - k) % 4 == 0, order=attngen.grid(64).order(dilation=4), name="dilated")
    assert attngen.compile(other, arch="sm90").explained().order.endswith("in tiles of 16 of equal remainders by 4")


def test_a_mask_that_stays_a_number_is_named() -> None:
    """With the line that made it, and why no predicate stands for it."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", gate="b h n")
    def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
        scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        masked = attngen.where(attngen.index("m") >= attngen.index("n"), scores, -torch.inf) * gate
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(masked, over="n"), v)

    (note,) = attngen.compile(gated, arch="sm90").explained(head_dim=64).masks
    assert note.startswith("test_explain.py:") and "masked = attngen.where(" in note and "the sign of a factor is unknown" in note
    plain = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k), arch="sm90").explained(head_dim=64)
    assert plain.masks == () and "stay numbers" not in plain.text()
