"""Calls of a compiled variant: shapes and layouts, grouped heads, lse, merging, memory, and nothing rebuilt from call to call."""

from __future__ import annotations

import inspect
import logging
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.errors import ArgumentError, ShapeMismatch
from attngen.knobs import Knobs
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.runtime import kernels as runtime_kernels
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.space import length_class
from attngen.targets import table as target
from tests.e2e import dense
from tests.e2e.dense import FEW, normal


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def attention(*args: Any, **options: Any) -> attngen.Attention:
    return attngen.compile(attngen.attention(*args, **options), schedule=FEW)


def inputs(rows: int, keys: int, *, batch: int = 1, heads: int = 2, groups: int = 1) -> list[Tensor]:
    shapes = (batch, heads, rows, 16), (batch, groups, keys, 16), (batch, groups, keys, 32)
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


def check(attend: attngen.Attention, tensors: list[Tensor], leaves: list[Tensor] | None = None) -> None:
    """Output and gradients against the reference."""
    leaves = tensors if leaves is None else leaves
    found, expected = attend(*tensors), attend.reference(*tensors)
    dense.assert_equal((found, *dense.gradients(found, leaves)), (expected, *dense.gradients(expected, leaves)), 1e-12)


# ---- shapes


@pytest.mark.parametrize("rows, keys", [(1, 1), (1, 100), (63, 65), (64, 64), (100, 63), (129, 1)])
def test_lengths(rows: int, keys: int) -> None:
    check(attention(mask_mod=causal), inputs(rows, keys))


@pytest.mark.parametrize("rows, keys, batch", [(0, 5, 1), (5, 0, 1), (0, 0, 1), (5, 5, 0)])
def test_nothing(rows: int, keys: int, batch: int) -> None:
    """Rows without keys give 0 and an lse of minus infinity."""
    attend, tensors = attention(), inputs(rows, keys, batch=batch)
    found, lse = attend(*tensors, return_lse=True)
    assert found.shape == (batch, 2, rows, 32)
    assert not found.any()
    assert (lse == float("-inf")).all() or keys
    found.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.shape == tensor.shape and not tensor.grad.any() for tensor in tensors)


@pytest.mark.parametrize("heads, groups", [(4, 4), (4, 1), (6, 2), (6, 3)])
def test_grouped_heads(heads: int, groups: int) -> None:
    """The mods see the head of the query."""
    slopes = normal(heads)
    q, k, v = inputs(30, 40, batch=2, heads=heads, groups=groups)
    attend = attention(lambda score, b, h, q_idx, kv_idx: score + slopes[h] * kv_idx, causal)
    found = attend(q, k, v)
    expected = dense.attention(q, k, v, lambda score, b, h, q_idx, kv_idx: score + slopes[h] * kv_idx, causal)
    leaves = (q, k, v, slopes)
    dense.assert_equal((found, *dense.gradients(found, leaves)), (expected, *dense.gradients(expected, leaves)), 1e-12)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_batch_of_one_is_shared(which: int) -> None:
    tensors = inputs(20, 30, batch=3)
    small = normal(1, *tensors[which].shape[1:], seed=9)
    tensors[which] = small
    check(attention(mask_mod=causal), tensors)


def test_arguments_by_name() -> None:
    attend, (q, k, v) = attention(), inputs(9, 9)
    dense.assert_equal((attend(v=v, q=q, k=k),), (attend(q, k, v),), 0.0)


def test_features() -> None:
    """One callable for several feature lengths, with and without padding to a power of two."""
    attend = attention(mask_mod=causal)
    for depth, width in ((16, 16), (40, 24), (8, 64), (16, 16), (72, 16), (1, 3)):
        check(attend, [normal(1, 1, 10, size, seed=seed) for seed, size in enumerate((depth, depth, width))])


def sliced(tensor: Tensor) -> Tensor:
    """The same values inside of a larger tensor, behind an odd offset."""
    whole = torch.full((*tensor.shape[:-2], tensor.shape[-2] + 3, tensor.shape[-1] + 5), float("nan"), dtype=tensor.dtype)
    part = whole[..., 1:-2, 3:-2]
    part.copy_(tensor.detach())
    return part.requires_grad_()


def interleaved(tensor: Tensor) -> Tensor:
    """The same values, every other element of a larger tensor: strided in the last dimension."""
    return torch.stack([tensor.detach(), torch.full_like(tensor, float("nan"))], -1)[..., 0].requires_grad_()


def position_first(tensor: Tensor) -> Tensor:
    return tensor.detach().permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3).requires_grad_()


@pytest.mark.parametrize("layout", [sliced, interleaved, position_first], ids=lambda layout: layout.__name__)
def test_layouts(layout: Any) -> None:
    check(attention(mask_mod=causal), [layout(tensor) for tensor in inputs(20, 30, batch=2)])


