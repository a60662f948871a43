"""attngen as an attention implementation of Hugging Face transformers.

    from attngen.integrations.transformers import register
    register()
    model.set_attn_implementation("attngen")

Takes the arguments of a model's attention function (queries, keys and values per head, KV heads not repeated, a boolean mask or a bias, a
softcap, sinks, the keys selected by an indexer) and returns its result. The variant depends on which are given; numbers and tensors are
passed at each call, so that the layers of a model share kernels. Weights are not returned. Unknown options are refused, since they may
change what a layer computes.
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
Sink = Literal["", "heads", "rows"]
_KEEP_AXES: dict[Keep, str] = {"keys": "b n: bool", "pairs": "b m n: bool", "heads": "b (g r) m n: bool"}
_SINK_AXES: dict[Sink, str] = {"heads": "(g r)", "rows": "b (g r) m"}


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_APPLIED = _words(
    "scaling is_causal softcap sliding_window s_aux sinks position_bias indices block_indices",
    "cu_seq_lens_q cu_seq_lens_k cu_seqlens",
)
_HARMLESS = _words(
    "position_ids position_embeddings cache_position past_key_value past_key_values use_cache cache cache_params token_type_ids input_ids",
    "inputs_embeds labels shift_labels num_items_in_batch logits_to_keep output_attentions output_hidden_states output_router_logits",
    "return_dict seq_idx grid_thw max_length_q max_length_k max_seqlen layer_idx deterministic attn_implementation implementation",
    "kernel_options target_dtype use_top_left_mask",
)
"""Neither eager attention nor sdpa reads them: they concern the model, the loss, or how a kernel runs."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The variant of one attention layer.

    Attributes:
        keep: axes of the boolean mask: keys alone, pairs of query and key, or these per head.
        causal: top-left aligned.
        window: the number of last keys visible, the query's own included.
        softcap: c of c * tanh(score / c).
        scale: multiplies q @ k; D ** -0.5 unless given.
        bias: a tensor is added to the scores.
        sink: logits in the softmax without a value, one for each head, or one for each query of a head.
        dropout: the rate at which weights are dropped.
    """

    keep: Keep = ""
    causal: bool = False
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False
    sink: Sink = ""
    dropout: float = 0.0


def register(name: str = "attngen") -> None:
    """Make attngen available as `model.set_attn_implementation(name)`.

    Registers the mask function too, without which padding masks would be ignored silently.
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
    """The attention function of transformers, called in each layer.

    Args:
        query: [B, Hq, Nq, D]. key, value: [B, Hkv, Nkv, D].
        attention_mask: boolean or additive, [B or 1, Hq or 1, Nq, at least Nkv]; None for no mask, or a causal one.
        dropout: the rate at which weights are dropped; transformers passes 0 in evaluation. Seeded by PyTorch's generator.
        options: scaling, is_causal, softcap, sliding_window, s_aux, sinks, position_bias, indices and block_indices are applied; options
            irrelevant to attention, and those that are None or False, are ignored.

    Returns:
        The output [B, Nq, Hq, D], and None for the weights.

    Raises:
        UnsupportedError: any other option, paged caches, or a request for the weights.
    """
    _refuse(options, attention_mask)
    causal = options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal) and attention_mask is None and query.shape[2] > 1
    keep, mask, bias = _masks(attention_mask, options.get("position_bias"), key.shape[2], query.dtype)
    chosen = _chosen(module, options, key.shape[2])
    if chosen is not None:
        chosen = chosen.repeat_interleave(query.shape[1] // chosen.shape[1], dim=1) if chosen.shape[1] > 1 else chosen
        seen = {"keys": lambda m: m[:, None, None], "pairs": lambda m: m[:, None], "heads": lambda m: m}
        keep, mask = _kept(chosen if mask is None else chosen & seen[keep](mask))
    sink, logits = _sinks(options)
    name = _made(
        keep,
        causal,
        options.get("sliding_window") if causal else None,
        options.get("softcap"),
        options.get("scaling"),
        bias is not None,
        sink,
        float(dropout),
    )
    given: dict[str, Any] = {"keep": mask, "bias": bias, "sink": None if logits is None else logits.to(query.dtype)}
    run: attngen.Attention = getattr(_Made, name)
    output: Tensor = run(query, key, value, **{name: tensor for name, tensor in given.items() if tensor is not None})
    return output.transpose(1, 2).contiguous(), None


class _Made:
    """The compiled variants, by names given by `_made`."""


@torch.compiler.assume_constant_result  # pyright: ignore[reportUntypedFunctionDecorator]
def _made(
    keep: Keep, causal: bool, window: int | None, softcap: float | None, scale: float | None, bias: bool, sink: Sink, dropout: float
) -> str:
    """Compile a variant unless cached, and return its name: a constant to torch.compile, by which it finds the variant outside of its
    trace."""
    attend = compiled(Variant(keep, causal, window, softcap, scale, bias, sink, dropout))
    name = f"variant_{id(attend)}"  # unique, since `compiled` keeps it alive
    setattr(_Made, name, attend)
    return name


@cache
def compiled(variant: Variant) -> attngen.Attention:
    """The callable of a variant; its arguments are q, k, v and, if the variant has them, keep, bias and sink."""
    signature = {"q": "b (g r) m d", "k": "b g n d", "v": "b g n e"}
    if variant.keep:
        signature["keep"] = _KEEP_AXES[variant.keep]
    if variant.bias:
        signature["bias"] = "b (g r) m n"
    if variant.sink:
        signature["sink"] = _SINK_AXES[variant.sink]

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


def _refuse(options: dict[str, Any], mask: Tensor | None) -> None:
    if options.get("output_attentions"):
        raise UnsupportedError("attention weights are never materialized", remedy='Use attn_implementation="eager" to inspect them.')
    if type(options.get("cache")).__name__ == "PagedAttentionCache":
        raise UnsupportedError("paged caches are not supported", remedy="Generate without continuous batching.")
    for name, value in options.items():
        if name not in _APPLIED and name not in _HARMLESS and value is not None and value is not False:
            raise UnsupportedError(
                f"the unknown option {name}= of a layer, which may change its result",
                remedy=f'Leave {name} out if it is not meant for attention, or use attn_implementation="sdpa" or "eager".',
            )
    if options.get("s_aux") is not None and options.get("sinks") is not None:
        raise UnsupportedError("both s_aux= and sinks=", remedy="Pass the sinks of a layer once.")
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens"):
        ends = options.get(name)
        if mask is None and isinstance(ends, Tensor) and ends.numel() > 2:
            raise UnsupportedError(
                f"{name}= of packed sequences without a document mask",
                remedy="Pass position_ids that restart with each sequence: transformers then builds the mask.",
            )


def _sinks(options: dict[str, Any]) -> tuple[Sink, Tensor | None]:
    """One logit a head, s_aux [Hq], or one for each of its queries, sinks [B, Hq, Nq, 1]."""
    if options.get("sinks") is not None:
        return "rows", options["sinks"].squeeze(-1)
    return ("", None) if options.get("s_aux") is None else ("heads", options["s_aux"].reshape(-1))


def _chosen(module: torch.nn.Module, options: dict[str, Any], keys: int) -> Tensor | None:
    """The keys selected by an indexer for each query, as a boolean mask [B, 1 or Hkv, Nq, Nkv]; None without an indexer.

    Given as indices [B, Nq, K], or as block_indices [B, Hkv, Nq, K]; negative numbers select nothing.
    """
    indices, blocks = options.get("indices"), options.get("block_indices")
    found: Tensor | None = None
    if indices is not None:
        found = _scattered(indices if indices.dim() == 4 else indices[:, None], keys)
    if blocks is not None:
        size = getattr(getattr(module, "indexer", None), "block_size", None)
        if not isinstance(size, int):
            raise UnsupportedError(
                "block_indices= of a layer without an indexer.block_size",
                remedy='Use attn_implementation="sdpa" or "eager".',
            )
        whole = _scattered(blocks, -(-keys // size)).repeat_interleave(size, dim=-1)[..., :keys]
        found = whole if found is None else found & whole
    return found


def _scattered(places: Tensor, length: int) -> Tensor:
    """A boolean mask over `length` positions, true at the given ones; negative ones go to an extra position, which is dropped."""
    places = torch.where(places < 0, length, places).long()
    return places.new_zeros((*places.shape[:-1], length + 1), dtype=torch.bool).scatter(-1, places, True)[..., :length]


def _masks(mask: Tensor | None, position_bias: Tensor | None, keys: int, dtype: torch.dtype) -> tuple[Keep, Tensor | None, Tensor | None]:
    """The boolean mask with its kind, and the sum of all additive terms as one bias."""
    bias = None if position_bias is None else position_bias[..., :keys].to(dtype)
    if mask is None:
        return "", None, bias
    mask = mask[..., :keys]
    if mask.dtype != torch.bool:
        added = mask.to(dtype)
        return "", None, added if bias is None else bias + added
    return (*_kept(mask), bias)


def _kept(mask: Tensor) -> tuple[Keep, Tensor]:
    """The kind of a boolean mask, and the mask reduced to the axes it varies along."""
    if mask.shape[1] > 1 and mask.stride(1) != 0:
        return "heads", mask
    mask = mask[:, 0]
    if mask.shape[1] == 1 or mask.stride(1) == 0:
        # A padding mask, expanded over the queries: only its row of keys is read.
        return "keys", mask[:, 0]
    return "pairs", mask
