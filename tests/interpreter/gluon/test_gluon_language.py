from __future__ import annotations

import importlib.util
import re
import threading
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from attngen.errors import InternalError
from attngen.interpreter import interpreter
from attngen.interpreter.gluon import warp_scheduler
from attngen.interpreter.gluon.race_detector import Accesses
from tests.interpreter.gluon import gluon_kernel, gluon_units

SEEDS = range(3)
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def sample():
    return interpreter.interpreted(gluon_kernel)


@pytest.fixture(scope="module")
def units():
    return interpreter.interpreted(gluon_units)


def inputs(dtype=torch.float16, length=200, dim=16, heads=1):
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(heads, length, dim, generator=generator).to(dtype) for _ in range(3)]


def reference(q, k, v):
    s = q.double() @ k.double().mT * q.shape[-1] ** -0.5
    s = s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), float("-inf"))
    return torch.softmax(s, -1) @ v.double(), torch.logsumexp(s, -1)


def is_right(results, q, k, v):
    pairs = zip(results, reference(q, k, v), strict=True)
    return all((found.double() - wanted).abs().max() < TOLERANCE[q.dtype] for found, wanted in pairs)


@pytest.mark.parametrize(
    ("dtype", "length", "dim", "heads", "stages"),
    [
        (torch.float16, 300, 64, 1, 2),
        (torch.float16, 101, 32, 2, 3),
        (torch.bfloat16, 137, 16, 2, 2),
        (torch.bfloat16, 128, 64, 1, 1),
    ],
)
def test_attention_is_right_and_the_same_whatever_the_timing(sample, monkeypatch, dtype, length, dim, heads, stages):
    q, k, v = inputs(dtype, length, dim, heads)
    found = []
    for seed in range(5):
        monkeypatch.setattr(warp_scheduler, "timing_seed", seed)
        found.append(sample.attention(q, k, v, stages=stages))
    assert is_right(found[0], q, k, v)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


READY_WAIT = "    mbarrier.wait(ready.index(slot), turn // STAGES & 1)\n"
FREE_WAIT = "    mbarrier.wait(free.index(slot), turn // STAGES & 1 ^ 1)\n"
K_RELEASE = "        s_next = warpgroup_mma_wait(1, (s_token,))\n        give(k_free, turn + 1, STAGES)\n"
V_RELEASE = "        acc = warpgroup_mma_wait(0, (acc_token,))\n        give(v_free, turn, STAGES)\n"
FIRST_RELEASE = "zero, use_acc=False)\n    give(k_free, turn, STAGES)\n"
K_FREE_INIT = "mbarrier.init(k_free.index(slot), count=2)"
UNORDERED = "(writes|reads) shared memory that .* (writes|reads), and nothing waits for that in between"

MUTANTS = {
    "no wait for ready": (READY_WAIT, "", f"{UNORDERED}|deadlock"),
    "no wait for free": (FREE_WAIT, "", f"{UNORDERED}|arrived at more often than its count of 1"),
    "released before the product of scores ends": (K_RELEASE, "".join(reversed(K_RELEASE.splitlines(keepends=True))), UNORDERED),
    "released before the product of outputs ends": (V_RELEASE, "".join(reversed(V_RELEASE.splitlines(keepends=True))), UNORDERED),
    "released twice": (V_RELEASE, V_RELEASE + "        give(v_free, turn, STAGES)\n", f"{UNORDERED}|deadlock|arrived at more often"),
    "never released": (V_RELEASE, V_RELEASE.splitlines(keepends=True)[0], "deadlock.* of v_free"),
    "the producer waits for the wrong phase": ("turn // STAGES & 1 ^ 1", "turn // STAGES & 1", "deadlock"),
    "the consumers wait for the wrong phase": (READY_WAIT, READY_WAIT.replace("& 1)", "& 1 ^ 1)"), f"{UNORDERED}|deadlock"),
    "a count too high": (K_FREE_INIT, K_FREE_INIT.replace("2", "3"), "deadlock.* of k_free.* 1 of 3 arrivals"),
    "a count too low": (K_FREE_INIT, K_FREE_INIT.replace("2", "1"), f"{UNORDERED}|deadlock"),
    "a count of arrivals that do not come": ("v_ready.index(slot), count=1", "v_ready.index(slot), count=2", "deadlock.* of v_ready"),
    "too many bytes expected": ("rows.block_type.nbytes", "rows.block_type.nbytes + 16", "deadlock.* and 16 bytes are missing"),
    "too few bytes expected": ("rows.block_type.nbytes", "rows.block_type.nbytes - 16", "16 bytes more than were announced"),
    "no bytes expected": ("    mbarrier.expect(ready.index(slot), rows.block_type.nbytes)\n", "", "deadlock"),
    "a barrier without init": ("        mbarrier.init(v_ready.index(slot), count=1)\n", "", "is used and not initialised"),
    "the accumulator read without a wait": (V_RELEASE, V_RELEASE.replace("warpgroup_mma_wait(0, (acc_token,))", "acc_token"), "not waited"),
    "the scores read after too weak a wait": ("warpgroup_mma_wait(1,", "warpgroup_mma_wait(2,", "product .* has not waited for"),
    "no fence after the store of queries": ("store(q)\n    fence_async_shared()\n", "store(q)\n", "without fence_async_shared"),
    "another slot than waited for": ("(a, v, acc,", "(a, v_ring.index((turn + 1) % STAGES), acc,", UNORDERED),
    "a copy for nobody": (
        "range(0, end, BLOCK_N):\n        put",
        "range(0, end + 1, BLOCK_N):\n        put",
        "nobody has waited for the copy",
    ),
}


