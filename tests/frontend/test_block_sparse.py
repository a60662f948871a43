from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import attngen
from attngen.errors import ArgumentError, ShapeMismatch

SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}


def assert_matches(mask: object, dense: torch.Tensor, heads: int = 2) -> attngen.Attention:
    """Values and gradients against dense attention; rows without a key give 0."""
    batch, _, rows, keys = dense.shape
    attend = attngen.compile(attngen.attention(mask_mod=mask, name="blocks"), arch="sm90", schedule=SMALL)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(batch, heads, n, 16, generator=generator, dtype=torch.float64, requires_grad=True) for n in (rows, keys, keys))
    scores = (q @ k.transpose(-1, -2) / 4).masked_fill(~dense, float("-inf"))
    weights = torch.where(dense.any(-1, keepdim=True), torch.softmax(scores.masked_fill(~dense.any(-1, keepdim=True), 0.0), -1), 0.0)
    expected = torch.where(dense, weights, 0.0) @ v
    found = attend(q, k, v)
    cotangent = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    pairs = zip(torch.autograd.grad(found, (q, k, v), cotangent), torch.autograd.grad(expected, (q, k, v), cotangent), strict=True)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for mine, right in pairs:
        torch.testing.assert_close(mine, right, rtol=1e-12, atol=1e-12)
    return attend


def listed(allowed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Counts and numbers of the blocks that are allowed, with rubbish beyond the count."""
    order = allowed.to(torch.int32).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    counts = allowed.sum(-1).to(torch.int32)
    beyond = torch.arange(allowed.shape[-1]) >= counts[..., None]
    return counts, torch.where(beyond, -7, order)


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_top_blocks_of_each_head(shape: tuple[int, int]) -> None:
    """Dynamic sparsity, with a block of queries that attends to nothing."""
    allowed = torch.rand(*shape, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.4
    allowed[..., 1, :] = False
    counts, numbers = listed(allowed)
    dense = allowed.repeat_interleave(16, -2).repeat_interleave(24, -1)[..., :40, :90].expand(2, 2, 40, 90)
    attend = assert_matches(attngen.block_table(counts, numbers, block_size=(16, 24)), dense)
    forward = attend.mask_tiles(q_len=40, kv_len=90, batch=2, heads=2, head_dim=16)[0]
    assert forward.empty > 0


@pytest.mark.kernels
def test_flex_attention_block_mask() -> None:
    def window(b: object, h: object, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q >= k) & (q - k < 37)

    mask = create_block_mask(window, B=None, H=None, Q_LEN=70, KV_LEN=90, device="cpu", BLOCK_SIZE=16)
    q, k = torch.arange(70)[:, None], torch.arange(90)[None, :]
    dense = window(0, 0, q, k).expand(1, 2, 70, 90)
    attend = assert_matches(mask, dense)
    with pytest.raises(ShapeMismatch, match="is for 70 queries and 90 keys, and the call has 71 queries and 90 keys"):
        attend(*(torch.zeros(1, 2, n, 16) for n in (71, 90, 90)))
    with pytest.raises(ShapeMismatch, match="is for 70 queries and 90 keys"):
        attend.mask_tiles(q_len=70, kv_len=91)


@pytest.mark.kernels
@pytest.mark.parametrize("lengths", [(70, 50), (33, 90), (16, 17)])
def test_a_longer_block_mask_is_cut(lengths: tuple[int, int]) -> None:
    """Its upper left corner counts, as after FlexAttention's `_adjust`."""

    def window(b: object, h: object, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q >= k) & (q - k < 37)

    mask = create_block_mask(window, B=None, H=None, Q_LEN=70, KV_LEN=90, device="cpu", BLOCK_SIZE=16)
    rows, keys = lengths
    adjusted = mask._adjust(rows, keys)
    dense = window(0, 0, torch.arange(rows)[:, None], torch.arange(keys)).expand(1, 2, rows, keys)
    attend, exact = assert_matches(mask, dense), assert_matches(adjusted, dense)
    sizes = {"q_len": rows, "kv_len": keys, "head_dim": 16}
    assert attend.mask_tiles(**sizes) == exact.mask_tiles(**sizes)


@pytest.mark.kernels
def test_a_table_of_other_batches_or_heads_is_refused() -> None:
    allowed = torch.ones(2, 3, 2, 2, dtype=torch.bool)
    counts, numbers = listed(allowed)
    attend = attngen.compile(attngen.attention(mask_mod=attngen.block_table(counts, numbers, block_size=16)), arch="sm90")
    attend(*(torch.zeros(2, 3, 32, 16) for _ in range(3)))
    for batch, heads, what in ((1, 3, "has 2 batches, and the call has 1"), (2, 6, "has 3 query heads, and the call has 6")):
        with pytest.raises(ShapeMismatch, match=what):
            attend(*(torch.zeros(batch, heads, 32, 16) for _ in range(3)))
        with pytest.raises(ShapeMismatch, match=what):
            attend.mask_tiles(q_len=32, kv_len=32, batch=batch, heads=heads)


@pytest.mark.kernels
def test_a_table_must_reach_far_enough() -> None:
    counts, numbers = listed(torch.ones(1, 1, 2, 2, dtype=torch.bool))
    attend = attngen.compile(attngen.attention(mask_mod=attngen.block_table(counts, numbers, block_size=16)), arch="sm90")
    attend(*(torch.zeros(1, 1, n, 16) for n in (30, 32, 32)))
    with pytest.raises(ShapeMismatch, match="covers 32 queries and 32 keys"):
        attend(*(torch.zeros(1, 1, n, 16) for n in (33, 32, 32)))


def test_tables_that_do_not_fit_together() -> None:
    counts, numbers = listed(torch.ones(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ShapeMismatch, match="inconsistent shapes"):
        attngen.block_table(counts[0], numbers)
    with pytest.raises(ArgumentError, match="not one of the 2 KV blocks"):
        attngen.block_table(counts, numbers + 5)
    with pytest.raises(ArgumentError, match="block_size"):
        attngen.block_table(counts, numbers, block_size=0)
    with pytest.raises(ShapeMismatch, match="full and partial blocks"):
        attngen.block_table(counts, numbers, full_kv_num_blocks=counts[:, :, :1], full_kv_indices=numbers[:, :, :1])
