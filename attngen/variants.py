"""The variants of the catalogue in user code: for each, a function without arguments that has its name.

Captures are placeholders for a caller's values; a deployed kernel takes them as arguments.
"""

from __future__ import annotations

from typing import Any

import torch

from attngen.frontend import functions as fn
from attngen.frontend.attention import attention
from attngen.frontend.cascade_function import cascade
from attngen.frontend.spec import Spec


def _causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return q_idx >= kv_idx


def full() -> Spec:
    """Softmax attention over all keys."""
    return attention(name="full")


def causal() -> Spec:
    """Over the keys up to the query's own position."""
    return attention(mask_mod=_causal, name="causal")


def sliding_window() -> Spec:
    """Causal, over the last `window` keys."""
    window = 1024

    def recent(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (q_idx - kv_idx < window)

    return attention(mask_mod=recent, name="sliding_window")


def alibi_causal() -> Spec:
    """Causal, with a penalty per distance: one slope a head."""
    slopes = torch.exp2(-torch.arange(1, 9, dtype=torch.float32))

    def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * (kv_idx - q_idx)

    return attention(score_mod=alibi, mask_mod=_causal, name="alibi_causal")


def softcap() -> Spec:
    """Scores bounded by a tanh, as in Gemma 2."""
    return attention(softcap=torch.tensor(50.0), name="softcap")


def prefix_lm() -> Spec:
    """Causal, but all queries see the first prefix[b] keys."""
    prefix = torch.zeros(1, dtype=torch.int32)

    def visible(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) | (kv_idx < prefix[b])

    return attention(mask_mod=visible, name="prefix_lm")


def sigmoid() -> Spec:
    """A sigmoid of each score by itself; the bias is about minus the logarithm of the number of keys."""
    bias = torch.tensor(-7.0)

    def shifted(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + bias

    return attention(score_mod=shifted, normalizer="sigmoid", name="sigmoid")


def differential() -> Spec:
    """The difference of two softmaxes that share their values, weighted by lam for each head."""

    @cascade(q1="b (g r) m d", q2="b (g r) m d", k1="b g n d", k2="b g n d", v="b g n e", lam="(g r)")
    def differential(q1: Any, q2: Any, k1: Any, k2: Any, v: Any, lam: Any) -> Any:
        scale = fn.extent("d") ** -0.5
        p1 = fn.softmax(fn.einsum("b g r m d, b g n d -> b g r m n", q1, k1, name="s1") * scale, "n")
        p2 = fn.softmax(fn.einsum("b g r m d, b g n d -> b g r m n", q2, k2, name="s2") * scale, "n")
        return fn.einsum("b g r m n, b g n e -> b (g r) m e", p1 - lam * p2, v)

    return differential
