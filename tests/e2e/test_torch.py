"""A compiled variant inside PyTorch: operators, compilers, autograd and its modes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import attngen
from attngen.errors import ArgumentError, NotDifferentiable
from attngen.runtime import arguments
from tests.e2e import dense
from tests.e2e.dense import FEW, normal

ROOT = Path(__file__).parents[2]
SLOPES = torch.exp2(-torch.arange(1, 5, dtype=torch.float64))


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + SLOPES[h] * (kv_idx - q_idx)


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e", gate="b h m")
def gated(q: Any, k: Any, v: Any, gate: Any) -> Any:
    s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.extent("d") ** -0.5
    o = attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)
    return o * attngen.sigmoid(gate), attngen.logsumexp(s, over="n")


def inputs(rows: int = 20, keys: int = 30, *, batch: int = 1, groups: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q of four heads, k and v of `groups`."""
    shapes = (batch, 4, rows, 16), (batch, groups, keys, 16), (batch, groups, keys, 32)
    return [normal(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes)]


def attention(*args: Any, **options: Any) -> attngen.Attention:
    return attngen.compile(attngen.attention(*args, **options), schedule=FEW)


# ---- operators


class Recorder(TorchDispatchMode):
    """Collects calls of attngen's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func.namespace == "attngen":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def swapped(tensor: Tensor) -> Tensor:
    """The same values in [B, N, H, D] memory."""
    return tensor.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()


LAYOUTS: dict[str, Callable[[], list[Tensor]]] = {
    "contiguous": inputs,
    "transposed": lambda: [swapped(tensor) for tensor in inputs()],
    "one position": lambda: inputs(1, 1),
    "no query": lambda: inputs(0, 5),
    "no key": lambda: inputs(5, 0),
    "no batch": lambda: inputs(5, 5, batch=0),
}
TRACED = ("transposed", "no query")
"""Layouts that also go through tracing with symbolic sizes, the slow part of `opcheck`."""
VARIANTS: dict[str, tuple[attngen.Spec, int]] = {
    "causal alibi": (attngen.attention(alibi, causal), 2),
    "relu": (attngen.attention(mask_mod=causal, normalizer="relu"), 1),
    "gated": (gated, 4),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "name, layout", [*(("causal alibi", layout) for layout in LAYOUTS), ("relu", "contiguous"), ("gated", "transposed")]
)
def test_operators_keep_what_they_promise(name: str, layout: str) -> None:
    spec, groups = VARIANTS[name]
    q, k, v = LAYOUTS[layout]()
    if groups != 2:
        k, v = (tensor[:, :1].expand(-1, groups, -1, -1) for tensor in (k, v))
    tensors = [q, k, v, normal(*q.shape[:3], seed=5)] if name == "gated" else [q, k, v]
    attend = attngen.compile(spec, schedule=FEW)
    with Recorder() as recorder:
        found = attend(*tensors)
        sum(value.sum() for value in (found if isinstance(found, tuple) else (found,))).backward()
    (forward, values), (backward, others) = recorder.calls
    assert forward is not backward
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", *(("test_aot_dispatch_dynamic",) if layout in TRACED else ()))
    torch.library.opcheck(forward, tuple(_leaf(value) for value in values), test_utils=checks)
    torch.library.opcheck(backward, tuple(value.detach() if isinstance(value, Tensor) else value for value in others), test_utils=checks)


def _leaf(value: Any) -> Any:
    return value.detach().requires_grad_(value.is_floating_point()) if isinstance(value, Tensor) else value


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_holds_it_as_one_node() -> None:
    attend, (q, k, v) = attention(alibi, causal), inputs()

    def model(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.relu(attend(q * 2, k, v) + 1)

    found = torch.compile(model, fullgraph=True, backend="aot_eager")(q, k, v)
    expected = model(q, k, v)
    dense.assert_equal((found, *dense.gradients(found, (q, k, v))), (expected, *dense.gradients(expected, (q, k, v))), 1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_takes_other_lengths() -> None:
    attend = attention(alibi, causal)
    compiled = torch.compile(lambda q, k, v: attend(q, k, v), fullgraph=True, backend="aot_eager", dynamic=True)
    for rows, keys in ((20, 30), (70, 9), (33, 33)):
        tensors = inputs(rows, keys)
        dense.assert_equal((compiled(*tensors),), (attend(*tensors),), 0.0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.3)], ids=["number", "tensor"])
def test_captured_numbers_follow_the_arguments_of_a_compiled_model(rate: float | Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors stand for those of a GPU."""
    monkeypatch.setattr(arguments, "autocast", lambda tensors, *_: tensors)
    attend = attngen.compile(attngen.attention(score_mod=lambda score, b, h, q_idx, kv_idx: score + rate * (kv_idx - q_idx)))
    q, k, v = torch.empty(3, 1, 2, 64, 32, device="meta").unbind()
    compiled = torch.compile(lambda q, k, v: attend(q, k, v), fullgraph=True, backend="aot_eager")
    assert compiled(q, k, v).shape == q.shape


