"""Workloads as tensors and mods, the inputs of all contenders, with a float32 reference for one head.

A problem is one softmax over values, or several that share them, `(softmax(mod(q0 k0)) - factor1[h] softmax(mod(q1 k1)) - ...) v`, which
covers every variant here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import attngen
from attngen import catalog
from benchmarks.gpu.workloads import Workload

Mod = Callable[..., Any]
WINDOW, PREFIX, CAP, NEIGHBOURS = 1024, 512, 20.0, 13
_BUCKETS, _FAR = 32, 128
# Elements of one float32 matrix of scores.
_CHUNK = 2**25


@dataclass(frozen=True)
class Mods:
    """What a variant does to scores; `captured` are the tensors behind it that are trained."""

    score: Mod | None = None
    mask: Mod | None = None
    captured: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Term:
    """One softmax: queries, keys, and for all but the first the factor of each head, with which it is taken off."""

    q: Tensor
    k: Tensor
    factor: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """Tensors of one workload, fresh and random, and what to compute of them."""

    workload: Workload
    mods: Mods
    terms: tuple[Term, ...]
    v: Tensor
    cotangent: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gradients are asked for: queries and keys of each term, values, factors, captured tensors."""
        pairs = [tensor for term in self.terms for tensor in (term.q, term.k)]
        factors = [term.factor for term in self.terms if term.factor is not None]
        return (*pairs, self.v, *factors, *self.mods.captured)

    @cached_property
    def pairs(self) -> int:
        """Pairs of a query and a key that the mask allows, in one head."""
        work, mask = self.workload, self.mods.mask
        if mask is None:
            return work.q_len * work.kv_len
        keys = torch.arange(work.kv_len, device=self.v.device)
        return sum(int(mask(0, 0, rows[:, None], keys[None, :]).sum()) for rows in self._rows())

    def spec(self) -> attngen.Spec:
        """The variant for attngen."""
        if self.workload.variant == "differential":
            return catalog.load("differential")
        return attngen.attention(score_mod=self.mods.score, mask_mod=self.mods.mask, name=self.workload.variant)

    def arguments(self) -> tuple[Tensor, ...]:
        """What attngen's callable takes."""
        if len(self.terms) == 1:
            return (self.terms[0].q, self.terms[0].k, self.v)
        first, second = self.terms
        assert second.factor is not None, "the second softmax is weighted"
        return (first.q, second.q, first.k, second.k, self.v, second.factor)

    # ---- the same in float32, for one head

    def exact(self, batch: int, head: int, backward: bool) -> dict[str, Tensor]:
        """Output and, if asked for, gradients of one head of one sequence, by name: o, dq0, dk0, dv, dfactor1, dcaptured0.

        Gradients of keys and values are those from this head alone; those of factors and captured tensors are whole tensors.
        """
        group = head * self.workload.heads[1] // self.workload.heads[0]
        parts = {"dv": self.v[batch, group]}
        for i, term in enumerate(self.terms):
            parts |= {f"dq{i}": term.q[batch, head], f"dk{i}": term.k[batch, group]}
            parts |= {f"dfactor{i}": term.factor} if term.factor is not None else {}
        leaves = {name: value.detach().float().requires_grad_(backward) for name, value in parts.items()}
        wanted = {**leaves, **{f"dcaptured{i}": value for i, value in enumerate(self.mods.captured)}}
        found: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in wanted.items()} if backward else {}
        rows_out: list[Tensor] = []
        for rows in self._rows():
            with torch.set_grad_enabled(backward):
                out = self._dense(leaves, batch, head, rows)
            rows_out.append(out.detach())
            if backward:
                given = self.cotangent[batch, head, rows].float()
                for name, grad in zip(wanted, torch.autograd.grad(out, list(wanted.values()), given), strict=True):
                    found[name] += grad
        return {"o": torch.cat(rows_out), **found}

    def _dense(self, leaves: dict[str, Tensor], batch: int, head: int, rows: Tensor) -> Tensor:
        keys = torch.arange(self.workload.kv_len, device=rows.device)
        total: Any = 0.0
        for i in range(len(self.terms)):
            scores = leaves[f"dq{i}"][rows] @ leaves[f"dk{i}"].T * self.workload.dims[0] ** -0.5
            if self.mods.score is not None:
                scores = self.mods.score(scores, batch, head, rows[:, None], keys[None, :])
            if self.mods.mask is not None:
                scores = scores.masked_fill(~self.mods.mask(batch, head, rows[:, None], keys[None, :]), float("-inf"))
            weights = torch.softmax(scores, -1)
            factor = leaves.get(f"dfactor{i}")
            total = weights if factor is None else total - factor[head] * weights
        return total @ leaves["dv"]

    def _rows(self) -> Iterator[Tensor]:
        places = torch.arange(self.workload.q_len, device=self.v.device)
        yield from places.split(max(_CHUNK // self.workload.kv_len, 16))


# ---- making them


def make(workload: Workload, device: torch.device, *, grad: bool = False, seed: int = 0) -> Problem:
    """Fresh random values.

    Args:
        workload: the variant and its shape.
        device: where they live.
        grad: whether gradients will be asked for.
        seed: of the values.
    """
    generator = torch.Generator(device).manual_seed(seed)
    (q_heads, kv_heads), (d, e) = workload.heads, workload.dims

    def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype).requires_grad_(grad)

    def term(factor: Tensor | None = None) -> Term:
        q, k = (normal(workload.batch, heads, tokens, d) for heads, tokens in ((q_heads, workload.q_len), (kv_heads, workload.kv_len)))
        return Term(q, k, factor)

    mods = VARIANTS[workload.variant](workload, generator, grad)
    terms = (term(),)
    if workload.variant == "differential":
        lam = torch.rand(q_heads, generator=generator, device=device).to(torch.bfloat16)
        terms = (*terms, term(lam.requires_grad_(grad)))
    v = normal(workload.batch, kv_heads, workload.kv_len, e)
    cotangent = normal(workload.batch, q_heads, workload.q_len, e).detach()
    return Problem(workload, mods, terms, v, cotangent)


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def _plain(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    return Mods()


def _causal(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    return Mods(mask=causal)


def _alibi(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    slopes = torch.exp2(-8.0 / workload.heads[0] * torch.arange(1, workload.heads[0] + 1, device=generator.device))

    def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * (kv_idx - q_idx)

    return Mods(alibi, causal)


def _window(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    def window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < WINDOW)

    return Mods(mask=window)


def _document(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    """Twelve documents that end at random places."""
    ends = torch.randint(1, workload.kv_len, (11,), generator=generator, device=generator.device).sort().values
    document = torch.searchsorted(ends, torch.arange(workload.kv_len, device=ends.device), right=True).to(torch.int32)

    def same(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (document[q_idx] == document[kv_idx]) & (q_idx >= kv_idx)

    return Mods(mask=same)


def _softcap(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    def softcap(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return CAP * torch.tanh(score / CAP)

    return Mods(softcap)


def _prefix(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    def prefix(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) | (kv_idx < PREFIX)

    return Mods(mask=prefix)


def _t5(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    """Causal, a learned bias for each of 32 buckets of distances, half of them exact and the rest logarithmic."""
    exact = _BUCKETS // 2
    distance = torch.arange(workload.kv_len, device=generator.device)
    scaled = torch.log(distance.clamp(min=1) / exact) / torch.log(torch.tensor(_FAR / exact)) * exact
    bucket = torch.where(distance < exact, distance, exact + scaled.clamp(min=0).long()).clamp(max=_BUCKETS - 1).to(torch.int32)
    table = torch.randn(_BUCKETS, workload.heads[0], generator=generator, device=generator.device).requires_grad_(grad)

    def learned(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + table[bucket[torch.clamp(q_idx - kv_idx, min=0)], h]

    return Mods(learned, causal, (table,) if grad else ())


def _natten(workload: Workload, generator: torch.Generator, grad: bool) -> Mods:
    """The 13 x 13 nearest tokens of a grid, square or twice as wide as high."""
    bits = workload.kv_len.bit_length() - 1
    return Mods(mask=attngen.grid(1 << bits // 2, 1 << bits - bits // 2).neighborhood(min(NEIGHBOURS, 1 << bits // 2)))


VARIANTS: dict[str, Callable[[Workload, torch.Generator, bool], Mods]] = {
    "noop": _plain,
    "causal": _causal,
    "alibi": _alibi,
    "window": _window,
    "document": _document,
    "softcap": _softcap,
    "prefix": _prefix,
    "t5": _t5,
    "natten": _natten,
    "differential": _plain,
}
