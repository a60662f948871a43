"""What calls run: one entry for each kind of call, from shapes, gradients and options alone."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import pytest
import torch

import attngen
from attngen.errors import MissingKernel
from attngen.plan.call_plan import CallPlan
from attngen.runtime import kernels

SLOPES = torch.arange(8.0)
STEP = {"causal": lambda b, h, q, k: q >= k, "gaps": lambda b, h, q, k: (q >= k) & ((q - k) % 4 == 0)}


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e", gate="b h m")
def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
    s = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
    o = attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)
    return o * attngen.sigmoid(gate)


SPECS = {
    "causal": attngen.attention(mask_mod=STEP["causal"], name="causal"),
    "alibi": attngen.attention(lambda s, b, h, q, k: s + SLOPES[h] * (k - q), STEP["causal"], name="alibi"),
    "gaps": attngen.attention(mask_mod=STEP["gaps"], name="gaps"),
    "dropout": attngen.attention(mask_mod=STEP["causal"], dropout=0.1, name="dropped"),
    "ordered": attngen.attention(order=torch.arange(64).flip(0), name="ordered"),
    "short table": attngen.attention(lambda s, b, h, q, k: s + SLOPES[k], lambda b, h, q, k: k < 8, name="short"),
    "gated": gated,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "deterministic": {"deterministic": True},
    "tiles": {"schedule": {"forward": {"BLOCK_M": 16, "BLOCK_N": 16}}},
    "warps": {"schedule": {"num_warps": 8}},
    "fused": {"schedule": {"backward_fused": {"BLOCK_M": 16}}},
    "sm80": {"arch": "sm80"},
}
TABLE = """
causal | 1x8x64 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
causal | 1x8x2 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=16x32,w8,s4
causal | 1x8x2 2x64 16 | float32 |  |
    packed GQA; float32 on sm90; forward=16x32,w8,s4
causal | 1x8x1 2x8192 16 | float32 |  |
    packed GQA, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal | 1x8x1 8x8192 16 | float32 |  |
    dense, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal | 1x8x16 2x64 16 | float32 |  |
    packed GQA; float32 on sm90; forward=32x32,w4,s4
causal | 1x8x17 2x64 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
causal | 1x8x0 2x64 16 | float32 |  |
    dense; float32 on sm90; forward=16x32,w8,s4
causal | 1x8x64 8x0 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
causal | 1x8x1 8x511 16 | float32 |  |
    dense; float32 on sm90; forward=16x32,w8,s4
causal | 1x8x1 8x512 16 | float32 |  |
    dense, 2 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal | 16x16x1 16x8192 16 | float32 |  |
    dense; float32 on sm90; forward=16x32,w8,s4
causal | 1x8x1 2x131072 16 | float32 |  |
    packed GQA, 132 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal | 2x8x1 1x8192 16 | float32 |  |
    packed GQA, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal | 1x8x64 8x64 16 | float32 | q k v |
    dense; split backward for k, q, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
    backward_columns=32x32,w4,s3
causal | 1x8x64 2x64 16 | float32 | q |
    dense; split backward for q; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
causal | 1x8x64 8x64 16 | float32 | k v |
    dense; split backward for k, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_columns=32x32,w4,s3
causal | 1x8x64 8x64 16 | float32 | v |
    dense; split backward for v; float32 on sm90; forward=32x32,w4,s4 backward_columns=32x32,w4,s4
causal | 1x8x2 2x64 16 | float32 | q k v |
    dense; split backward for k, q, v; float32 on sm90; forward=16x32,w8,s4 backward_prepare=16,w4,s1 backward_rows=16x32,w8,s4
    backward_columns=32x16,w4,s4
causal | 1x8x1 2x8192 16 | float32 | q |
    dense; split backward for q; float32 on sm90; forward=16x32,w8,s4 backward_prepare=16,w4,s1 backward_rows=16x32,w8,s4
causal | 4x16x4096 16x4096 64 | bfloat16 |  |
    dense; bfloat16 on sm90; forward=128x64,w4,s2,pipe,late,tma
causal | 4x16x4096 16x4096 64 | bfloat16 | q k v |
    dense; fused backward for k, q, v; bfloat16 on sm90; forward=128x64,w4,s2,pipe,late,tma backward_prepare=64,w4,s1
    backward_fused=128x64,w8,s2 backward_finish=64,w4,s1
causal | 4x16x4096 4x4096 64 | bfloat16 | q k v |
    dense; fused backward for k, q, v; bfloat16 on sm90; forward=128x64,w4,s2,pipe,late,tma backward_prepare=64,w4,s1
    backward_fused=128x64,w8,s2 backward_finish=64,w4,s1
causal, deterministic | 4x16x4096 16x4096 64 | bfloat16 | q k v |
    dense; split backward for k, q, v; bfloat16 on sm90; forward=128x64,w4,s2,pipe,late,tma backward_prepare=64,w4,s1
    backward_rows=64x128,w4,s2,tma backward_columns=128x64,w8,s2,tma