def test_checkpointing() -> None:
    attend, tensors = attention(alibi, causal), inputs()
    plain = attend(*tensors)
    again = checkpoint(attend, *tensors, use_reentrant=False)
    dense.assert_equal((again, *dense.gradients(again, tensors)), (plain, *dense.gradients(plain, tensors)), 0.0)


def test_autocast() -> None:
    attend, tensors = attention(mask_mod=causal), inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*tensors)
    expected = attend(*(tensor.to(torch.bfloat16) for tensor in tensors))
    assert found.dtype == torch.bfloat16
    dense.assert_equal((found,), (expected,), 0.0)
    gradients = dense.gradients(found, tensors)
    assert [gradient.dtype for gradient in gradients] == [torch.float32] * 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_storage_types(dtype: torch.dtype) -> None:
    """The contract on numbers has tests of its own; here outputs and gradients have the right type and roughly the right value."""
    tensors = inputs(dtype=dtype)
    attend = attention(alibi, causal)
    found, lse = attend(*tensors, return_lse=True)
    expected = attend.reference(*tensors)
    assert (found.dtype, lse.dtype) == (dtype, torch.float32)
    tolerance = 8 * torch.finfo(dtype).eps
    dense.assert_equal((found.double(), *dense.gradients(found, tensors)), (expected, *dense.gradients(expected, tensors)), tolerance)


# ---- what is refused instead of being wrong


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forward_mode_is_refused() -> None:
    attend, (q, k, v) = attention(), [tensor.detach() for tensor in inputs()]
    with pytest.raises(NotDifferentiable), forward_ad.dual_level():
        attend(forward_ad.make_dual(q, torch.ones_like(q)), k, v)
    with pytest.raises(NotDifferentiable):
        torch.func.jvp(lambda value: attend(q, value, v), (k,), (torch.ones_like(k),))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forward_mode_through_a_capture_is_refused() -> None:
    offset = torch.zeros(4, dtype=torch.float64)
    q, k, v = (tensor.detach() for tensor in inputs())

    def run(value: Tensor) -> Tensor:
        return attention(lambda score, b, h, q_idx, kv_idx: score + value[h])(q, k, v)

    with pytest.raises(NotDifferentiable), forward_ad.dual_level():
        run(forward_ad.make_dual(offset, torch.ones_like(offset)))


def test_second_derivatives_are_refused() -> None:
    attend, (q, k, v) = attention(), inputs()
    (gradient,) = torch.autograd.grad(attend(q, k, v).pow(2).sum(), q, create_graph=True)
    with pytest.raises(NotDifferentiable):
        torch.autograd.grad(gradient.sum(), k)


def test_function_transforms() -> None:
    """torch.func cannot differentiate custom operators; the refusal says what can, the reference among it."""
    attend, (q, k, v) = attention(mask_mod=causal), [tensor.detach() for tensor in inputs(5, 6)]

    def loss(value: Tensor) -> Tensor:
        return attend(value, k, v).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss))
    for run in (torch.func.grad(loss), torch.func.jacrev(loss), lambda x: torch.func.vjp(loss, x), lambda x: per_sample(x[None])):
        with pytest.raises(NotDifferentiable, match=r"torch\.autograd\.grad"):
            run(q)
    bias = torch.zeros(4, dtype=torch.float64)

    def through_a_capture(value: Tensor) -> Tensor:
        return attention(lambda score, b, h, q_idx, kv_idx: score + value[h])(q, k, v).sum()

    with pytest.raises(NotDifferentiable, match=r"torch\.func"):
        torch.func.grad(through_a_capture)(bias)
    found = torch.func.grad(lambda value: attend.reference(value, k, v).square().sum())(q)
    value = q.clone().requires_grad_()
    dense.assert_equal((found,), torch.autograd.grad(attend.reference(value, k, v).square().sum(), value), 1e-12)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_batched_cotangents() -> None:
    attend, tensors = attention(alibi, causal), inputs(6, 7)
    out = attend(*tensors)
    cotangents = torch.stack([torch.ones_like(out), out.detach(), torch.zeros_like(out)])
    found = torch.autograd.grad(out, tensors, cotangents, is_grads_batched=True, retain_graph=True)
    one_by_one = [torch.autograd.grad(out, tensors, cotangent, retain_graph=True) for cotangent in cotangents]
    dense.assert_equal(found, tuple(torch.stack(parts) for parts in zip(*one_by_one, strict=True)), 0.0)


