from __future__ import annotations

import pytest

from attngen.ir.parser import parse
from attngen.pipeline import analyse
from tests.variants import ALL, DIFFERENTIAL, SOFTMAX

CAUSAL = SOFTMAX.replace("* 0.25\n", "* 0.25  if m >= n\n")


def structures(text):
    return {item.role: item.work for item in analyse(parse(text)).facts}


def test_forward_of_softmax():
    held = structures(SOFTMAX)["forward"]
    assert (held.resident_tiles, held.streamed_tiles, held.reused_tiles) == (("d",), ("d", "e"), ())
    assert (held.dots, held.carried, held.sums) == (("d",), ("e",), 2)
    assert (held.vectors, held.pairs, held.sfu_ops, held.mask_ops) == (0, 0, 1, 0)


def test_backward_of_softmax():
    rows, columns = (structures(SOFTMAX)[f"backward_{side}"] for side in ("rows", "columns"))
    assert (rows.resident_tiles, rows.streamed_tiles, rows.reused_tiles, rows.carried, rows.vectors) == (
        ("d", "e"),
        ("d", "e"),
        ("d",),
        ("d",),
        0,
    )
    assert (columns.resident_tiles, columns.streamed_tiles, columns.reused_tiles, columns.carried) == (
        ("d", "e"),
        ("d", "e"),
        ("d", "e"),
        ("d", "e"),
    )
    assert columns.vectors == 2, "the logsumexp and its cotangent pass by with the rows"


def test_tiles_summed_over_batches_fetch_all_operands_anew():
    biased = SOFTMAX.replace("e])", "e]; table: float[:])", 1).replace("* 0.25", "* 0.25 + table[m - n + extent(n)]", 1)
    held = structures(biased)["backward_pairs"]
    assert (held.resident_tiles, held.reloaded_tiles, held.streamed_tiles, held.carried) == ((), ("d", "e"), ("d", "e"), ())
    assert (held.pairs, held.gathered, held.summed_tiles, held.stored_tiles) == (1, 1, 1, 2)
    assert held.key({"d": 64, "e": 64}) == "backward_pairs:>64.64.64.64;64.64+;0v0p1t1s2;full"


def test_what_is_the_same_for_a_whole_tile_is_no_operation_of_a_pair():
    def counted(scale):
        return structures(SOFTMAX.replace("e])", "e]; rate: float[:])", 1).replace("* 0.25", f"* {scale}", 1))["forward"].arithmetic

    assert counted("(rate[g] * rate[b] + 1.0)") == counted("rate[g]")


def test_a_kernel_without_a_stream_keeps_nothing_for_it():
    held = structures(SOFTMAX)["backward_prepare"]
    assert (held.resident_tiles, held.once, held.streamed_tiles) == ((), ("e", "e"), ())


def test_two_softmaxes():
    held = structures(DIFFERENTIAL)["forward"]
    assert (held.resident_tiles, held.streamed_tiles, held.carried) == (("d", "d"), ("d", "d", "e"), ("e", "e"))


def test_masks_are_counted_apart_from_the_arithmetic_of_full_tiles():
    plain, masked = structures(SOFTMAX)["forward"], structures(CAUSAL)["forward"]
    assert plain.alu_ops == masked.alu_ops
    assert masked.mask_ops > 0
    assert plain.arithmetic != masked.arithmetic


def test_keys_name_tiles_by_their_pieces():
    held = structures(SOFTMAX)["forward"]
    assert held.key({"d": 64, "e": 64}) == "forward:64>64.64;64+64;2;full"
    assert held.key({"d": 192, "e": 128}) == "forward:128-64>128-64.128;128-64+128;2;full"
    assert held.key({"d": 72, "e": 72}) == held.key({"d": 66, "e": 66}) == "forward:64-16p>64-16p.64-16p;64-16p+64-16p;2;full"
    assert held.key({"d": 80, "e": 80}) != held.key({"d": 72, "e": 72})


@pytest.mark.parametrize("name", ALL)
def test_every_variant_has_tiles_to_keep_and_tiles_that_pass(name):
    for role, held in structures(ALL[name]).items():
        assert bool(held.streamed_tiles) == (role != "backward_prepare")
        assert held.resident_tiles or held.once or held.reloaded_tiles
        assert set(held.reused_tiles) <= set(held.streamed_tiles)