causal, tiles | 1x8x64 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=16x16,w4,s4
causal, tiles | 1x8x64 8x64 16 | float32 | q k v |
    dense; split backward for k, q, v; float32 on sm90; forward=16x16,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
    backward_columns=32x32,w4,s3
causal, tiles | 1x8x1 2x8192 16 | float32 |  |
    packed GQA, 32 splits; float32 on sm90; forward_parts=16x16,w8,s4 forward_merge=1x64,w4,s1
causal, tiles | 1x8x2 2x64 16 | float32 |  |
    packed GQA; float32 on sm90; forward=16x16,w8,s4
causal, warps | 1x8x64 8x64 16 | float32 | q k v |
    dense; split backward for k, q, v; float32 on sm90; forward=32x32,w8,s4 backward_prepare=64,w8,s1 backward_rows=32x32,w8,s3
    backward_columns=32x32,w8,s3
causal, warps | 1x8x1 8x8192 16 | float32 |  |
    dense, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
causal, fused | 1x8x64 8x64 16 | float32 | q k v |
    dense; fused backward for k, q, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_fused=32x16,w4,s3
    backward_finish=64,w4,s1
causal, fused | 1x8x64 8x64 16 | float32 | q |
    dense; split backward for q; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
causal, fused | 1x8x64 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
causal, sm80 | 1x8x1 2x8192 16 | float32 |  |
    packed GQA, 32 splits; float32 on sm80; forward_parts=16x32,w4,s4 forward_merge=1x64,w4,s1
causal | 1x8x64 8x64 16 | float32 |  | lse
    dense, lse; float32 on sm90; forward=32x32,w4,s4
causal | 1x8x1 8x8192 16 | float32 |  | lse
    dense, 32 splits, lse; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
alibi | 1x8x2 2x64 16 | float32 |  |
    packed GQA; float32 on sm90; forward=16x32,w8,s4
alibi | 1x8x64 8x64 16 | float32 | q k v |
    dense; split backward for k, q, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
    backward_columns=32x32,w4,s3
gaps | 1x8x64 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
gaps | 1x8x1024 8x1024 16 | float32 |  |
    dilated by 4; float32 on sm90; forward=32x32,w4,s4
gaps | 1x8x1024 2x1024 16 | float32 | q k v |
    dilated by 4; split backward for k, q, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
    backward_columns=32x32,w4,s3
gaps | 1x8x1 2x8192 16 | float32 |  |
    packed GQA, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
dropout | 1x8x64 8x64 16 | float32 |  |
    dense, dropout; float32 on sm90; forward=32x32,w4,s3
dropout | 1x8x64 8x64 16 | float32 |  | inference
    dense; float32 on sm90; forward=32x32,w4,s4
dropout | 1x8x1 2x8192 16 | float32 |  |
    packed GQA, 32 splits, dropout; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
ordered | 1x8x64 8x64 16 | float32 |  |
    permuted; float32 on sm90; forward=32x32,w4,s4
ordered | 1x8x64 8x64 16 | float32 | q k v |
    permuted; split backward for k, q, v; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1 backward_rows=32x32,w4,s3
    backward_columns=32x32,w4,s3
short table | 1x8x64 8x64 16 | float32 |  |
    dense, size of SLOPES looked at; float32 on sm90; forward=32x32,w4,s4
short table | 1x8x4 8x4 16 | float32 |  |
    dense; float32 on sm90; forward=16x32,w8,s4
gated | 1x8x64 8x64 16 | float32 |  |
    dense; float32 on sm90; forward=32x32,w4,s4
gated | 1x8x64 8x64 16 | float32 | gate |
    dense; split backward for gate; float32 on sm90; forward=32x32,w4,s4 backward_prepare=64,w4,s1
gated | 1x8x1 8x8192 16 | float32 |  |
    dense, 32 splits; float32 on sm90; forward_parts=16x32,w8,s4 forward_merge=1x64,w4,s1