def test_tensors_without_data_have_shapes_and_gradients() -> None:
    q, k, v = (torch.empty(2, 4, rows, 16, device="meta", requires_grad=True) for rows in (20, 30, 30))
    out, lse = attention(mask_mod=causal)(q, k, v, return_lse=True)
    assert (out.shape, lse.shape, out.device.type) == (q.shape, q.shape[:3], "meta")
    assert [gradient.shape for gradient in torch.autograd.grad(out.sum() + lse.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_graph_with_symbolic_lengths() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    attend, tensors = attention(mask_mod=causal), [tensor.detach() for tensor in inputs()]
    graph = make_fx(lambda q, k, v: attend(q, k, v), tracing_mode="symbolic")(*tensors)
    dense.assert_equal((graph(*tensors),), (attend(*tensors),), 0.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors_are_refused_as_such(layout: torch.layout) -> None:
    parts = [torch.randn(rows, 4, 16) for rows in (5, 8)]
    nested = torch.nested.nested_tensor(parts, layout=layout).transpose(1, 2)
    with pytest.raises(ArgumentError, match="nested"):
        attention()(nested, nested, nested)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_variant_made_inside_of_a_compiled_function() -> None:
    """Graphs are interrupted there; one graph cannot hold it, and the error says where it belongs."""

    def model(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
        spec = attngen.attention(lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx), causal)
        return attngen.compile(spec, schedule=FEW)(q * 2, k, v) + 1

    tensors = [*(tensor.detach() for tensor in inputs()), SLOPES]
    dense.assert_equal((torch.compile(model, backend="eager")(*tensors),), (model(*tensors),), 0.0)
    torch.compiler.reset()
    with pytest.raises(Exception, match="outside of the compiled function"):
        torch.compile(model, backend="eager", fullgraph=True)(*tensors)


SAVE = """
class Net(torch.nn.Module):
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx))

    def forward(self, q):
        return self.attend(q, q, q)
"""
LOAD = """
import sys, torch, attngen
{made}
q = torch.linspace(-1, 1, 80).view(1, 1, 5, 16)
if sys.argv[1] == "save":
    torch.export.save(torch.export.export(Net(), (q,)), sys.argv[2])
else:
    program = torch.export.load(sys.argv[2]).module()
    assert program(q).isfinite().all()
"""


def test_a_saved_program_says_what_to_import(tmp_path: Path) -> None:
    """In a process that makes the variant it runs; in another it loads, and its call is refused."""
    tmp_path.chmod(0o700)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ATTNGEN_CACHE_DIR": str(tmp_path / "cache")}

    def run(made: str, what: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOAD.format(made=made), what, str(tmp_path / "program.pt2")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    for made, what in ((SAVE, "save"), (SAVE, "load")):
        done = run(made, what)
        assert done.returncode == 0, done.stderr
    done = run("", "load")
    assert done.returncode != 0
    assert "MissingOperator" in done.stderr and "attngen.compile" in done.stderr.splitlines()[-1], done.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vmap() -> None:
    attend, (q, k, v) = attention(mask_mod=causal), [tensor.detach() for tensor in inputs()]
    stacked = torch.vmap(attend)(*(torch.stack([tensor, -0.5 * tensor]) for tensor in (q, k, v)))
    dense.assert_equal((stacked[0], stacked[1]), (attend(q, k, v), attend(-0.5 * q, -0.5 * k, -0.5 * v)), 0.0)


@pytest.mark.parametrize("mode", [False, True])
def test_results_are_the_same_from_run_to_run(mode: bool) -> None:
    """Pairs share elements of the table."""
    table = normal(60)
    spec = attngen.attention(lambda score, b, h, q_idx, kv_idx: score + table[q_idx - kv_idx + 30])
    attend, tensors = attngen.compile(spec, deterministic=mode, schedule=FEW), inputs()
    torch.use_deterministic_algorithms(mode)
    try:
        found = [dense.gradients(attend(*tensors), (table,)) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(found[0][0], found[1][0])
    dense.assert_equal(found[0], dense.gradients(attend.reference(*tensors), (table,)))


# ---- captured tensors


def test_a_captured_parameter_trains() -> None:
    """The tensor is read at each call, so that an optimiser's step is seen."""
    slopes = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    attend, tensors = attention(lambda score, b, h, q_idx, kv_idx: score + slopes[h] * (kv_idx - q_idx)), inputs()
    optimiser = torch.optim.SGD([slopes], lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        found = attend(*tensors)
        expected = attend.reference(*tensors)
        dense.assert_equal((found,), (expected,))
        (golden,) = torch.autograd.grad(expected.pow(2).sum(), slopes)
        found.pow(2).sum().backward()
        dense.assert_equal((slopes.grad,), (golden,))
        optimiser.step()
    assert slopes.detach().abs().min() > 0


def test_a_captured_value_on_the_way_from_a_leaf() -> None:
    raw = normal(4)
    slopes = torch.exp(raw)
    attend, tensors = attention(lambda score, b, h, q_idx, kv_idx: score * slopes[h]), inputs()
    found = torch.autograd.grad(attend(*tensors).pow(2).sum(), raw, retain_graph=True)
    dense.assert_equal(found, torch.autograd.grad(attend.reference(*tensors).pow(2).sum(), raw))


def test_a_capture_of_another_type_keeps_it() -> None:
    bias = normal(4, 20, 30, dtype=torch.float32)
    attend, tensors = attention(lambda score, b, h, q_idx, kv_idx: score + bias[h, q_idx, kv_idx]), inputs()
    found, expected = attend(*tensors), attend.reference(*tensors)
    mine, right = dense.gradients(found, (bias,)), dense.gradients(expected, (bias,))
    assert mine[0].dtype == torch.float32
    dense.assert_equal((found, *mine), (expected, *right), 1e-6)


PLACES = torch.tensor([3, 0, 2, 2, 1])


@pytest.mark.parametrize(
    "read",
    [
        lambda table, b, h, q_idx, kv_idx: table[2],
        lambda table, b, h, q_idx, kv_idx: table[-1] * table[0],
        lambda table, b, h, q_idx, kv_idx: table[PLACES[1]],
        lambda table, b, h, q_idx, kv_idx: table[PLACES[h]],
        lambda table, b, h, q_idx, kv_idx: table[kv_idx // 8],
        lambda table, b, h, q_idx, kv_idx: torch.where(q_idx < 4, table[PLACES[q_idx + 1]], 0.0),
        lambda table, b, h, q_idx, kv_idx: table[(q_idx + kv_idx) % 5],
        lambda table, b, h, q_idx, kv_idx: table[h] * table[kv_idx % 4],
    ],
    ids=["constant", "negative", "captured", "by head", "by key", "masked", "by pair", "twice"],
)
def test_reads_of_a_learned_table(read: Any) -> None:
    """Gradients arrive at the element that was read, however its position is computed."""
    table = normal(5)
    attend, tensors = attention(lambda score, b, h, q_idx, kv_idx: score + kv_idx * read(table, b, h, q_idx, kv_idx)), inputs()
    found, expected = attend(*tensors), attend.reference(*tensors)
    leaves = (*tensors, table)
    dense.assert_equal((found, *dense.gradients(found, leaves)), (expected, *dense.gradients(expected, leaves)))


@pytest.mark.parametrize("stretch", [(4, 1, 30), (1, 20, 30), (4, 20, 1), (1, 1, 1)])
def test_an_expanded_capture(stretch: tuple[int, ...]) -> None:
    """A broadcast bias gets the sum of the gradients of its copies."""
    small = normal(*stretch)
    bias = small.expand(4, 20, 30)
    attend, tensors = attention(lambda score, b, h, q_idx, kv_idx: score + bias[h, q_idx, kv_idx]), inputs()
    found, expected = attend(*tensors), attend.reference(*tensors)
    dense.assert_equal((found, *dense.gradients(found, (small,))), (expected, *dense.gradients(expected, (small,))))


def test_only_what_is_asked_for_is_computed() -> None:
    """One gradient alone, for each input in turn."""
    attend, tensors = attention(alibi, causal), inputs()
    whole = dense.gradients(attend(*tensors), tensors)
    for position, tensor in enumerate(tensors):
        others = [other if place == position else other.detach() for place, other in enumerate(tensors)]
        dense.assert_equal(dense.gradients(attend(*others), (tensor,)), (whole[position],), 0.0)
