"""attngen as an attention implementation of Hugging Face transformers.

    from attngen.integrations.transformers import register
    register()
    model.set_attn_implementation("attngen")

Takes what a model hands to its attention function (queries, keys and values per head, grouped heads unrepeated, a mask of truth values or
a bias, a cap, sinks) and gives what the model expects back. Which of these are there decides the variant; numbers and tensors are passed
at each call, so that the layers of a model share kernels. It does not return weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

import attngen
from attngen.errors import UnsupportedError

Keep = Literal["", "keys", "pairs", "heads"]
_KEEP_AXES: dict[Keep, str] = {"keys": "b n: bool", "pairs": "b m n: bool", "heads": "b (g r) m n: bool"}


@dataclass(frozen=True, slots=True)
class Variant:
    """What one attention layer is made of.

    Attributes:
        keep: what a mask of truth values varies over: keys alone, pairs of query and key, or these per head.
        causal: queries see keys up to their own position, counted from the first.
        window: and at most this many of them, their own included.
        softcap: c of c * tanh(score / c).
        scale: multiplies q @ k; D ** -0.5 unless given.
        bias: a tensor is added to the scores.
        sink: logits take part in the softmax without a value.
        dropout: the rate at which weights are dropped.
    """

    keep: Keep = ""
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False
    sink: bool = False
    dropout: float = 0.0


def register(name: str = "attngen") -> None:
    """Make attngen available as `model.set_attn_implementation(name)`.

    Without the second of the two functions registered here, padding would be lost without a word.
    """
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer.

    Args:
        query: [B, Hq, Nq, D]. key, value: [B, Hkv, Nkv, D].
        attention_mask: truth values or additive, [B or 1, Hq or 1, Nq, at least Nkv]; None if every key is seen, or causal.
        dropout: the rate at which weights are dropped; transformers passes 0 in evaluation. PyTorch's generator decides which.
        options: scaling, is_causal, softcap, sliding_window, s_aux, position_bias; others are of no concern to attention.

    Returns:
        The output [B, Nq, Hq, D], and None for the weights.

    Raises:
        UnsupportedError: paged caches, or a request for the weights.
    """
    _refuse(options)
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal) and attention_mask is None and query.shape[2] > 1
    keep, mask, bias = _masks(attention_mask, options.get("position_bias"), key.shape[2], query.dtype)
    sink = options.get("s_aux")
    variant = Variant(
        keep=keep,
        causal=causal,
        window=options.get("sliding_window") if causal else None,
        softcap=options.get("softcap"),
        scale=options.get("scaling"),
        bias=bias is not None,
        sink=sink is not None,
        dropout=float(dropout),
    )
    given = {"keep": mask, "bias": bias, "sink": None if sink is None else sink.to(query.dtype)}
    output: Tensor = compiled(variant)(query, key, value, **{name: tensor for name, tensor in given.items() if tensor is not None})
    return output.transpose(1, 2).contiguous(), None


@cache
def compiled(variant: Variant) -> attngen.Attention:
    """The callable of a variant; its arguments are q, k, v and then keep, bias and sink as far as it has them."""
    signature = {"q": "b (g r) m d", "k": "b g n d", "v": "b g n e"}
    if variant.keep:
        signature["keep"] = _KEEP_AXES[variant.keep]
    if variant.bias:
        signature["bias"] = "b (g r) m n"
    if variant.sink:
        signature["sink"] = "(g r)"

    scale, softcap, window, rate = variant.scale, variant.softcap, variant.window, variant.dropout

    def transformers_attention(q: Any, k: Any, v: Any, keep: Any = None, bias: Any = None, sink: Any = None) -> Any:
        score = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q, k)
        score = score * (attngen.extent("d") ** -0.5 if scale is None else scale)
        if softcap is not None:
            score = softcap * attngen.tanh(score / softcap)
        if variant.bias:
            score = score + bias
        if variant.causal:
            score = attngen.where(attngen.causal("m", "n", align="top_left"), score, float("-inf"))
        if window is not None:
            score = attngen.where(attngen.index("m") - attngen.index("n") < window, score, float("-inf"))
        if variant.keep:
            score = attngen.where(keep, score, float("-inf"))
        if variant.sink:
            total = attngen.logaddexp(attngen.logsumexp(score, over="n"), sink)
            weights = attngen.exp(score - total)
        else:
            weights = attngen.softmax(score, over="n")
        return attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.dropout(weights, rate), v)

    return attngen.compile(attngen.cascade(**signature)(transformers_attention))


def _refuse(options: dict[str, Any]) -> None:
    if options.get("output_attentions"):
        raise UnsupportedError("attention weights never exist as a tensor here", remedy='Use attn_implementation="eager" to look at them.')
    if type(options.get("cache")).__name__ == "PagedAttentionCache":
        raise UnsupportedError("paged caches are not available", remedy="Generate without continuous batching.")


def _masks(mask: Tensor | None, position_bias: Tensor | None, keys: int, dtype: torch.dtype) -> tuple[Keep, Tensor | None, Tensor | None]:
    """A mask of truth values with what it varies over, and everything additive as one bias."""
    bias = None if position_bias is None else position_bias[..., :keys].to(dtype)
    if mask is None:
        return "", None, bias
    mask = mask[..., :keys]
    if mask.dtype != torch.bool:
        added = mask.to(dtype)
        return "", None, added if bias is None else bias + added
    if mask.shape[1] > 1 and mask.stride(1) != 0:
        return "heads", mask, bias
    mask = mask[:, 0]
    if mask.shape[1] == 1 or mask.stride(1) == 0:
        # A padding mask, expanded over the queries: only its row of keys is read.
        return "keys", mask[:, 0], bias
    return "pairs", mask, bias