def test_strided_features_are_copied_with_a_notice(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = inputs(20, 31)
    attend = attngen.compile(attngen.attention(mask_mod=causal, softcap=7.25), schedule=FEW)
    with caplog.at_level(logging.WARNING, "attngen"):
        for _ in range(2):
            attend(q, interleaved(k), v)
    assert [record.getMessage().count("k ") for record in caplog.records if "copied" in record.getMessage()] == [1]


def test_slices_of_one_projection() -> None:
    """q, k and v as parts of one tensor; its gradient comes back whole."""
    fused = normal(2, 30, 3, 2, 16)
    attend = attention(mask_mod=causal)

    def run(call: Any) -> tuple[Tensor, ...]:
        output = call(*fused.permute(2, 0, 3, 1, 4).unbind(0))
        return output, *dense.gradients(output, (fused,))

    dense.assert_equal(run(attend), run(attend.reference), 1e-12)


def test_expanded_cotangents() -> None:
    attend, tensors = attention(mask_mod=causal), inputs(20, 30)
    found = torch.autograd.grad(attend(*tensors).sum(), tensors)
    dense.assert_equal(found, torch.autograd.grad(attend.reference(*tensors).sum(), tensors), 1e-12)


# ---- lse

SINK = torch.linspace(-1, 1, 2, dtype=torch.float64)


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def written_out(q: Any, k: Any, v: Any) -> Any:
    p = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k), over="n")
    return {"o": attngen.einsum("b h m n, b h n e -> b h m e", p, v)}


WITH_LSE = {
    "softmax": attngen.attention(),
    "causal": attngen.attention(mask_mod=causal),
    "softcap": attngen.attention(softcap=3.0),
    "sink": attngen.attention(sink=SINK),
    "cascade": written_out,
}


@pytest.mark.parametrize("name", WITH_LSE)
def test_lse_and_its_gradient(name: str) -> None:
    attend = attngen.compile(WITH_LSE[name], schedule=FEW)
    tensors = inputs(20, 30, groups=2)
    found, expected = (call(*tensors, return_lse=True) for call in (attend, attend.reference))
    if isinstance(found, dict):
        assert list(found) == list(expected) == ["o", "lse"]
        found, expected = tuple(found.values()), tuple(expected.values())
    assert found[1].shape == (1, 2, 20)
    for pick in ((0, 1), (1,), (0,)):
        mine = torch.autograd.grad(
            sum((found[i].sin().sum() for i in pick), torch.zeros(())), tensors, retain_graph=True, allow_unused=True
        )
        right = torch.autograd.grad(
            sum((expected[i].sin().sum() for i in pick), torch.zeros(())), tensors, retain_graph=True, allow_unused=True
        )
        given = [torch.zeros_like(tensor) if gradient is None else gradient for tensor, gradient in zip(tensors, right, strict=True)]
        dense.assert_equal((*found, *mine), (*expected, *given), 1e-12)


def test_lse_means_the_natural_logarithm() -> None:
    q, k, v = inputs(20, 30)
    _, lse = attention()(q, k, v, return_lse=True)
    dense.assert_equal((lse,), (torch.logsumexp(q @ k.transpose(-1, -2) / 4, -1),), 1e-12)


@attngen.cascade(q="b h m d", k="b h n d")
def only_lse(q: Any, k: Any) -> Any:
    return attngen.logsumexp(attngen.einsum("b h m d, b h n d -> b h m n", q, k), over="n")


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def two_softmaxes(q: Any, k: Any, v: Any) -> Any:
    s = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
    return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n") - attngen.softmax(2 * s, over="n"), v)


def test_where_lse_has_no_meaning() -> None:
    q, k, v = inputs(9, 9, groups=2)
    for spec, tensors in ((attngen.attention(normalizer="sigmoid"), (q, k, v)), (two_softmaxes, (q, k, v)), (only_lse, (q, k))):
        with pytest.raises(ArgumentError):
            attngen.compile(spec, schedule=FEW)(*tensors, return_lse=True)


# ---- merging


def test_parts_of_the_keys_merge_to_the_whole() -> None:
    q, k, v = inputs(20, 90)
    attend = attention()
    parts = [attend(q, k[:, :, span], v[:, :, span], return_lse=True) for span in (slice(0, 17), slice(17, 64), slice(64, 90))]
    merged = attngen.merge(*attngen.merge(*parts[0], *parts[1]), *parts[2])
    whole = attend(q, k, v, return_lse=True)
    mine = torch.autograd.grad(merged[0].sin().sum() + merged[1].sum(), (q, k, v))
    right = torch.autograd.grad(whole[0].sin().sum() + whole[1].sum(), (q, k, v))
    dense.assert_equal((*merged, *mine), (*whole, *right), 1e-12)