def mutant(folder: Path, where: str, instead: str):
    text = Path(gluon_kernel.__file__).read_text()
    assert text.count(where) >= 1
    path = folder / "gluon_mutant.py"
    path.write_text(text.replace(where, instead))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return interpreter.interpreted(module)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_timing_finds_a_wrong_protocol(tmp_path, monkeypatch, name):
    where, instead, message = MUTANTS[name]
    wrong = mutant(tmp_path, where, instead)
    for seed in SEEDS:
        monkeypatch.setattr(warp_scheduler, "timing_seed", seed)
        with pytest.raises(InternalError, match=f"program \\(\\d, 0, 0\\), .*gluon_mutant.py.*({message})"):
            wrong.attention(*inputs())


@pytest.mark.parametrize("name", ["released before the product of outputs ends", "another slot than waited for"])
def test_moments_alone_show_wrong_protocols_in_the_numbers(tmp_path, monkeypatch, name):
    monkeypatch.setattr(Accesses, "add", lambda *_: None)
    wrong = mutant(tmp_path, *MUTANTS[name][:2])
    q, k, v = inputs()
    found = []
    for seed in range(8):
        monkeypatch.setattr(warp_scheduler, "timing_seed", seed)
        found.append(is_right(wrong.attention(q, k, v), q, k, v))
    assert not all(found)


def test_a_deadlock_names_who_waits_where_and_for_what(tmp_path):
    where, instead, _ = MUTANTS["the producer waits for the wrong phase"]
    with pytest.raises(InternalError) as caught:
        mutant(tmp_path, where, instead).attention(*inputs())
    for waits in (
        r"partition 0, consumer \(consumer:\d+ > take:\d+\) waits for phase 0 of k_ready\[0\], where 1 of 1 arrivals",
        r"partition 1, consumer \(consumer:\d+ > take:\d+\) waits for phase 0 of k_ready\[0\], where 1 of 1 arrivals",
        r"partition 2, loader \(loader:\d+ > put:\d+\) waits for phase 0 of k_free\[0\], where 2 of 2 arrivals and 0 bytes are missing",
    ):
        assert re.search(waits, str(caught.value))


def test_after_a_failure_the_language_is_as_before_and_no_thread_is_left(tmp_path, sample):
    before = threading.active_count()
    where, instead, _ = MUTANTS["no wait for free"]
    with pytest.raises(InternalError):
        mutant(tmp_path, where, instead).attention(*inputs())
    assert threading.active_count() == before
    assert isinstance(tl.sum, JITFunction)
    q, k, v = inputs()
    assert is_right(sample.attention(q, k, v), q, k, v)


def test_the_simulated_kernel_is_one_that_compiles(sample):
    from triton.experimental.gluon._runtime import GluonASTSource

    sample.attention(*inputs(length=100))
    constants = {"DIM": 16, "BLOCK_M": 128, "BLOCK_N": 64, "DTYPE": tl.float16, "STAGES": 2}
    pointers = {"q_ptr": "*fp16", "k_ptr": "*fp16", "v_ptr": "*fp16", "o_ptr": "*fp16", "lse_ptr": "*fp32"}
    signature = {**pointers, "length": "i32", "scale": "fp32", **dict.fromkeys(constants, "constexpr")}
    source = GluonASTSource(fn=gluon_kernel.forward_kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.metadata.num_warps == 12


def test_what_the_first_partition_returns_and_stores_is_there_afterwards(units):
    x = torch.arange(16.0)
    out = torch.full_like(x, float("nan"))
    units.results_kernel[(1,)](x, out, SIZE=16, num_warps=4)
    assert torch.equal(out, 2 * x + 121)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_memory_that_nobody_wrote_is_nan(units, dtype):
    out = torch.zeros(16, dtype=dtype)
    units.garbage_kernel[(1,)](out, SIZE=16)
    assert out.isnan().all()


@pytest.mark.parametrize(("kernel", "message"), [("ranks_kernel", "unequal ranks"), ("layout_kernel", "BlockedLayout")])
def test_blocks_must_have_the_rank_of_what_they_meet(units, kernel, message):
    with pytest.raises(InternalError, match=message):
        getattr(units, kernel)[(1,)](torch.zeros(256), SIZE=16)
