"""Block-sparse masks: dynamic sparsity, and FlexAttention's `BlockMask`.

Takes lists of the KV blocks that each query block attends to; gives a mask mod that looks up a table with one class for each block. The
table is an ordinary predicate, so that any tile size and both the forward and the backward follow from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngen.errors import ArgumentError, ShapeMismatch

PARTIAL, FULL = 1, 2


@dataclass(frozen=True, eq=False)
class BlockTable:
    """A mask mod that looks up block classes.

    Attributes:
        classes: int32 [B or 1, Hq or 1, query blocks, key blocks]: 0 EMPTY, 1 PARTIAL (`mask_mod` decides), 2 FULL.
        q_block, kv_block: queries and keys of a block.
        mask_mod: the predicate of PARTIAL blocks; None lets every pair attend.
        lengths: maximal numbers of queries and keys of a call, which uses the first blocks of the table, as with FlexAttention's
            `BlockMask`. None: the blocks only have to cover the call.
    """

    classes: Tensor
    q_block: int
    kv_block: int
    mask_mod: Any = None
    lengths: tuple[int, int] | None = None

    def __call__(self, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        batch = b if self.classes.shape[0] > 1 else 0
        head = h if self.classes.shape[1] > 1 else 0
        kind = self.classes[batch, head, q_idx // self.q_block, kv_idx // self.kv_block]
        if self.mask_mod is None:
            return kind > 0
        return (kind == FULL) | ((kind == PARTIAL) & self.mask_mod(b, h, q_idx, kv_idx))

    def check(self, q_len: int, kv_len: int, batch: int, heads: int) -> None:
        """Check the lengths, batch and query heads of a call.

        Raises:
            ShapeMismatch: the table does not cover them.
        """
        q_reach, kv_reach = self.lengths or (self.classes.shape[2] * self.q_block, self.classes.shape[3] * self.kv_block)
        if q_len > q_reach or kv_len > kv_reach:
            made = f"is for {q_reach} queries and {kv_reach} keys" if self.lengths else f"covers {q_reach} queries and {kv_reach} keys"
            raise ShapeMismatch(
                f"the block table {made}, and the call has {q_len} queries and {kv_len} keys", remedy="Make one for these lengths."
            )
        for own, given, what in zip(self.classes.shape, (batch, heads), ("batches", "query heads"), strict=False):
            if own not in (1, given):
                raise ShapeMismatch(
                    f"the block table has {own} {what}, and the call has {given}", remedy=f"Make one for {given} {what}, or one for all."
                )


def block_table(
    kv_num_blocks: Tensor,
    kv_indices: Tensor,
    *,
    full_kv_num_blocks: Tensor | None = None,
    full_kv_indices: Tensor | None = None,
    block_size: int | tuple[int, int] = 128,
    mask_mod: Any = None,
    lengths: tuple[int, int] | None = None,
) -> BlockTable:
    """A mask from lists of blocks, in the layout of FlexAttention's `BlockMask`.

    Args:
        kv_num_blocks: integers [B or 1, Hq or 1, query blocks]: how many blocks of keys each block of queries attends to.
        kv_indices: integers [B or 1, Hq or 1, query blocks, at most key blocks]: their numbers; entries beyond the count are ignored.
        full_kv_num_blocks, full_kv_indices: the same for blocks in which every pair attends, whatever `mask_mod` says.
        block_size: queries and keys of a block.
        mask_mod: `(b, h, q_idx, kv_idx) -> bool`, evaluated within the blocks of `kv_indices`.
        lengths: the maximal (Nq, Nkv) of a call; without it the blocks only have to cover the call.

    Returns:
        A mask mod for `attngen.attention(mask_mod=...)`.

    Raises:
        ShapeMismatch: inconsistent shapes. ArgumentError: counts or indices out of range, or an illegal block size.
    """
    q_block, kv_block = (block_size, block_size) if isinstance(block_size, int) else block_size
    if q_block < 1 or kv_block < 1:
        raise ArgumentError(f"block_size={block_size!r}", remedy="Give the queries and keys of a block, both at least 1.")
    columns = kv_indices.shape[-1] if lengths is None else -(-lengths[1] // kv_block)
    classes = _spread(kv_num_blocks, kv_indices, columns, PARTIAL)
    if full_kv_num_blocks is not None and full_kv_indices is not None:
        full = _spread(full_kv_num_blocks, full_kv_indices, columns, FULL)
        if full.shape != classes.shape:
            raise ShapeMismatch(f"the tables of full and partial blocks have shapes {list(full.shape)} and {list(classes.shape)}")
        classes = torch.maximum(classes, full)
    return BlockTable(classes, q_block, kv_block, mask_mod, lengths)


def _spread(counts: Tensor, indices: Tensor, columns: int, kind: int) -> Tensor:
    """[B, H, query blocks, columns] with `kind` at the listed blocks."""
    if counts.dim() != 3 or indices.dim() != 4 or counts.shape != indices.shape[:3]:
        raise ShapeMismatch(
            f"block counts {list(counts.shape)} and indices {list(indices.shape)} have inconsistent shapes",
            remedy="Give [B, H, query blocks] and [B, H, query blocks, key blocks].",
        )
    listed = torch.arange(indices.shape[-1], device=indices.device) < counts[..., None]
    wrong = listed & ((indices < 0) | (indices >= columns))
    if bool(wrong.any()) or bool((counts < 0).any()) or bool((counts > indices.shape[-1]).any()):
        raise ArgumentError(f"a listed block is not one of the {columns} KV blocks", remedy="Check the counts and indices of blocks.")
    table = torch.zeros((*counts.shape, columns + 1), dtype=torch.int32, device=indices.device)
    # Entries beyond the count go to an extra column, which is dropped.
    table.scatter_(-1, torch.where(listed, indices, columns).long(), kind)
    return table[..., :columns].contiguous()


def as_mask_mod(mask: Any) -> Any:
    """FlexAttention's `BlockMask` as a block table; anything else unchanged."""
    if not all(hasattr(mask, name) for name in ("kv_num_blocks", "kv_indices", "BLOCK_SIZE", "mask_mod")):
        return mask
    return block_table(
        mask.kv_num_blocks,
        mask.kv_indices,
        full_kv_num_blocks=mask.full_kv_num_blocks,
        full_kv_indices=mask.full_kv_indices,
        block_size=tuple(mask.BLOCK_SIZE),
        mask_mod=mask.mask_mod,
        lengths=tuple(mask.seq_lengths),
    )
