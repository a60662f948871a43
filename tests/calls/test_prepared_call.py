"""Calls outside of compilers and modes: planned once for a kind of call, launched directly, one node of the graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attngen
from attngen.calls import variant
from tests.e2e.dense import FEW, normal


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def inputs(*, rows: int = 9, keys: int = 11, heads: int = 4, groups: int = 2) -> list[Tensor]:
    shapes = (1, heads, rows, 16), (1, groups, keys, 16), (1, groups, keys, 24)
    return [normal(*shape, seed=seed) for seed, shape in enumerate(shapes)]


class Watched(TorchDispatchMode):
    """Has calls go through operators."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Calls that were planned."""
    found: list[object] = []
    real = variant.plan_call

    def counting(layouts: Any, facts: Any) -> Any:
        found.append(facts)
        return real(layouts, facts)

    monkeypatch.setattr(variant, "plan_call", counting)
    return found


class TestPlansAreKept:
    def test_for_equal_shapes_strides_dtypes_and_flags(self, planned: list[object]) -> None:
        attend, (q, k, v) = attngen.compile(attngen.attention(mask_mod=causal), schedule=FEW), inputs()
        calls = [
            (lambda: attend(q, k, v), 1),
            (lambda: attend(q.clone(), k, v=v), 1),
            (lambda: attend(q, k, v, return_lse=True), 2),
            (lambda: attend(q.detach(), k, v), 3),
            (lambda: attend(q.transpose(1, 2).contiguous().transpose(1, 2), k, v), 4),
            (lambda: attend(q.float(), k.float(), v.float()), 5),
            (lambda: attend(q[:, :, 1:], k, v), 6),
            (lambda: attend(q, k, v), 6),
        ]
        for run, count in calls:
            run()
            assert len(planned) == count
        with torch.no_grad():
            attend(q, k, v)
        assert len(planned) == 7

    def test_captured_numbers_are_read_again_and_checked_again(self, planned: list[object]) -> None:
        width = 3
        attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q - k < width), schedule=FEW)
        tensors = inputs()
        for width in (3, 5, 1):  # noqa: B007
            torch.testing.assert_close(attend(*tensors), attend.reference(*tensors), rtol=1e-11, atol=1e-11)
        assert len(planned) == 1
        width = 2**31 - 1
        far = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q + width >= k), schedule=FEW)
        with pytest.raises(attngen.errors.ArgumentError, match="beyond 32 bits"):
            far(*tensors)

    def test_what_is_behind_a_short_table_is_looked_at_in_each_call(self, planned: list[object]) -> None:
        lengths, table = torch.tensor([7]), normal(8).detach()
        spec = attngen.attention(lambda s, b, h, q, k: s + table[k], lambda b, h, q, k: k < lengths[b])
        attend, tensors = attngen.compile(spec, schedule=FEW), inputs()
        torch.testing.assert_close(attend(*tensors), attend.reference(*tensors), rtol=1e-11, atol=1e-11)
        lengths.fill_(11)
        with pytest.raises(attngen.errors.ShapeMismatch, match="indexed by positions up to 10"):
            attend(*tensors)
        assert len(planned) == 1


class TestTheGraph:
    def test_one_node_for_the_whole_call(self) -> None:
        attend, tensors = attngen.compile(attngen.attention(mask_mod=causal), schedule=FEW), inputs()
        out = attend(*tensors)
        assert not out._is_view()
        parents = [node for node, _ in out.grad_fn.next_functions if node is not None]  # type: ignore[union-attr]
        assert {type(node).__name__ for node in parents} == {"AccumulateGrad"}

    def test_results_may_be_changed_in_place(self) -> None:
        attend, tensors = attngen.compile(attngen.attention(normalizer="relu"), schedule=FEW), inputs()
        found, right = (run(*tensors) for run in (attend, attend.reference))
        found, right = (torch.autograd.grad(out.mul_(2.0).square().sum(), tensors) for out in (found, right))
        for mine, golden in zip(found, right, strict=True):
            torch.testing.assert_close(mine, golden, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("return_lse", [False, True])
    @pytest.mark.parametrize("wanted", ["qkv", "q", "kv", "v"])
    def test_it_gives_what_operators_give(self, wanted: str, return_lse: bool) -> None:
        spec = attngen.attention(lambda s, b, h, q, k: s + 0.1 * (q - k), causal)
        attend, tensors = attngen.compile(spec, schedule=FEW), inputs()
        tensors = [tensor.detach().requires_grad_(name in wanted) for name, tensor in zip("qkv", tensors, strict=True)]
        leaves = [tensor for tensor in tensors if tensor.requires_grad]

        def run() -> list[Tensor]:
            found = attend(*tensors, return_lse=return_lse)
            found = found if return_lse else (found,)
            loss = sum(value[..., 1:, :].square().sum() if value.dim() == 4 else value[..., 1:].sum() for value in found)
            return [*found, *torch.autograd.grad(loss, leaves)]

        direct = run()
        with Watched():
            through = run()
        for mine, other in zip(direct, through, strict=True):
            assert mine.shape == other.shape and mine.is_contiguous()
            assert torch.equal(mine, other)

    def test_heads_that_are_broadcast(self) -> None:
        q, k, v = inputs()
        attend = attngen.compile(attngen.attention(), schedule=FEW)
        tensors = [q.expand(3, -1, -1, -1), k, v]
        found, right = (run(*tensors) for run in (attend, attend.reference))
        found, right = ([out, *torch.autograd.grad(out.square().sum(), (q, k, v))] for out in (found, right))
        for mine, golden in zip(found, right, strict=True):
            torch.testing.assert_close(mine, golden, rtol=1e-11, atol=1e-11)

    def test_a_graph_may_be_walked_twice_and_in_part(self) -> None:
        attend, tensors = attngen.compile(attngen.attention(), schedule=FEW), inputs()
        loss = attend(*tensors).square().sum()
        whole = torch.autograd.grad(loss, tensors, retain_graph=True)
        (only,) = torch.autograd.grad(loss, tensors[1])
        assert torch.equal(only, whole[1])
