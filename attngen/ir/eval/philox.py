"""Counter-based random bits: Philox 4x32-10 in 64-bit integers without overflow, for NumPy and PyTorch arrays.

A 128-bit counter passes ten rounds under a 64-bit key. There is no state: seed and position determine the bits.
"""

from __future__ import annotations

from typing import Any

Array = Any
"""Integers of 64 bits, or anything that computes like them."""

BITS = 31
"""Random bits per position: those of a nonnegative int32."""

_ROUNDS = 10
_WORD = 0xFFFFFFFF
_FACTORS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def random_bits(seed: Array, stream: Array, row: Array, column: Array) -> Array:
    """Uniform integers in [0, 2**31) for every row and column of a stream; the arguments broadcast.

    Each 2 x 2 block of positions shares a counter, of which each takes one of the four words. No two positions share bits for rows and
    columns below 2**33 and streams below 2**64.

    Args:
        seed: the key, of which the lower 64 bits are used.
        stream: number of the matrix of positions.
        row, column: not negative.
    """
    counter = (column >> 1 & _WORD, row >> 1 & _WORD, stream & _WORD, stream >> 32 & _WORD)
    words = _philox(counter, (seed & _WORD, seed >> 32 & _WORD))
    lower, right = row & 1, column & 1
    upper_row = (1 - right) * words[0] + right * words[1]
    lower_row = (1 - right) * words[2] + right * words[3]
    return (1 - lower) * upper_row + lower * lower_row >> 32 - BITS


def _philox(counter: tuple[Array, ...], key: tuple[Array, Array]) -> tuple[Array, ...]:
    """Four 32-bit words from a counter and a key: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _product(_FACTORS[0], c0), _product(_FACTORS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _WEYL[0] & _WORD, k1 + _WEYL[1] & _WORD
    return c0, c1, c2, c3


def _product(factor: int, word: Array) -> tuple[Array, Array]:
    """The upper and lower 32 bits of a product of 32-bit words, computed by halves since int64 is signed."""
    upper, lower = factor * (word >> 16), factor * (word & 0xFFFF)
    return upper + (lower >> 16) >> 16, (upper << 16 & _WORD) + lower & _WORD