"""
"""variant, options; batch x query heads x queries, key heads x keys, head dim; dtype; gradients; flags of the call; then its plan"""


def entries() -> list[tuple[str, str]]:
    """Calls and their plans."""
    found: list[tuple[str, str]] = []
    for line in TABLE.strip().splitlines():
        if line.startswith(" "):
            call, plan = found.pop()
            found.append((call, f"{plan} {line.strip()}".strip()))
        else:
            found.append((line, ""))
    return found


@cache
def attend(name: str, options: str) -> attngen.Attention:
    return attngen.compile(SPECS[name], **{"arch": "sm90", **OPTIONS[options]})


def plan(call: str) -> CallPlan:
    """The plan of an entry."""
    variant, shape, dtype, gradients, flags = (item.strip() for item in call.split("|"))
    what, _, options = (item.strip() for item in variant.partition(","))
    given: dict[str, Any] = {"return_lse": True} if flags == "lse" else {"training": False} if flags == "inference" else {}
    queries, keys, dim = shape.split()
    (batch, heads, rows), (kv_heads, columns) = (tuple(map(int, sizes.split("x"))) for sizes in (queries, keys))
    key = (batch, kv_heads, columns, int(dim))
    more = {"gate": (batch, heads, rows)} if what == "gated" else {}
    return attend(what, options).plan(
        q=(batch, heads, rows, int(dim)), k=key, v=key, dtype=dtype, gradients=gradients.split(), **more, **given
    )


def test_the_table() -> None:
    """Programs and tiles are worked out once; planning by itself then takes milliseconds."""
    found = [(call, str(plan(call))) for call, _ in entries()]
    assert found == entries()
    assert len(found) >= 40 and len(set(found)) == len(found)
    began = time.process_time()
    assert [(call, str(plan(call))) for call, _ in entries()] == found
    assert time.process_time() - began < 1.0


def test_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("a module is built")

    monkeypatch.setattr(kernels, "build", build)
    monkeypatch.setattr(kernels, "load_module", build)
    for call, expected in entries()[:4]:
        assert str(plan(call)) == expected


def test_a_plan_is_a_value() -> None:
    call, other = entries()[0][0], entries()[1][0]
    assert plan(call) == plan(call) != plan(other)
    assert len({plan(call), plan(call), plan(other)}) == 2


def test_tensors_and_their_shapes_have_one_plan() -> None:
    """Strides do not matter, and what requires a gradient is seen."""
    q, k = torch.empty(1, 64, 8, 16).transpose(1, 2).requires_grad_(), torch.empty(1, 8, 64, 16)
    mine = attend("causal", "")
    assert mine.plan(q, k, tuple(k.shape), dtype="float32") == mine.plan((1, 8, 64, 16), k.shape, v=k, dtype="float32", gradients=["q"])
    with torch.no_grad():
        assert mine.plan(q, k, k).backward is None
    with torch.autocast("cpu", torch.bfloat16):
        assert mine.plan(q, k, k).facts.dtype == "bfloat16"


def test_a_captured_tensor_that_trains_is_a_gradient() -> None:
    slopes = torch.zeros(8, requires_grad=True)
    mine = attngen.compile(attngen.attention(lambda s, b, h, q, k: s + slopes[h] * k))
    found = mine.plan((1, 8, 1, 16), (1, 2, 64, 16), (1, 2, 64, 16))
    assert (found.layout, found.facts.gradients, found.backward_form) == ("dense", {"slopes"}, "split")


def test_pytorch_may_ask_for_equal_results() -> None:
    mine, key = attend("causal", ""), (1, 8, 4096, 64)
    every = {"dtype": "bfloat16", "gradients": ("q", "k", "v")}
    torch.use_deterministic_algorithms(True)
    try:
        assert mine.plan(key, key, key, **every).why == "deterministic results are asked for"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.kernels
def test_programs_of_a_call_of_two_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec is canonicalised once, and nothing but the program that runs is analysed."""
    from attngen import pipeline
    from attngen.plan import programs

    counted = {"canonicalize": 0, "analyse": 0}

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def run(*args: Any, **options: Any) -> Any:
            counted[name] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, run)

    counting(pipeline, "canonicalize")
    counting(programs, "analyse")
    for heads, mask in ((4, lambda b, h, q, k: q + 598 >= k), (2, lambda b, h, q, k: (q + 598 >= k) & (k > 2))):
        counted |= {"canonicalize": 0, "analyse": 0}
        mine = attngen.compile(attngen.attention(mask_mod=mask, name="counted"), arch="sm90")
        with torch.no_grad():
            mine(torch.randn(1, 4, 2, 16), *torch.randn(2, 1, heads, 600, 16).unbind())
        assert counted == {"canonicalize": 1, "analyse": 1}


def test_strict_mode_plans_what_is_stored(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    mine = attngen.compile(attngen.attention(), arch="sm90")
    q, k = (1, 8, 1, 16), (1, 2, 8192, 16)
    assert str(mine.plan(q, k, k, dtype="float32")).startswith("dense;")
    with pytest.raises(MissingKernel):
        mine(torch.empty(q), *torch.empty(2, *k).unbind())


def test_tensors_on_the_cpu_run_program_by_program() -> None:
    """Nothing is split for the sake of multiprocessors, and the backward takes fewer products, in the same order in every run."""
    mine = attend("causal", "deterministic")
    q, k = torch.empty(1, 8, 1, 16), torch.empty(1, 2, 8192, 16)
    assert str(mine.plan(q, k, k)) == "packed GQA; float32 on the CPU"
    trained = mine.plan(*(tensor.clone().requires_grad_() for tensor in (q, k, k)))
    assert str(trained) == "dense; fused backward for k, q, v; float32 on the CPU"
    assert "32 splits" in str(mine.plan((1, 8, 1, 16), (1, 2, 8192, 16), (1, 2, 8192, 16)))
