"""Names and text that may enter emitted code.

Everything rendered is a `Code` string, made by this package; the template environment refuses any other string. Names from outside
pass `identifier`, numbers pass `number`, comments pass `comment`.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import textwrap

from attngen.alternates.known_alternates import ALTERNATES
from attngen.errors import UnsafeValue

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
RESERVED: frozenset[str] = frozenset(
    """
    tl torch triton pid outer rest segment begins ends begin end full_begin full_end full_length gap full_gap limits any_holds all_hold
    some_fail pair_holds pair_full pair_inside ACC DTYPE LOG2E l I O
    add load fetch fetch_head fetch_vector tiled tiled_heads tiled_vector described near memory_of_descriptors TMA PIPE
    LATE EARLY LONG SILENT below integer rounded columns finite parts
    full_turns all_turns first_turn last_turn
    turn FORMS kernel plain
    safe_div tanh sigmoid softplus logaddexp gelu gelu_tanh floor_div floor_mod sign exp_above exp_scaled exp_lowered random_bits
    forward backward attention alpha delta valid item range float int min max abs sum len
    launch args constants programs pieces tile tiles accumulator needed gradients index scattered steps rows runs lists wide position
    chunk chunk_begin chunk_end chunk_rows chunk_tiles row_elements shape dtype add_by_key by_rows rows_at_once CHUNK_BYTES
    TYPES TILES MODULES module find_module Attention kernels ctx name names found find_tiles check_tensors check_shape check_length dense
    """.split()  # noqa: SIM905  as a list it would fill a screen
).union(*(alternate.reserved for alternate in ALTERNATES.values()))
_PREFIXES = (
    *("offs_", "len_", "ok_", "range_", "start_", "turn_", "next_", "ahead_", "masked_", "list_", "count_", "tile_", "tiles_"),
    *("keys_", "pad_", "dim_", "DIM_", "BLOCK_", "PAD_", "SUM_", "ROWS_"),
)
# Registers of expressions, and bounds of the second and third piece of a mask.
_NUMBERED = re.compile(r"t\d+|(begin|end|full_begin|full_end|full_length|gap|full_gap)_\d+")


class Code(str):
    """Text made by the emitter from checked parts."""

    __slots__ = ()


def identifier(name: str) -> Code:
    """A checked Python name.

    Raises:
        UnsafeValue: not a plain ASCII name, a keyword, or a dunder.
    """
    if not (name.isascii() and _IDENTIFIER.fullmatch(name)) or keyword.iskeyword(name) or name.startswith("__"):
        raise UnsafeValue(f"{name!r} cannot be a name in emitted code", remedy="Use ASCII letters, digits and underscores, at most 64.")
    return Code(name)


def tensor_name(name: str) -> Code:
    """The name of a tensor or step, moved out of the way of names that kernels use themselves."""
    checked = identifier(name)
    taken = checked in RESERVED or checked.startswith(_PREFIXES) or _NUMBERED.fullmatch(checked)
    return Code(f"{checked}_") if taken else checked


def number(value: bool | int | float) -> Code:
    """A literal, rebuilt from the plain Python type so that no subclass can print itself."""
    if isinstance(value, bool):
        return Code(repr(bool(value)))
    if isinstance(value, int):
        return Code(repr(int(value)))
    plain = float(value)
    if math.isnan(plain):
        raise UnsafeValue("NaN cannot be a constant of a kernel")
    return Code(f'float("{plain!r}")') if math.isinf(plain) else Code(repr(plain))


def comment(text: str) -> Code:
    """Text inside a comment or docstring: printable, one line, no quotes that could end a docstring."""
    plain = json.dumps(text, ensure_ascii=True)[1:-1].replace('\\"', "'")
    return Code(plain)


def folded(text: str, width: int) -> tuple[Code, ...]:
    """A comment on as many lines as it needs, all but the first indented."""
    indent = " " * (len(text) - len(text.lstrip()) + 4)
    lines = textwrap.wrap(comment(text), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return tuple(Code(line) for line in lines)
