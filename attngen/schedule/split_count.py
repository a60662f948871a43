"""num_splits of split-KV: how many CTAs share the KV loop of a call with few queries.

Such a call has one CTA for each KV head, too few for 132 SMs. Splits are added up to about two CTAs an SM, as long as each keeps a few KV
tiles, so that the partial results it stores for the combine kernel are small beside the keys it reads.
"""

from __future__ import annotations

WAVES = 2
"""CTAs for each SM, at most."""
PART_KEYS = 256
"""Keys of a split, at least: two tiles of 128. The partial results of 16 rows are a sixteenth of their bytes."""


def part_count(programs: int, keys: int, sms: int) -> int:
    """num_splits; 1 where splitting gains nothing.

    Args:
        programs: CTAs of the grid without splits.
        keys: positions of the loop axis.
        sms: of the device.
    """
    return max(1, min(WAVES * sms // max(programs, 1), keys // PART_KEYS))
