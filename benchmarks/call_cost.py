"""What a call costs in Python: launches are stubbed, and a launcher written by hand runs beside it.

`python benchmarks/call_cost.py > benchmarks/call_cost.md` needs no GPU. Times are CPU times of one thread, the least of several runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import attngen
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable

SHAPE = (1, 4, 16, 16)
CALLS, RUNS = 400, 9
BARS = {"forward": 60, "forward and backward": 200}


class ByHand(torch.autograd.Function):
    """What somebody writes who has one kernel for the forward and two for the backward, for tensors of any strides."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        o = torch.empty_like(q)
        lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        launch(q, k, v, o, lse, *q.stride(), *k.stride(), *v.stride(), *q.shape, k.shape[2])
        ctx.save_for_backward(q, k, v, o, lse)
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        (do,) = grads
        delta = torch.empty_like(lse)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        launch(o, do, delta, *do.stride(), *o.stride(), *q.shape)
        launch(q, k, v, do, lse, delta, dq, *q.stride(), *k.stride(), *v.stride(), *do.stride(), *q.shape, k.shape[2])
        launch(q, k, v, do, lse, delta, dk, dv, *q.stride(), *k.stride(), *v.stride(), *do.stride(), *q.shape, k.shape[2])
        return dq, dk, dv


def launch(*_: object) -> None:
    """In place of a kernel's."""


@contextmanager
def stubbed(table: KernelTable) -> Iterator[None]:
    """Stub the launches of every module that calls have loaded, for a while: equal variants of the process share them."""
    before = [(vars(module), vars(module)["launch"]) for module in modules(table)]
    for names, _ in before:
        names["launch"] = launch
    try:
        yield
    finally:
        for names, own in before:
            names["launch"] = own


def modules(table: KernelTable) -> Iterator[ModuleType]:
    for gradients in (None, frozenset[str]()):
        for fused in (False, True):
            key = ProgramKey("float32", gradients, fused=fused)
            if table.find(key) is not None:
                yield from table.kernels(key).modules.values()


def cpu_us(action: Callable[[], object]) -> float:
    """CPU time of one call."""
    found: list[float] = []
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(CALLS):
            action()
        found.append((time.process_time() - began) / CALLS)
    return 1e6 * min(found)


def times(call: Callable[..., Tensor], tensors: list[Tensor]) -> dict[str, float]:
    """Of a forward without gradients, one that records a graph, and a forward with its backward."""
    leaves, cotangent = [tensor.clone().requires_grad_() for tensor in tensors], torch.ones(SHAPE)

    def forward() -> None:
        with torch.no_grad():
            call(*tensors)

    def both() -> None:
        torch.autograd.grad(call(*leaves), leaves, cotangent)

    return {"forward": cpu_us(forward), "forward that records": cpu_us(lambda: call(*leaves)), "forward and backward": cpu_us(both)}


def measured() -> tuple[dict[str, float], dict[str, float]]:
    """Times of attngen and of the launcher written by hand, in microseconds."""
    torch.set_num_threads(1)
    spec = attngen.attention(mask_mod=lambda b, h, q, k: q >= k, name="causal")
    attend = attngen.compile(spec)
    tensors = [torch.randn(SHAPE) for _ in range(3)]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    with torch.no_grad():
        attend(*tensors)
    torch.autograd.grad(attend(*leaves), leaves, torch.ones(SHAPE))
    with stubbed(attend._table):  # pyright: ignore[reportPrivateUsage]
        return times(attend, tensors), times(ByHand.apply, tensors)  # pyright: ignore[reportUnknownMemberType]


def main() -> None:
    mine, by_hand = measured()
    print("# What a call costs in Python")
    print()
    print(f"`python benchmarks/call_cost.py`, torch {torch.__version__}: causal attention, q, k and v {list(SHAPE)} in float32, launches")
    print("stubbed, CPU time of one thread in microseconds, the least of several runs; beside it a `torch.autograd.Function` by hand.")
    print()
    print("| call | attngen | by hand | bar |")
    print("|---|---|---|---|")
    for name, value in mine.items():
        print(f"| {name} | {value:.0f} | {by_hand[name]:.0f} | {BARS.get(name, '')} |")


if __name__ == "__main__":
    main()
