"""Models of several kinds, with random weights, give through attngen what they give through their own attention.

Padding on the left, grouped heads, sliding windows, capped scores, position biases, sinks, indexers, and gradients.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from attngen.errors import UnsupportedError

transformers = pytest.importorskip("transformers")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from attngen.integrations.transformers import Variant, _masks, attention_forward, compiled, register

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SMALL: dict[str, Any] = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2))


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=5))


def gemma2() -> Any:
    config = transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=8, sliding_window=5, attn_logit_softcapping=2.0, query_pre_attn_scalar=8
    )
    return transformers.Gemma2ForCausalLM(config)


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SMALL, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0))


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64))


def gpt_oss() -> Any:
    """A sink for each head."""
    config = transformers.GptOssConfig(
        **SMALL, num_key_value_heads=2, head_dim=8, sliding_window=5, num_local_experts=2, num_experts_per_tok=1
    )
    return transformers.GptOssForCausalLM(config)


def deepseek() -> Any:
    """An indexer names five keys for each query."""
    ranks = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    index = {"index_topk": 5, "index_n_heads": 2, "index_head_dim": 16}
    config = transformers.DeepseekV32Config(**SMALL, **ranks, **index, num_key_value_heads=4, first_k_dense_replace=2)
    return transformers.DeepseekV32ForCausalLM(config)


def minimax() -> Any:
    """An indexer names two blocks of four keys for each query and head of keys. One layer: the indexer of the next would read what the rows
    of padding gave, which is theirs to choose."""
    from transformers.models.minimax_m3_vl.configuration_minimax_m3_vl import MiniMaxM3VLTextConfig
    from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLTextModel

    index = {"index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2}
    kinds = {"layer_types": ["minimax_m3_sparse"], "mlp_layer_types": ["dense"], "bos_token_id": 1, "eos_token_id": 2}
    sizes = SMALL | {"num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 8}
    return MiniMaxM3VLTextModel(MiniMaxM3VLTextConfig(**sizes, **index, **kinds))


def inkling() -> Any:
    """A sink for each query of each head, beside position biases and a sliding window."""
    from transformers.models.inkling2.configuration_inkling2 import Inkling2TextConfig
    from transformers.models.inkling2.modeling_inkling2 import Inkling2ForCausalLM

    sizes = {name: SMALL[name] for name in SMALL if name != "intermediate_size"} | {"n_routed_experts": 4, "num_experts_per_tok": 2}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8}
    own = {"d_rel": 4, "rel_extent": 8, "sliding_window_size": 5, "moe_intermediate_size": 16, "eos_token_id": 2}
    return Inkling2ForCausalLM(Inkling2TextConfig(**sizes, **heads, **own))


MODELS = {build.__name__: build for build in (llama, mistral, gemma2, bert, gpt2, gpt_oss, deepseek, minimax, inkling)}


def run(model: Any, implementation: str, **inputs: Tensor) -> Tensor:
    model.set_attn_implementation(implementation)
    result: Tensor = model(**inputs)[0]
    return result


def batch(padding: str) -> dict[str, Tensor]:
    """Two sequences, the second of which is padded."""
    tokens = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    if padding == "left":
        mask[1, :5] = 0
    if padding == "right":
        mask[1, -4:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, padding: str) -> None:
    register()
    torch.manual_seed(0)
    model, inputs = MODELS[name]().eval(), batch(padding)
    with torch.no_grad():
        stock, ours = (run(model, implementation, **inputs) for implementation in ("eager", "attngen"))
    seen = inputs["attention_mask"].bool()
    assert (stock - ours)[seen].abs().max() < 1e-5


def test_position_biases_and_cross_attention() -> None:
    """T5 adds a learned bias to unscaled scores."""
    register()
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
    model, inputs = transformers.T5Model(config).eval(), batch("right")
    decoder = {"decoder_input_ids": inputs["input_ids"][:, :7]}
    with torch.no_grad():
        stock, ours = (run(model, implementation, **inputs, **decoder) for implementation in ("eager", "attngen"))
    assert (stock - ours).abs().max() < 1e-5


def test_training() -> None:
    register()
    torch.manual_seed(0)
    model, inputs = llama(), batch("left")
    seen = inputs["attention_mask"].unsqueeze(-1)
    found: dict[str, list[Tensor]] = {}
    for implementation in ("sdpa", "attngen"):
        loss = (run(model, implementation, **inputs) * seen).pow(2).sum()
        found[implementation] = list(torch.autograd.grad(loss, list(model.parameters())))
    for mine, right in zip(found["attngen"], found["sdpa"], strict=True):
        assert (mine - right).abs().max() <= 1e-5 * max(1.0, right.abs().max().item())


def test_generation_with_a_cache() -> None:
    register()
    torch.manual_seed(0)
    model, inputs = llama().eval(), batch("left")
    tokens = []
    for implementation in ("sdpa", "attngen"):
        model.set_attn_implementation(implementation)
        tokens.append(model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0))
    assert torch.equal(*tokens)


def test_padding_masks_are_rows_of_keys() -> None:
    """An expanded mask is recognised as one truth value a key, so that no kernel reads a square of them."""
    padding = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    assert _masks(padding.expand(2, 1, 7, 9), None, 9, torch.float32)[0] == "keys"
    assert _masks(padding.expand(2, 1, 7, 9).contiguous(), None, 9, torch.float32)[0] == "pairs"
    assert _masks(padding.expand(2, 4, 7, 9).contiguous(), None, 8, torch.float32)[0] == "heads"


def test_sinks_and_masks_of_heads() -> None:
    q, k, v = (torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in range(3))
    keep = torch.rand(2, 4, 10, 10, generator=torch.Generator().manual_seed(3)) < 0.6
    sink = torch.linspace(-1, 1, 4, dtype=torch.float64)
    found, _ = attention_forward(torch.nn.Identity(), q, k, v, keep, s_aux=sink)
    scores = (q @ k.transpose(-1, -2) * 8**-0.5).masked_fill(~keep, float("-inf"))
    weights = torch.softmax(torch.cat([scores, sink.view(1, 4, 1, 1).expand(2, 4, 10, 1)], -1), -1)[..., :-1]
    assert (found - (weights @ v).transpose(1, 2)).abs().max() < 1e-12


def test_layers_share_kernels() -> None:
    assert compiled(Variant(keep="keys", softcap=2.0)) is compiled(Variant(keep="keys", softcap=2.0))
    first, second = compiled(Variant(softcap=2.0)), compiled(Variant(softcap=3.0))
    assert str(first.spec.cascade) == str(second.spec.cascade)


def test_weights_are_dropped_as_the_generator_says() -> None:
    q, k, v = (torch.randn(1, 2, 10, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in range(3))

    def run(seed: int, rate: float) -> Tensor:
        torch.manual_seed(seed)
        found: Tensor = attention_forward(torch.nn.Identity(), q, k, v, None, dropout=rate)[0]
        return found

    assert torch.equal(run(0, 0.5), run(0, 0.5))
    assert not torch.equal(run(0, 0.5), run(1, 0.5))
    mean = torch.stack([run(seed, 0.1) for seed in range(20)]).mean(0)
    assert (mean - run(0, 0.0)).abs().mean() < 0.5 * (run(0, 0.1) - run(0, 0.0)).abs().mean()


def tensors(heads: int = 4, kv_heads: int = 2, queries: int = 10, keys: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return tuple(torch.randn(2, *shape, 8, generator=generator, dtype=torch.float64) for shape in (q, k, v))  # pyright: ignore[reportReturnType]


def plain(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, sink: Tensor | None = None) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.mT * 8**-0.5).masked_fill(~keep, float("-inf"))
    scores = scores if sink is None else torch.cat([scores, sink], -1)
    return (torch.softmax(scores, -1)[..., : k.shape[2]] @ v).transpose(1, 2)


def chosen(*shape: int, places: int, count: int) -> Tensor:
    """Some of `places`, the last of each turn none at all, and the same as truth values."""
    found = torch.rand(*shape, places, generator=torch.Generator().manual_seed(1)).topk(count, -1).indices
    found[..., -1] = -1
    return found


@pytest.mark.parametrize("mask", ["none", "keys", "pairs", "heads"])
def test_keys_that_an_indexer_chose_meet_the_mask(mask: str) -> None:
    q, k, v = tensors()
    indices = chosen(2, 10, places=12, count=6)
    keep = torch.zeros(2, 10, 13, dtype=torch.bool).scatter(-1, indices % 13, True)[:, None, :, :12].expand(2, 4, 10, 12)
    given = torch.rand(2, 4, 10, 12, generator=torch.Generator().manual_seed(2)) < 0.9
    given = {"none": None, "keys": given[:, :1, :1].expand(2, 4, 10, 12), "pairs": given[:, :1], "heads": given}[mask]
    seen = keep & (torch.ones(10, 12, dtype=torch.bool).tril() if given is None else given)
    found, _ = attention_forward(torch.nn.Identity(), q, k, v, given, indices=indices.int())
    right = plain(q, k, v, seen)
    assert torch.equal(found[right.isnan()], torch.zeros_like(found[right.isnan()])), "a query without keys gives 0"
    assert (found - right)[~right.isnan()].abs().max() < 1e-12


def test_blocks_that_an_indexer_chose() -> None:
    q, k, v = tensors()
    blocks, module = chosen(2, 2, 10, places=3, count=2), torch.nn.Identity()
    module.indexer = torch.nn.Identity()
    with pytest.raises(UnsupportedError, match="block_size"):
        attention_forward(module, q, k, v, None, block_indices=blocks)
    module.indexer.block_size = 5  # pyright: ignore[reportArgumentType]
    keep = (torch.arange(12) // 5 == blocks[..., None]).any(-2).repeat_interleave(2, 1)
    found, _ = attention_forward(module, q, k, v, torch.ones(2, 1, 10, 12, dtype=torch.bool), block_indices=blocks)
    assert (found - plain(q, k, v, keep)).abs().max() < 1e-12


def test_sinks_of_queries_and_their_gradient() -> None:
    q, k, v = tensors()
    sink = torch.randn(2, 4, 10, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    seen = torch.ones(10, 12, dtype=torch.bool).tril()
    found, right = attention_forward(torch.nn.Identity(), q, k, v, None, sinks=sink)[0], plain(q, k, v, seen, sink)
    assert (found - right).abs().max() < 1e-12
    (mine,), (dense,) = (torch.autograd.grad(result.square().sum(), sink) for result in (found, right))
    assert (mine - dense).abs().max() < 1e-11


HARMLESS: dict[str, Any] = {
    "use_cache": True,
    "position_ids": torch.arange(10)[None],
    "cache_position": torch.arange(10),
    "output_hidden_states": True,
    "num_items_in_batch": torch.tensor(3),
    "max_length_q": 10,
    "cu_seq_lens_q": torch.tensor([0, 10]),
    "tilt": None,
    "slant": False,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_options_that_are_of_no_concern(name: str) -> None:
    q, k, v = tensors()
    without, given = (attention_forward(torch.nn.Identity(), q, k, v, None, **options)[0] for options in ({}, {name: HARMLESS[name]}))
    assert torch.equal(without, given)


REFUSED: dict[str, dict[str, Any]] = {
    "tilt": {"tilt": torch.ones(2)},
    "slant": {"slant": 0.0},
    "output_attentions": {"output_attentions": True},
    "cu_seq_lens_k": {"cu_seq_lens_k": torch.tensor([0, 4, 12])},
    "s_aux": {"s_aux": torch.zeros(4), "sinks": torch.zeros(2, 4, 10, 1)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_do_is_refused(name: str) -> None:
    q, k, v = tensors()
    with pytest.raises(UnsupportedError) as caught:
        attention_forward(torch.nn.Identity(), q, k, v, None, **REFUSED[name])
    assert name in str(caught.value) or name == "output_attentions"
    assert caught.value.remedy


class Layers(torch.nn.Module):
    """Two variants, one after the other."""

    is_causal = True

    def forward(self, q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        first = attention_forward(self, q, k, v, None, scaling=0.25)[0].transpose(1, 2)
        return attention_forward(self, first, k, v, None, scaling=0.5, s_aux=sink, softcap=3.0)[0]


def test_one_graph() -> None:
    """torch.compile(fullgraph=True) takes the layers of a model whole, and their gradients."""
    given = [x.requires_grad_() for x in (*tensors(), torch.zeros(4, dtype=torch.float64))]
    layers = Layers()
    whole = torch.compile(layers, backend="eager", fullgraph=True)(*given)
    right = layers(*given)
    assert torch.equal(whole, right)
    for mine, eager in zip(*(torch.autograd.grad(result.square().sum(), given) for result in (whole, right)), strict=True):
        assert torch.equal(mine, eager)
