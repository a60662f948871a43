"""The masks of attention-gym as functions of a length: the configurations of tests/e2e/test_attn_gym.py, scaled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import noop_mask

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from attn_gym import masks
    from attn_gym.masks.document_mask import length_to_offsets
    from attn_gym.masks.vsa import generate_vsa_padding_mask_mod

Mod = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A mask for one length; `heads` is 1 unless the mask tells heads apart."""

    mod: Mod
    q_len: int
    kv_len: int
    heads: int = 1


def offsets(length: int) -> torch.Tensor:
    """Five documents that fill the length, one of them empty."""
    lengths = [length * share // 100 for share in (27, 4, 0, 45)]
    return length_to_offsets([*lengths, length - sum(lengths)], "cpu")


def canvas(length: int) -> tuple[int, int]:
    """Width and height of the largest canvas of powers of two, square or twice as wide as high, that has at most `length` tokens."""
    bits = length.bit_length() - 1
    return 1 << -(-bits // 2), 1 << bits // 2


def natten(length: int) -> Case:
    w, h = canvas(length)
    return Case(masks.generate_natten(w, h, w // 2 | 1, h * 3 // 8 | 1), w * h, w * h)


def tiled_natten(length: int) -> Case:
    w, h = canvas(length)
    return Case(masks.generate_tiled_natten(w, h, w * 3 // 8 | 1, h * 3 // 8 | 1, 8, 8), w * h, w * h)


def morton_natten(length: int) -> Case:
    w, h = canvas(length)
    return Case(masks.generate_morton_natten(w, h, w * 3 // 8 | 1, h * 3 // 8 | 1), w * h, w * h)


def sta_2d(length: int) -> Case:
    (w, h), text = canvas(length), length // 21
    return Case(masks.generate_sta_mask_mod_2d((h, w), (h // 2, w // 2), (h // 4, w // 4), text), w * h + text, w * h + text)


def sta_3d(length: int) -> Case:
    (w, h), text = canvas(length // 8), length // 32
    tokens = 8 * w * h + text
    return Case(masks.generate_sta_mask_mod_3d((8, h, w), (4, h // 2, w // 2), (2, h // 4, w // 4), text), tokens, tokens)


def jetspec_tree(length: int) -> Case:
    nodes = length * 68 // 97
    ancestors = masks.build_tree_ancestor_matrix([-1, 0, 0, 1, 1, 2, 2, 3, *range(4, nodes - 4)], device="cpu")
    return Case(masks.generate_jetspec_tree_causal_mask_mod(length - nodes, ancestors), nodes, length)


def jetspec_training(length: int) -> Case:
    queries = length * 4 // 5 // 16 * 16
    return Case(masks.generate_jetspec_training_mask_mod(length - queries, 16), queries, length)


def is_global(length: int) -> torch.Tensor:
    return torch.zeros(length, dtype=torch.bool).index_fill(0, torch.tensor([0, length // 20, length * 71 // 100]), True)


def flamingo(length: int) -> Case:
    intervals = torch.tensor([[0, 40], [7, 90], [40, 90], [80, 81]]) * length // 90
    image = length * 20 // 90
    return Case(masks.generate_vision_cross_attention_mask_mod(intervals, image), length, 4 * image)


def vsa(length: int, padded: bool) -> Case:
    """Two tiles of 64 keys for each tile of 64 queries, at random, other ones in either head."""
    count = length // 64
    draw = torch.rand(1, 2, count, count, generator=torch.Generator().manual_seed(0))
    chosen = draw.argsort(-1)[..., :2]
    mod = masks.generate_vsa_mask_mod(chosen, 64, vsa_sizes(count)) if padded else masks.generate_vsa_mask_mod(chosen, 64)
    return Case(mod, 64 * count, 64 * count, heads=2)


def vsa_sizes(count: int) -> torch.Tensor:
    """Every sixth tile is padded."""
    return torch.tensor([64 if tile % 6 != 5 else 36 for tile in range(count)])


def square(make: Callable[[int], Mod]) -> Callable[[int], Case]:
    """As many keys as queries."""
    return lambda length: Case(make(length), length, length)


PREFIX_DOCUMENT = torch.tensor([0, 0, 2, 1, 3])
CASES: dict[str, Callable[[int], Case]] = {
    "causal": square(lambda n: masks.causal_mask),
    "causal, more keys": lambda n: Case(masks.causal_mask, n * 2 // 5, n),
    "causal, more queries": lambda n: Case(masks.causal_mask, n, n * 2 // 5),
    "sliding window": square(lambda n: masks.generate_sliding_window(256)),
    "dilated": square(lambda n: masks.generate_dilated_sliding_window(n // 5, 3)),
    "global": square(lambda n: masks.generate_global_sliding_window(256, is_global(n))),
    "prefix": square(lambda n: masks.generate_prefix_lm_mask(n * 7 // 10)),
    "document, causal": square(lambda n: masks.generate_doc_mask_mod(masks.causal_mask, offsets(n))),
    "document, noop": square(lambda n: masks.generate_doc_mask_mod(noop_mask, offsets(n))),
    "packed documents": square(lambda n: masks.generate_packed_causal_doc_mask_mod(offsets(n))),
    "shared prefix": square(lambda n: masks.generate_shared_prefix_mask_mod(offsets(n), PREFIX_DOCUMENT)),
    "batchify": square(lambda n: masks.batchify_mask_mod(masks.causal_mask, n // 3)),
    "block diffusion": square(lambda n: masks.generate_block_diffusion_mask(n // 2, 16)),
    "block diffusion, long": square(lambda n: masks.generate_block_diffusion_mask(n // 2, n // 6)),
    "jetspec tree": jetspec_tree,
    "jetspec training": jetspec_training,
    "natten": natten,
    "tiled natten": tiled_natten,
    "morton natten": morton_natten,
    "sta 2d": sta_2d,
    "sta 3d": sta_3d,
    "svg spatial": square(lambda n: masks.generate_spatial_head_mask_mod(n // 16, 15, n // 16, 2, True, 128)),
    "svg temporal": square(lambda n: masks.generate_temporal_head_mask_mod(n // 16, 15, n // 16, 2)),
    "flamingo": flamingo,
    "vsa": lambda n: vsa(n, padded=False),
    "vsa with padding": lambda n: vsa(n, padded=True),
    "vsa padding": square(lambda n: generate_vsa_padding_mask_mod(vsa_sizes(-(-n // 64)), 64)),
}
