"""Every mask and score mod of attention-gym, imported unmodified, compiles and matches dense PyTorch, forward and backward."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attngen
from tests.e2e import dense
from tests.e2e.dense import FEW, normal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("attn_gym")
    from attn_gym import masks, mods
    from attn_gym.masks.document_mask import length_to_offsets
    from attn_gym.masks.vsa import generate_vsa_padding_mask_mod

Mod = Callable[..., Any]
HEADS, GROUPS, DEPTH = 2, 1, 16

OFFSETS = length_to_offsets([27, 4, 0, 45, 24], "cpu")
PREFIX_DOCUMENT = torch.tensor([0, 0, 2, 1, 3])
TILES = torch.tensor([16, 16, 16, 16, 16, 9])
TOPK = torch.tensor([[[0, 2], [1, 3], [2, 5], [0, 1], [4, 5], [3, 0]]] * HEADS).reshape(1, HEADS, 6, 2)
ANCESTORS = masks.build_tree_ancestor_matrix([-1, 0, 0, 1, 1, 2, 2, 3, *range(4, 64)], device="cpu")
IS_GLOBAL = torch.zeros(100, dtype=torch.bool).index_fill(0, torch.tensor([0, 5, 71]), True)
INTERVALS = torch.tensor([[0, 40], [7, 90], [40, 90], [80, 81]])

MASKS: dict[str, tuple[Mod, int, int]] = {
    "causal": (masks.causal_mask, 100, 100),
    "causal, more keys": (masks.causal_mask, 40, 100),
    "causal, more queries": (masks.causal_mask, 100, 40),
    "sliding window": (masks.generate_sliding_window(17), 100, 100),
    "dilated": (masks.generate_dilated_sliding_window(20, 3), 100, 100),
    "global": (masks.generate_global_sliding_window(9, IS_GLOBAL), 100, 100),
    "prefix": (masks.generate_prefix_lm_mask(70), 100, 100),
    "document": (masks.generate_doc_mask_mod(masks.causal_mask, OFFSETS), 100, 100),
    "packed documents": (masks.generate_packed_causal_doc_mask_mod(OFFSETS), 100, 100),
    "shared prefix": (masks.generate_shared_prefix_mask_mod(OFFSETS, PREFIX_DOCUMENT), 100, 100),
    "batchify": (masks.batchify_mask_mod(masks.causal_mask, 33), 99, 99),
    "block diffusion": (masks.generate_block_diffusion_mask(48, 16), 96, 96),
    "jetspec tree": (masks.generate_jetspec_tree_causal_mask_mod(29, ANCESTORS), 68, 97),
    "jetspec training": (masks.generate_jetspec_training_mask_mod(20, 16), 80, 100),
    "natten": (masks.generate_natten(10, 8, 5, 3), 80, 80),
    "tiled natten": (masks.generate_tiled_natten(8, 8, 3, 3, 4, 2), 64, 64),
    "morton natten": (masks.generate_morton_natten(8, 8, 3, 3), 64, 64),
    "tile attention 2d": (masks.generate_sta_mask_mod_2d((8, 8), (4, 4), (2, 2), 3), 67, 67),
    "tile attention 3d": (masks.generate_sta_mask_mod_3d((4, 4, 4), (2, 2, 2), (2, 2, 2), 2), 66, 66),
    "spatial": (masks.generate_spatial_head_mask_mod(10, 20, 26, 2, True, 4), 72, 72),
    "temporal": (masks.generate_temporal_head_mask_mod(3, 4, 24, 2), 75, 75),
    "flamingo": (masks.generate_vision_cross_attention_mask_mod(INTERVALS, 20), 90, 80),
    "vsa": (masks.generate_vsa_mask_mod(TOPK, 16), 96, 96),
    "vsa with padding": (masks.generate_vsa_mask_mod(TOPK, 16, TILES), 96, 96),
    "vsa padding": (generate_vsa_padding_mask_mod(TILES, 16), 96, 96),
}


def check(
    rows: int,
    keys: int,
    *,
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    groups: int = GROUPS,
    learned: tuple[Tensor, ...] = (),
) -> None:
    """Compile, run, differentiate, and compare with dense PyTorch in float64."""
    q, k, v = normal(1, HEADS, rows, DEPTH), normal(1, groups, keys, DEPTH, seed=1), normal(1, groups, keys, DEPTH, seed=2)
    leaves = (q, k, v, *learned)
    attend = attngen.compile(attngen.attention(score_mod, mask_mod), schedule=FEW)
    found, expected = attend(q, k, v), dense.attention(q, k, v, score_mod, mask_mod)
    dense.assert_equal((found, *dense.gradients(found, leaves)), (expected, *dense.gradients(expected, leaves)))


@pytest.mark.parametrize("name", MASKS)
def test_masks(name: str) -> None:
    mod, rows, keys = MASKS[name]
    check(rows, keys, mask_mod=mod)


SCORES: dict[str, Callable[[], Mod]] = {
    "alibi": lambda: mods.generate_alibi_bias(HEADS),
    "softcap": lambda: mods.generate_tanh_softcap(2),
    "sandwich": lambda: mods.generate_sandwich_bias(HEADS, 80),
    "activation gelu": lambda: mods.generate_activation_score_mod(F.gelu),
    "activation relu": lambda: mods.generate_activation_score_mod(F.relu),
}


@pytest.mark.parametrize("name", SCORES)
def test_score_mods(name: str) -> None:
    check(80, 80, score_mod=SCORES[name]())


def test_approximate_softcap() -> None:
    """PTX has no double precision tanh: the approximate one is the exact one here, which is within its error."""
    approximate, exact = (mods.generate_tanh_softcap(2, approx=approx) for approx in (True, False))
    q, k, v = (normal(1, HEADS, 70, DEPTH, seed=seed) for seed in range(3))
    found = attngen.compile(attngen.attention(approximate), schedule=FEW)(q, k, v)
    expected = dense.attention(q, k, v, exact)
    dense.assert_equal((found, *dense.gradients(found, (q, k, v))), (expected, *dense.gradients(expected, (q, k, v))))


def test_score_and_mask_together() -> None:
    check(100, 100, score_mod=mods.generate_alibi_bias(HEADS), mask_mod=masks.causal_mask, groups=2)


NODES = 70
ADJACENCY = torch.zeros(1, NODES, NODES, dtype=torch.bool)
ADJACENCY[0, range(NODES - 1), range(1, NODES)] = True
ADJACENCY[0, range(1, NODES), range(NODES - 1)] = True
EDGE_TYPES = (torch.arange(NODES).view(1, -1, 1) + torch.arange(NODES)) % 4


def test_learnable_spatial_bias_of_graphormer() -> None:
    bias = normal(HEADS, 5)
    check(NODES, NODES, score_mod=mods.generate_graphormer_spatial_bias(bias, mods.shortest_path_distances(ADJACENCY, 3)), learned=(bias,))


def test_learnable_edge_bias_of_graphormer() -> None:
    """Its mod slices the parameter into one table a path position; gradients come back to the whole."""
    bias = normal(HEADS, 3, 4)
    paths, lengths = mods.shortest_path_edge_types(ADJACENCY, EDGE_TYPES, 3)
    check(NODES, NODES, score_mod=mods.generate_graphormer_edge_bias(bias, paths, lengths), learned=(bias,))


def test_latent_attention() -> None:
    """The dot product of two captured rows is a second contraction into the same scores."""
    q_rope, k_rope = normal(1, HEADS, 80, 32), normal(1, 1, 80, 32, seed=1)
    check(80, 80, score_mod=mods.generate_mla_rope_score_mod(q_rope, k_rope, HEADS, 0.3), learned=(q_rope, k_rope))


def test_masked_latent_attention() -> None:
    q_rope, k_rope = normal(1, HEADS, 80, 24), normal(1, 1, 80, 24, seed=1)
    rope = mods.generate_mla_rope_score_mod(q_rope, k_rope, HEADS, 0.3)
    check(80, 80, score_mod=rope, mask_mod=masks.causal_mask, learned=(q_rope, k_rope))