def test_merging_with_rows_that_saw_nothing() -> None:
    """One side, the other, or both are empty: no NaN, neither in values nor in gradients."""
    o1, o2, lse1, lse2 = normal(1, 1, 4, 8), normal(1, 1, 4, 8, seed=1), normal(1, 1, 4), normal(1, 1, 4, seed=1)
    none = torch.tensor([False, True, False, True]), torch.tensor([False, False, True, True])
    parts = [
        (torch.where(empty.view(1, 1, 4, 1), 0.0, o), torch.where(empty.view(1, 1, 4), float("-inf"), lse))
        for o, lse, empty in ((o1, lse1, none[0]), (o2, lse2, none[1]))
    ]
    o, lse = attngen.merge(*parts[0], *parts[1])
    dense.assert_equal((o[..., 1, :], o[..., 2, :]), (o2[..., 1, :], o1[..., 2, :]), 1e-14)
    assert not o[..., 3, :].any()
    assert torch.equal(lse[..., 3], torch.full((1, 1), float("-inf"), dtype=torch.float64))
    gradients = torch.autograd.grad(o.sin().sum() + torch.where(lse.isfinite(), lse, 0.0).sum(), (o1, o2, lse1, lse2))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_gradients_of_merged_rows_that_saw_nothing() -> None:
    """Also where the caller asks for the gradient of a logsumexp of nothing."""
    lse1 = torch.tensor([[0.0, float("-inf"), float("-inf")]], requires_grad=True)
    lse2 = torch.tensor([[1.0, 2.0, float("-inf")]], requires_grad=True)
    o, lse = attngen.merge(torch.ones(1, 3, 4), lse1, torch.zeros(1, 3, 4), lse2)
    (o.sum() + lse.sum()).backward()
    for leaf in (lse1, lse2):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    q, k, v = inputs(9, 12)
    nothing = attention(mask_mod=lambda b, h, q_idx, kv_idx: kv_idx < q_idx - 20)
    o, lse = attngen.merge(*nothing(q, k, v, return_lse=True), *nothing(q, k, v, return_lse=True))
    gradients = torch.autograd.grad(o.sum() + lse.sum(), (q, k, v))
    assert not any(gradient.any() for gradient in gradients)


def test_merging_keeps_low_precision() -> None:
    q, k, v = (tensor.detach().to(torch.bfloat16) for tensor in inputs(20, 40))
    attend = attention()
    o, lse = attngen.merge(*attend(q, k[:, :, :20], v[:, :, :20], return_lse=True), *attend(q, k[:, :, 20:], v[:, :, 20:], return_lse=True))
    assert (o.dtype, lse.dtype) == (torch.bfloat16, torch.float32)


def test_merging_what_does_not_match() -> None:
    o, lse = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4)
    with pytest.raises(ShapeMismatch):
        attngen.merge(o, lse, o[:, :, :3], lse[:, :, :3])
    with pytest.raises(ShapeMismatch):
        attngen.merge(o, o, o, o)


# ---- memory and rebuilding


