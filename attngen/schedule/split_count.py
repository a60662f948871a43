"""Into how many parts a stream is divided, so that few programs fill a device.

A call with few queries has a program for each head of keys, and some of 132 multiprocessors would wait. Its programs are multiplied until
there are about two for each, which then load beside each other, as long as a part keeps a few tiles of keys: what it stores and another
kernel merges is then little beside what it reads.
"""

from __future__ import annotations

WAVES = 2
"""Programs for each multiprocessor, at most."""
PART_KEYS = 256
"""Keys of a part, at least: two tiles of 128. A sixteenth of what they take is what a part stores for 16 rows."""


def part_count(programs: int, keys: int, sms: int) -> int:
    """Parts of a stream; 1 where dividing it gains nothing.

    Args:
        programs: of the undivided grid.
        keys: positions along the stream.
        sms: multiprocessors of the device.
    """
    return max(1, min(WAVES * sms // max(programs, 1), keys // PART_KEYS))
