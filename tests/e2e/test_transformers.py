"""Models of several kinds, with random weights, give through attngen what they give through their own attention.

Padding on the left, grouped heads, sliding windows, capped scores, position biases, and gradients.
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


MODELS = {build.__name__: build for build in (llama, mistral, gemma2, bert, gpt2)}


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


def test_what_it_cannot_do_is_refused() -> None:
    q = torch.zeros(1, 2, 4, 8)
    with pytest.raises(UnsupportedError):
        attention_forward(torch.nn.Identity(), q, q, q, None, output_attentions=True)