@pytest.mark.usefixtures("triton_interpreter")
def test_no_quadratic_memory() -> None:
    """No single allocation is larger than the largest output, masks and biases included."""
    length = 512
    slopes = normal(1)
    document = torch.arange(length) // 100

    def mod(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * (kv_idx - q_idx)

    def mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (document[q_idx] == document[kv_idx]) & ((q_idx * 3 + kv_idx) % 7 != 0)

    q, k, v = (normal(1, 1, length, 16, seed=seed) for seed in range(3))
    attend = attention(mod, mask)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        torch.autograd.grad(attend(q, k, v).sin().sum(), (q, k, v, slopes))
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert length * 16 * 8 <= largest <= 2 * length * 16 * 8


DIMS, SM90 = (("d", 64), ("e", 64)), target.get("sm90")


def fresh(spec: attngen.Spec) -> Kernels:
    return KernelTable(spec.cascade, spec.name, Options("sm90"), Knobs.from_env()).kernels(ProgramKey("bfloat16"))


def test_nothing_is_built_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one class of lengths, a hundred calls of different lengths, batches and heads share one module and one schedule."""
    built: list[str] = []
    for name in ("build", "load_module"):
        real = getattr(runtime_kernels, name)

        def counted(*args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            built.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(runtime_kernels, name, counted)
    kernels = fresh(attngen.attention(mask_mod=causal, softcap=torch.tensor(4.0)))
    requests = {Request(DIMS, "bfloat16", SM90, length_class(1024 + 37 * turn, 2048 + 11 * turn)) for turn in range(100)}
    loaded = {id(kernels.get(request, torch.device("cpu"))) for request in requests}
    assert built == ["build", "load_module"]
    assert len(loaded) == 1


def test_triton_would_compile_each_kernel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Triton's launcher keys its kernels by does not change with lengths, strides, batch, heads or captured numbers, but for whether
    rows may be without keys: more queries than keys under a window."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    scale = torch.tensor(1.0)
    width = {"value": 10}

    def mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < width["value"])

    kernels = fresh(attngen.attention(lambda score, b, h, q_idx, kv_idx: score * scale, mask))
    module = kernels.module(kernels.source(dict(DIMS)), "compiled", SM90, dict(DIMS), "bfloat16")
    backend = make_backend(GPUTarget("cuda", 90, 32))
    keys: dict[tuple[str, bool], set[str]] = {}

    def launch(kernel: Any, programs: int, args: Any, constants: Any, tile: Any) -> None:
        bind = create_function_from_signature(inspect.signature(kernel.fn), kernel.params, backend)
        _, specialization, options = bind(*args, **constants, **tile)
        keys.setdefault((kernel.__name__, constants.get("SILENT", False)), set()).add(str((specialization, sorted(map(str, options)))))

    monkeypatch.setattr(module, "launch", launch)
    draw = random.Random(0)
    saved = kernels.program.backward.saved if kernels.program.backward else ()
    for _ in range(100):
        batch, groups, rows, keys_length = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 200), draw.randint(1, 300)
        repeat = draw.randint(1, 3)
        q = torch.empty(batch, groups, repeat, rows, 64, dtype=torch.bfloat16)
        k = torch.empty(batch, groups, keys_length, 64, dtype=torch.bfloat16)
        tiles = kernels.get(Request(DIMS, "bfloat16", SM90), torch.device("cpu")).tiles
        captured = [
            torch.tensor(draw.random()) if item.kind == "float" else draw.randint(1, 2**20) for item in kernels.program.cascade.inputs[3:]
        ]
        outputs = module.forward(q, k, torch.empty_like(k), *captured, tiles)
        outputs = dict(zip(dict.fromkeys((*kernels.program.cascade.outputs, *(item.name for item in saved))), outputs, strict=True))
        cotangents = [torch.empty_like(outputs[name]) for name, _ in kernels.program.backward.cotangents]
        module.backward(q, k, torch.empty_like(k), *captured, *(outputs[item.name] for item in saved), *cotangents, tiles, {"q", "k", "v"})
    assert len(keys) >= 3
    assert {name: len(found) for name, found in keys.items()} == dict.fromkeys(keys, 1)


@pytest.mark.parametrize("size", [2**30, 2**31 - 1, -(2**31), 2**63 - 1])
def test_windows_without_an_end(size: int) -> None:
    """Numbers at the ends of their range stand for "no window" and must not wrap around in the bounds."""
    tensors = inputs(40, 40)
    check(attention(mask_mod=lambda b, h, q, k: (q >= k) & ((q - k < size) | (k < 4))), tensors)
    check(attention(mask_mod=lambda b, h, q, k: (q >= k) & (q - k < size)), tensors)


@pytest.mark.parametrize(
    ("mask_mod", "bits"),
    [
        (lambda b, h, q, k: k + NO_END > q, 32),
        (lambda b, h, q, k: q + (2**31 - 1) > k, 32),
        (lambda b, h, q, k: (q * 265443576 + k) % 7 < 4, 32),
        (lambda b, h, q, k: (k + 2 * HUGE) > q, 64),
    ],
)
def test_whole_numbers_that_would_wrap_around_are_refused(mask_mod: Callable[..., Any], bits: int) -> None:
    with pytest.raises(ArgumentError, match=rf"reaches -?\d+.*, beyond {bits} bits"):
        attention(mask_mod=mask_mod)(*inputs(40, 40))


@pytest.mark.parametrize("mask_mod", [lambda b, h, q, k: k + HUGE > q, lambda b, h, q, k: (q * 2654435761 + k * 40503) % 7 < 4])
def test_numbers_beyond_32_bits_widen_what_they_are_part_of(mask_mod: Callable[..., Any]) -> None:
    check(attention(mask_mod=mask_mod), inputs(40, 40))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_captured_integers_may_be_narrow(dtype: torch.dtype) -> None:
    """In memory: positions, and sums and differences of such values, have more bits."""
    low, ends = torch.iinfo(dtype).min, torch.arange(40).clamp(max=20).to(dtype)
    values = (torch.arange(40) * 7 % 250 + low).to(dtype)
    check(attention(mask_mod=lambda b, h, q, k: k < ends[q]), inputs(40, 40))
    check(attention(mask_mod=lambda b, h, q, k: values[q] == values[k]), inputs(40, 40))
    check(attention(mask_mod=lambda b, h, q, k: (values[q] - values[k] < 50) & (values[k] + 1000 > values[q] + 980)), inputs(40, 40))


NO_END = 2**31 - 20
HUGE = 2**62
