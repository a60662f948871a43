from __future__ import annotations

import sys

import pytest
import torch
import triton.language as tl

from attngen.errors import CompileFailed, InternalError
from attngen.interpreter import interpreter
from attngen.targets import table as target
from attngen.toolchain import compile as inspect
from attngen.toolchain import sass
from tests.runtime import emitted_sample

POINTERS = ("q_ptr", "k_ptr", "v_ptr", "o_ptr")


def job(arch="sm90", dtype="*bf16", warps=4, block_m=64, block_n=64, dim=64, **changes):
    signature = dict.fromkeys(POINTERS, dtype) | {"lse_ptr": "*fp32", "Nq": "i32", "Nkv": "i32", "slope": "fp32"}
    constants = {"D": dim, "BLOCK_M": block_m, "BLOCK_N": block_n, "CAUSAL": True, "ACC": tl.float32}
    fields = {
        "fn": emitted_sample.attention_kernel,
        "signature": signature,
        "constexprs": constants,
        "target": target.get(arch),
        "num_warps": warps,
        "num_stages": 2,
        "divisible": POINTERS,
    }
    return inspect.CompileJob(**(fields | changes))


@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm100", "sm120"])
def test_nvidia_targets(arch):
    compiled = inspect.compile_kernel(job(arch))
    assert (compiled.name, compiled.arch, compiled.num_warps) == ("attention_kernel", arch, 4)
    assert 32 < compiled.registers <= 255
    assert 0 < compiled.shared_bytes <= target.get(arch).shared_bytes
    assert compiled.binary.startswith(b"\x7fELF")
    assert f".target sm_{arch[2:]}" in compiled.assembly
    assert (compiled.tensor_memory_columns > 0) == (arch == "sm100")
    loops = sass.main_loops(sass.disassemble(compiled.binary))
    assert len(loops) == 1
    assert {item.family for item in loops[0].body} & sass.TENSOR_CORE == {{"sm90": "HGMMA", "sm100": "UTCHMMA"}.get(arch, "HMMA")}
    # 64 x 64 scores on 128 threads are 32 exponentials each, and the rescaling of a thread's rows comes on top.
    assert 32 <= loops[0].counts()["MUFU.EX2"] <= 36


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_amd_targets(arch):
    compiled = inspect.compile_kernel(job(arch))
    assert 32 < compiled.registers <= 512
    assert 0 < compiled.shared_bytes <= target.get(arch).shared_bytes
    assert compiled.binary.startswith(b"\x7fELF")
    assert f"-{arch}" in compiled.assembly


@pytest.fixture(scope="module")
def crowded():
    """128 x 256 scores and a 128 x 64 accumulator on 128 threads do not fit 255 registers."""
    return inspect.compile_kernel(job(dim=64, block_m=128, block_n=256))


def test_spills_and_serialisation_are_seen(crowded):
    assert crowded.registers == 255
    assert crowded.spill_bytes > 0
    assert crowded.serialized_wgmma
    assert any("(C75" in warning for warning in crowded.warnings)


def test_spills_in_the_code_add_up_to_the_log(crowded):
    text = sass.disassemble(crowded.binary)
    whole = sass.Loop(0, frozenset(), tuple(sass.parse(text)[0]))
    assert whole.spill_bytes() == crowded.spill_bytes
    assert 0 < sum(loop.spill_bytes() for loop in sass.main_loops(text)) <= crowded.spill_bytes


def test_a_comfortable_kernel_has_neither():
    compiled = inspect.compile_kernel(job())
    assert compiled.spill_bytes == 0
    assert not compiled.serialized_wgmma


def test_fp32_and_fp64_arguments():
    assert inspect.compile_kernel(job("sm80", "*fp32", block_n=32)).registers > 0


def test_jobs_keep_their_order_and_failures_their_place():
    results = inspect.compile_many([job(), job(warps=3), job("sm80"), job(block_m=32)], workers=2)
    assert [getattr(result, "arch", None) for result in results] == ["sm90", None, "sm80", "sm90"]
    assert isinstance(results[1], CompileFailed)
    assert results[0] == inspect.compile_kernel(job())
    with pytest.raises(CompileFailed):
        inspect.compile_kernel(job(warps=3))


def test_an_illegal_kernel_says_for_which_target():
    with pytest.raises(CompileFailed, match="sm90"):
        inspect.compile_kernel(job(dim=48))


@pytest.mark.parametrize(
    "changes",
    [{"signature": {}}, {"constexprs": {"D": 64, "Q": 1}}, {"divisible": ("D",)}, {"fn": emitted_sample.attention}],
    ids=["missing", "unknown", "divisible", "host function"],
)
def test_jobs_that_do_not_match_the_kernel_are_refused(changes):
    with pytest.raises(InternalError):
        inspect.compile_kernel(job(**changes))


def test_divisibility_widens_loads():
    promised = inspect.compile_kernel(job()).assembly
    unknown = inspect.compile_kernel(job(divisible=())).assembly
    assert "cp.async.cg.shared.global" in promised
    assert "cp.async.cg.shared.global" not in unknown


def test_alternates_with_the_interpreter_and_leaves_stdout_alone():
    stdout = sys.stdout
    first = inspect.compile_kernel(job())
    q = torch.randn(1, 8, 16)
    interpreter.interpreted(emitted_sample).attention(q, q, q)
    second = inspect.compile_kernel(job())
    assert first == second
    assert sys.stdout is stdout
