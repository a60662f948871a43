"""Further variants whose main loops are recorded: score and mask mods, each without and with a causal mask.

Written as for FlexAttention; `catalog.load("benchmarks.static.mods:alibi")` traces one.
"""

from __future__ import annotations

from typing import Any

import torch

from attngen import attention
from attngen.frontend.spec import Spec

NAMES = ("alibi", "softcap_causal", "window", "document", "document_causal", "document_listed")
_DOCUMENT = torch.zeros(1, dtype=torch.int32)


def alibi() -> Spec:
    """A penalty per distance, over all keys."""
    slopes = torch.ones(8)

    def penalty(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + slopes[h] * (kv_idx - q_idx)

    return attention(score_mod=penalty, name="alibi")


def softcap_causal() -> Spec:
    """Scores bounded by a tanh, over the keys up to the query's own position."""
    return attention(softcap=torch.tensor(50.0), mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, name="softcap_causal")


def window() -> Spec:
    """Keys at most `width` positions away, on either side."""
    width = 512

    def near(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return abs(q_idx - kv_idx) <= width

    return attention(mask_mod=near, name="window")


def document() -> Spec:
    """Keys of the query's own document: where documents lie is found once a call."""
    document = _DOCUMENT

    def same(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return document[q_idx] == document[kv_idx]

    return attention(mask_mod=same, name="document")


def document_causal() -> Spec:
    """The same, up to the query's own position."""
    document = _DOCUMENT

    def same(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (document[q_idx] == document[kv_idx]) & (q_idx >= kv_idx)

    return attention(mask_mod=same, name="document_causal")


def document_listed() -> Spec:
    """The same by a comparison without known document extents: tiles are visited by a tile list."""
    document = _DOCUMENT

    def same(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (abs(document[q_idx] - document[kv_idx]) < 1) & (q_idx >= kv_idx)

    return attention(mask_mod=same, name="document_listed")
