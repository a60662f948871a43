"""Checks a contender before it is timed: output and gradients of one head against float32.

Memory that outputs are likely to get is filled with NaN before the checked call, so that unwritten elements show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.problems import Problem

ALLOWED = 0.02
"""Of the root mean square, for an output or gradient in bf16; rounding alone makes about 0.003."""


@dataclass(frozen=True, slots=True)
class BackwardChoice:
    """The largest error among what was compared, relative to the root mean square, and where it is."""

    error: float
    where: str

    @property
    def right(self) -> bool:
        """Whether it is within what rounding explains; NaN is not."""
        return self.error <= ALLOWED


def poison(likes: Sequence[Tensor]) -> None:
    """Leave NaN in the memory that tensors of these shapes are likely to be given next."""
    blocks = [torch.full_like(like, float("nan"), requires_grad=False) for like in likes]
    del blocks


def places(problem: Problem) -> tuple[tuple[int, int], ...]:
    """Sequence and head of the slices: the heads of the last group in the last sequence."""
    heads, groups = problem.workload.heads
    return tuple((problem.workload.batch - 1, head) for head in range(heads - heads // groups, heads))


def output(problem: Problem, found: Tensor) -> BackwardChoice:
    """Compare an output, [batch, heads, tokens, dim], on one head."""
    batch, head = places(problem)[-1]
    exact = problem.exact(batch, head, backward=False)["o"]
    return _worst({"o": (found[batch, head], exact)})


def gradients(problem: Problem, found: Sequence[Tensor]) -> BackwardChoice:
    """Compare gradients in the order of `problem.leaves`: one group of heads in one sequence, and all of those that factors and captured
    tensors collect from every head."""
    names = [name for i, _ in enumerate(problem.terms) for name in (f"q{i}", f"k{i}")] + ["v"]
    by_name, rest = dict(zip(names, found, strict=False)), found[len(names) :]
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for batch, head in places(problem):
        exact = problem.exact(batch, head, backward=True)
        group = head * problem.workload.heads[1] // problem.workload.heads[0]
        for name, value in by_name.items():
            right = exact[f"d{name}"]
            if name.startswith("q"):
                pairs[f"d{name} of head {head}"] = (value[batch, head], right)
            else:
                before = pairs.get(f"d{name}", (None, torch.zeros_like(right)))[1]
                pairs[f"d{name}"] = (value[batch, group], before + right)
    if rest:
        pairs |= {name: (value, right) for (name, right), value in zip(_collected(problem).items(), rest, strict=True)}
    return _worst(pairs)


def _collected(problem: Problem) -> dict[str, Tensor]:
    """Gradients of factors, then of captured tensors: sums over every head of every sequence."""
    sums: dict[str, Tensor] = {}
    for batch in range(problem.workload.batch):
        for head in range(problem.workload.heads[0]):
            exact = problem.exact(batch, head, backward=True)
            for name in exact:
                if name.startswith(("dfactor", "dcaptured")):
                    sums[name] = sums.get(name, 0.0) + exact[name]
    return sums


def _worst(pairs: dict[str, tuple[Tensor, Tensor]]) -> BackwardChoice:
    errors = {name: _error(found, exact) for name, (found, exact) in pairs.items()}
    # A NaN compares with nothing, and is the worst there is.
    where = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return BackwardChoice(errors[where], where)


def _error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of the exact values."""
    difference = (found.detach().double() - exact.double()).square().mean().sqrt()
    scale = exact.double().square().mean().sqrt()
    return float(difference / scale.clamp(min=1e-30))
