"""Who is measured: each builds a call for a problem, or says why it cannot.

Every call computes a whole problem, and takes and gives tensors as attngen does, [batch, heads, tokens, dim].
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import attngen
from benchmarks.gpu.problems import Problem, Term


class NotImportable(Exception):
    """A contender's package is not installed."""


@dataclass(frozen=True)
class Built:
    """A call for one problem.

    Attributes:
        call: computes the problem.
        setup_s: what has to be done again when the mask changes, None where it is part of every call.
        build_s: how long it took to make.
    """

    call: Callable[[], Tensor]
    setup_s: float | None = None
    build_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Contender:
    """One implementation.

    Attributes:
        name: in tables.
        build: makes the call; may compile, and may raise for what the implementation refuses.
        cost_s: a guess, never measured, of what compiling and timing one problem takes: what does not fit the budget is not begun.
        limit_s: the longest that one problem may take of it.
    """

    name: str
    build: Callable[[Problem], Built]
    cost_s: float
    limit_s: float = math.inf


_SPECIALISED = {"forward": {"SPECIALISED": True, "BLOCK_N": 128, "num_stages": 2}}


def _attngen(deterministic: bool | None, schedule: dict[str, Any] | None = None) -> Callable[[Problem], Built]:
    def build(problem: Problem) -> Built:
        attend = attngen.compile(problem.spec(), deterministic=deterministic, schedule=schedule)
        arguments = problem.arguments()
        return Built(lambda: attend(*arguments))

    return build


def _sdpa(backend: str) -> Callable[[Problem], Built]:
    def build(problem: Problem) -> Built:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kind = getattr(SDPBackend, backend)
        is_causal, gqa = problem.workload.variant == "causal", len(set(problem.workload.heads)) > 1

        def one(term: Term) -> Tensor:
            with sdpa_kernel(kind):
                return torch.nn.functional.scaled_dot_product_attention(term.q, term.k, problem.v, is_causal=is_causal, enable_gqa=gqa)

        return Built(lambda: _combined(problem, one))

    return build


def _flex(mode: str | None) -> Callable[[Problem], Built]:
    def build(problem: Problem) -> Built:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        # Each problem is compiled by itself: beyond a few recompiles of one function PyTorch would fall back to a dense product.
        torch._dynamo.reset()
        compiled: Any = torch.compile(flex_attention, dynamic=False, mode=mode)
        work, mods = problem.workload, problem.mods
        block, setup_s = None, None
        if mods.mask is not None:
            device = str(problem.v.device)
            for _ in range(2):
                began = _now(problem)
                block = create_block_mask(_as_function(mods.mask), None, None, work.q_len, work.kv_len, device=device)
                setup_s = _now(problem) - began
        gqa = len(set(work.heads)) > 1

        def one(term: Term) -> Tensor:
            return compiled(term.q, term.k, problem.v, score_mod=mods.score, block_mask=block, enable_gqa=gqa)

        return Built(lambda: _combined(problem, one), setup_s)

    return build


def _fa4(problem: Problem) -> Built:
    function = _imported("flash_attn.cute", "flash_attn_func")

    def one(term: Term) -> Tensor:
        found = function(*_tokens_first(term, problem), causal=problem.workload.variant == "causal")
        return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)

    return Built(lambda: _combined(problem, one))


def _fla(problem: Problem) -> Built:
    function = _imported("fla.ops.attn.parallel", "parallel_attn")
    return Built(lambda: _combined(problem, lambda term: function(*_tokens_first(term, problem)).transpose(1, 2)))


def _tokens_first(term: Term, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Views of [batch, tokens, heads, dim]."""
    return term.q.transpose(1, 2), term.k.transpose(1, 2), problem.v.transpose(1, 2)


def _combined(problem: Problem, one: Callable[[Term], Tensor]) -> Tensor:
    """A problem of several softmaxes by an implementation of one."""
    first, *rest = problem.terms
    total = one(first)
    for term in rest:
        assert term.factor is not None, "later softmaxes are weighted"
        total = total - term.factor[:, None, None] * one(term)
    return total


def _as_function(mask: Callable[..., Any]) -> Callable[..., Any]:
    """FlexAttention looks at the code of a mod, which a callable object has none of."""
    return lambda b, h, q_idx, kv_idx: mask(b, h, q_idx, kv_idx)


def _imported(module: str, name: str) -> Callable[..., Any]:
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        raise NotImportable(f"{module} cannot be imported: {error}") from error


def _now(problem: Problem) -> float:
    if problem.v.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


CONTENDERS: dict[str, Contender] = {
    item.name: item
    for item in (
        Contender("attngen", _attngen(None), 8.0),
        Contender("attngen_two_walks", _attngen(True), 8.0),
        Contender("attngen_specialised", _attngen(None, _SPECIALISED), 12.0, limit_s=60.0),
        Contender("sdpa_cudnn", _sdpa("CUDNN_ATTENTION"), 3.0),
        Contender("sdpa_flash", _sdpa("FLASH_ATTENTION"), 3.0),
        Contender("sdpa_efficient", _sdpa("EFFICIENT_ATTENTION"), 3.0),
        Contender("fa4", _fa4, 15.0),
        Contender("fla", _fla, 15.0),
        Contender("flex", _flex(None), 12.0),
        Contender("flex_max", _flex("max-autotune-no-cudagraphs"), 60.0),
    )
}
