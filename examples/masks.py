"""Masks are understood, not tabulated: closed-form key ranges for a tile of queries, with run-time numbers in them."""

from __future__ import annotations

import torch

import attngen
from attngen.analysis.kv_ranges import describe, kv_ranges


def sliding_window(size):
    def mask(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    return mask


def prefix_lm(length):
    def mask(b, h, q_idx, kv_idx):
        return (kv_idx < length) | (q_idx >= kv_idx)

    return mask


def first_tokens_and_window(count, size):
    def mask(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & ((kv_idx < count) | (q_idx - kv_idx < size))

    return mask


def dilated(step, size):
    def mask(b, h, q_idx, kv_idx):
        distance = (q_idx - kv_idx).abs()
        return (distance % step == 0) & (distance < size)

    return mask


def main() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 1, 90, 16) for _ in range(3))
    masks = {
        "window of 20": sliding_window(20),
        "window of 33": sliding_window(33),
        "prefix of 10": prefix_lm(10),
        "first 4 and window of 20": first_tokens_and_window(4, 20),
    }
    for name, mask in masks.items():
        attend = attngen.compile(attngen.attention(mask_mod=mask), arch="sm90")
        forward = attend.program.kernels[0]
        print(f"{name}: {describe(kv_ranges(forward.may_mask, 'n', 'm'))}")
        print("  largest error:", f"{(attend(q, k, v) - attend.reference(q, k, v)).abs().max():.1e}")
    attend = attngen.compile(attngen.attention(mask_mod=dilated(4, 256)), arch="sm90")
    print("dilated by 4:", attend.explained().order)
    for tiles in attend.mask_tiles(q_len=4096, kv_len=4096):
        print(f"  {tiles.role}: {tiles.full} full tiles, {tiles.partial} under masks, {tiles.empty} not visited")


if __name__ == "__main__":
    main()
