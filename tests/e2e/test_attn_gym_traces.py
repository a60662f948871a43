"""Every mask and score mod of attention-gym traces, and the masks are true where attention-gym says."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_mask

from attngen.frontend.attention import attention
from attngen.ir.parser import parse
from tests.frontend.evaluate import mask_values

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("attn_gym")
    from attn_gym import masks, mods
    from attn_gym.masks.document_mask import length_to_offsets
    from attn_gym.masks.vsa import generate_vsa_padding_mask_mod

OFFSETS = length_to_offsets([7, 4, 13], "cpu")
TILES = torch.tensor([4, 4, 4, 4, 4, 3])
TOPK = torch.tensor([[[0, 2], [1, 3], [2, 5], [0, 1], [4, 5], [3, 0]]] * 4).reshape(1, 4, 6, 2)
ANCESTORS = masks.build_tree_ancestor_matrix([-1, 0, 0, 1, 1, 2, 2, 3], device="cpu")
IS_GLOBAL = torch.zeros(24, dtype=torch.bool).index_fill(0, torch.tensor([0, 5]), True)

MASKS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "causal": (masks.causal_mask, 24, 24),
    "sliding window": (masks.generate_sliding_window(3), 24, 24),
    "dilated": (masks.generate_dilated_sliding_window(6, 2), 24, 24),
    "global": (masks.generate_global_sliding_window(3, IS_GLOBAL), 24, 24),
    "prefix": (masks.generate_prefix_lm_mask(5), 24, 24),
    "document": (masks.generate_doc_mask_mod(masks.causal_mask, OFFSETS), 24, 24),
    "packed documents": (masks.generate_packed_causal_doc_mask_mod(OFFSETS), 24, 24),
    "shared prefix": (masks.generate_shared_prefix_mask_mod(OFFSETS, torch.tensor([0, 0, 0])), 24, 24),
    "batchify": (masks.batchify_mask_mod(masks.causal_mask, 8), 24, 24),
    "block diffusion": (masks.generate_block_diffusion_mask(12, 4), 24, 24),
    "jetspec tree": (masks.generate_jetspec_tree_causal_mask_mod(5, ANCESTORS), 8, 13),
    "jetspec training": (masks.generate_jetspec_training_mask_mod(4, 4), 16, 20),
    "natten": (masks.generate_natten(6, 6, 3, 3), 36, 36),
    "tiled natten": (masks.generate_tiled_natten(8, 8, 3, 3, 4, 2), 64, 64),
    "morton natten": (masks.generate_morton_natten(8, 8, 3, 3), 64, 64),
    "tile attention 2d": (masks.generate_sta_mask_mod_2d((8, 8), (4, 4), (2, 2), 3), 67, 67),
    "tile attention 3d": (masks.generate_sta_mask_mod_3d((4, 4, 4), (2, 2, 2), (2, 2, 2), 2), 66, 66),
    "spatial": (masks.generate_spatial_head_mask_mod(2, 10, 14, 2, True, 4), 40, 40),
    "temporal": (masks.generate_temporal_head_mask_mod(2, 4, 14, 2), 40, 40),
    "flamingo": (masks.generate_vision_cross_attention_mask_mod(torch.tensor([[0, 7], [1, 7], [7, 12]]), 4), 13, 12),
    "vsa": (masks.generate_vsa_mask_mod(TOPK, 4), 24, 24),
    "vsa with padding": (masks.generate_vsa_mask_mod(TOPK, 4, TILES), 24, 24),
    "vsa padding": (generate_vsa_padding_mask_mod(TILES, 4), 24, 24),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    mod, q_len, kv_len = MASKS[name]
    spec = attention(mask_mod=mod)
    assert parse(str(spec.cascade)) == spec.cascade
    found = mask_values(spec.cascade, {"b": 1, "g": 2, "r": 2, "m": q_len, "n": kv_len, "d": 1, "e": 1}, spec.captures)
    expected = create_mask(mod, 1, 4, q_len, kv_len, device="cpu")
    np.testing.assert_array_equal(found, expected.numpy())
    assert expected.any()


ADJACENCY = torch.zeros(1, 6, 6, dtype=torch.bool)
ADJACENCY[:, [0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]] = True
DISTANCES = mods.shortest_path_distances(ADJACENCY, 3)
PATHS, LENGTHS = mods.shortest_path_edge_types(ADJACENCY, torch.ones(1, 6, 6, dtype=torch.int64), 3)

SCORES: dict[str, tuple[Callable[..., Any], str]] = {
    "alibi": (mods.generate_alibi_bias(8), "s + (n - m) * exp2(-((h + 1) * 8.0 / H))"),
    "softcap": (mods.generate_tanh_softcap(20), "soft_cap * tanh_small(s / soft_cap)"),
    "softcap approximate": (mods.generate_tanh_softcap(20, approx=True), "soft_cap * tanh(s / soft_cap)"),
    "sandwich": (mods.generate_sandwich_bias(4, 16), "s + rel_bias[m - n + offset] * head_scale[h]"),
    "graphormer spatial": (mods.generate_graphormer_spatial_bias(torch.zeros(2, 5), DISTANCES), "s + spatial_bias[h,distances[b,m,n]]"),
    "activation gelu": (mods.generate_activation_score_mod(F.gelu), "log(gelu(s) + offset)"),
    "activation relu": (mods.generate_activation_score_mod(F.relu), "log(relu(s) + offset)"),
    "latent attention": (
        mods.generate_mla_rope_score_mod(torch.zeros(1, 4, 8, 16), torch.zeros(1, 1, 8, 16), 4, 0.3),
        "s + scale * dot[b,g,r,m,n]",
    ),
}


@pytest.mark.parametrize("name", SCORES)
def test_score_mods(name: str) -> None:
    mod, expected = SCORES[name]
    spec = attention(mod)
    assert parse(str(spec.cascade)) == spec.cascade
    line = next(line for line in str(spec.cascade).splitlines() if line.startswith("  x["))
    body = line.partition(" = ")[2].replace("s[b,g,r,m,n] * extent(d) ** -0.5", "s").replace("g * extent(r) + r", "h")
    assert body == expected


def test_learnable_tables_of_graphormer_stay_themselves() -> None:
    edge_bias = torch.nn.Parameter(torch.zeros(2, 3, 4))
    spec = attention(mods.generate_graphormer_edge_bias(edge_bias, PATHS, LENGTHS))
    tables = [capture.value for capture in spec.captures if capture.name.startswith("position_tables")]
    assert len(tables) == 3
    assert all(isinstance(table, torch.Tensor) and table.requires_grad for table in tables)
    assert "where(path_lengths[b,m,n] > 2, " in str(spec.cascade)
