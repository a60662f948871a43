"""Whether permuting the tokens before the kernels, and back afterwards, pays."""

from __future__ import annotations

from attngen.targets.table import Target

_FLOPS_PER_PAIR_AND_FEATURE = 4
# Queries, keys, values and results, read and written once each, two bytes a feature.
_BYTES_PER_TOKEN_AND_FEATURE = 4 * 2 * 2


def pays(pairs: tuple[int, int], tokens: int, target: Target) -> bool:
    """Whether the tiles saved take longer than the copies at the target's peak rates; both are proportional to the head dim.

    Args:
        pairs: queries times keys in visited tiles, in the given and in the permuted order.
        tokens: queries, which are the keys.
        target: where it runs.
    """
    saved_us = (pairs[0] - pairs[1]) * _FLOPS_PER_PAIR_AND_FEATURE / (target.bf16_tflops * 1e6)
    copies_us = tokens * _BYTES_PER_TOKEN_AND_FEATURE / (target.hbm_gb_per_s * 1e3)
    return saved_us > copies_us
