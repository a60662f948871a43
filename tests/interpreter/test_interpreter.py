from __future__ import annotations

import contextlib
import threading
import warnings

import pytest
import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from attngen.errors import DeviceMismatch, InternalError
from attngen.interpreter import interpreter
from tests.runtime import emitted_sample


@pytest.fixture(scope="module")
def sample():
    return interpreter.interpreted(emitted_sample)


def reference(q, k, v, slope, causal):
    s = q.double() @ k.double().transpose(-1, -2)
    rows, columns = torch.arange(q.shape[1])[:, None], torch.arange(k.shape[1])[None, :]
    s = s + slope * (columns - rows).double()
    if causal:
        s = s.masked_fill(rows < columns, float("-inf"))
    return torch.softmax(s, -1) @ v.double(), torch.logsumexp(s, -1)


def inputs(dtype, rows=40, columns=50, dim=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, dim, generator=generator, dtype=torch.float64).to(dtype) for n in (rows, columns, columns)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 5e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
)
def test_attention_in_every_precision(sample, dtype, tolerance, causal):
    q, k, v = inputs(dtype)
    slope = 1 / 3
    o, lse = sample.attention(q, k, v, slope, causal)
    expected_o, expected_lse = reference(q, k, v, slope, causal)
    torch.testing.assert_close(o.double(), expected_o, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, atol=min(tolerance, 1e-4), rtol=1e-5)


def test_atomics_and_static_range(sample):
    x = torch.arange(40, dtype=torch.float32)
    out, total = torch.zeros(3), torch.zeros(2)
    sample.sum_columns_kernel[(3,)](x, out, total, 40, BLOCK=16, REPEAT=3)
    assert out.tolist() == [780.0] * 3
    assert total.tolist() == [380.0, 400.0]


def test_bfloat16_arithmetic_rounds_like_torch(sample):
    x, y = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    out = torch.full((5, 64), float("nan"), dtype=torch.bfloat16)
    sample.bfloat16_kernel[(1,)](x, y, out, 64, BLOCK=64)
    wide_x, wide_y = x.float(), y.float()
    expected = [(x * 2.0 + y).float(), torch.where(x > y, x, -y).float(), torch.maximum(wide_x, wide_y) / wide_y, wide_x.abs() - wide_y]
    assert torch.equal(out[:4], torch.stack(expected).bfloat16())
    torch.testing.assert_close(out[4].float(), wide_x.sum().expand(64), rtol=2**-7, atol=0)


@pytest.mark.parametrize("bits", [0x0000, 0x7F80, 0xFF80, 0x7FC0, 0x0001])
def test_bfloat16_special_values_survive(bits):
    from attngen.interpreter.language import Handle, narrow, np, widen

    data = np.array([bits], dtype=np.uint16)
    assert narrow(widen(Handle(data, tl.bfloat16)).data).data.tolist() == [bits]


def test_every_rounding_boundary_matches_torch():
    from attngen.interpreter.language import narrow, np

    halves = torch.arange(0, 0x7F80, 7, dtype=torch.int64) * 0x10000
    bits = (halves[:, None] + torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])).flatten().to(torch.int32)
    values = bits.view(torch.float32)
    ours = torch.from_numpy(narrow(values.numpy()).data.view(np.int16)).view(torch.bfloat16)
    assert torch.equal(ours, values.bfloat16())


def test_scalar_arguments(sample):
    out = torch.zeros(4, dtype=torch.float64)
    sample.scalars_kernel[(1,)](out, 0.1, 2**40, True, 1 / 3, None)
    assert out.tolist() == [0.1, 2.0**40, 1.0, 1 / 3]
    narrow = torch.zeros(4)
    sample.scalars_kernel[(1,)](narrow, 0.1, 3, True, 0.25, None)
    assert narrow.tolist() == [torch.tensor(0.1).item(), 3.0, 0.0, 0.25]


def test_loop_variables_are_tensors(sample):
    out = torch.full((10,), -1, dtype=torch.int64)
    sample.loop_variable_kernel[(1,)](out, 2, 8, STEP=3)
    assert out.tolist() == [-1, -1, 2, 2, -1, 5, 5, -1, -1, -1]


@pytest.mark.parametrize(("first", "fits"), [(2**31 - 5, True), (2**31 - 4, False)])
def test_narrow_integers_that_overflow_are_an_error(sample, first, fits):
    with contextlib.nullcontext() if fits else pytest.raises(InternalError, match="int32 overflow in add"):
        sample.shifted_kernel[(1,)](torch.zeros(4, dtype=torch.int64), first, BLOCK=4)


def test_a_block_as_truth_value_is_an_error(sample):
    with pytest.raises(InternalError, match="emitted_sample"):
        sample.block_truth_kernel[(1,)](torch.rand(16), BLOCK=16)


def test_other_devices_are_refused(sample):
    q = torch.empty(1, 4, 16, device="meta")
    with pytest.raises(DeviceMismatch):
        sample.attention(q, q, q)


def test_rows_that_see_nothing_raise_no_numpy_warning(sample):
    q, k, v = inputs(torch.float32, rows=4, columns=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        o, lse = sample.attention(q, k, v)
    assert (o == 0).all()
    assert (lse == -float("inf")).all()


def compile_sample():
    names = emitted_sample.attention_kernel.arg_names
    signature = dict.fromkeys(names[:4], "*bf16") | {"lse_ptr": "*fp32", "Nq": "i32", "Nkv": "i32", "slope": "fp32"}
    constants = {"D": 16, "BLOCK_M": 32, "BLOCK_N": 16, "CAUSAL": True, "ACC": tl.float32}
    source = ASTSource(emitted_sample.attention_kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True})


def test_compiled_and_interpreted_alternate(sample):
    q, k, v = inputs(torch.float32)
    first, _ = sample.attention(q, k, v, 0.5, True)
    before = compile_sample().asm["ptx"]
    second, _ = interpreter.interpreted(emitted_sample).attention(q, k, v, 0.5, True)
    after = compile_sample().asm["ptx"]
    assert torch.equal(first, second)
    assert before == after


def test_the_language_is_restored(sample):
    owners = [tl, tl.core, tl.standard, tl.math, tl.tensor, tl.dtype]
    before = [dict(vars(owner)) for owner in owners]
    sample.loop_variable_kernel[(1,)](torch.zeros(10, dtype=torch.int64), 0, 1, STEP=1)
    with pytest.raises(InternalError):
        sample.block_truth_kernel[(1,)](torch.rand(16), BLOCK=16)
    for owner, names in zip(owners, before, strict=True):
        assert vars(owner).keys() == names.keys()
        assert [name for name, value in names.items() if vars(owner)[name] is not value] == []


def test_threads_take_turns(sample):
    q, k, v = inputs(torch.float32)
    expected, _ = sample.attention(q, k, v)
    results = []
    threads = [threading.Thread(target=lambda: results.append(sample.attention(q, k, v)[0])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


def test_self_check_names_the_version(monkeypatch):
    from attngen.interpreter import self_check as probe

    interpreter.self_check.cache_clear()
    monkeypatch.setattr(probe, "__file__", emitted_sample.__file__)
    with pytest.raises(InternalError, match=triton.__version__):
        interpreter.self_check()
    monkeypatch.undo()
    interpreter.self_check.cache_clear()
    interpreter.self_check()
