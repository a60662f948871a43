from __future__ import annotations

from dataclasses import replace

import pytest

from attngen.errors import CompileFailed, DoesNotFit
from attngen.facts.kernel_facts import kernel_facts
from attngen.schedule.ranking import SINGLE_STAGE_PENALTY, Candidate, Request, distinct, rank, skip_refused
from attngen.schedule.tile_schedule import TileSchedule, parse_tile
from attngen.targets import table as target
from tests.kernel.computed import program
from tests.variants import DIFFERENTIAL, SOFTMAX

FORWARD = kernel_facts(program(SOFTMAX).parts[0]).work


def request(d: int = 64, dtype: str = "bfloat16", arch: str = "sm90") -> Request:
    return Request((("d", d), ("e", d)), dtype, target.get(arch))


RANKED = rank(FORWARD, request())


def compiles(*failing: str):
    """A compiler that fails on some tiles, and the tiles it was asked about."""
    asked: list[str] = []

    def refused(role: str, tile: TileSchedule) -> str:
        asked.append(str(tile))
        return "it says no" if str(tile) in failing else ""

    return refused, asked


@pytest.mark.parametrize("arch", ["sm80", "sm90", "gfx942"])
@pytest.mark.parametrize("d", [32, 128, 256])
def test_what_fits_comes_first_by_price(arch: str, d: int) -> None:
    gpu = target.get(arch)
    found = rank(FORWARD, request(d, arch=arch))
    fits = [item.cost.shared_bytes <= gpu.shared_bytes for item in found]
    assert fits == sorted(fits, reverse=True) and fits[0]
    expected = [
        item.cost.total_us * (SINGLE_STAGE_PENALTY if item.tile.num_stages == 1 else 1)
        for item, fit in zip(found, fits, strict=True)
        if fit
    ]
    assert expected == sorted(expected)
    assert found[0].lost == "" and all(item.lost for item in found[1:])
    assert len({item.tile for item in found}) == len(found)


def test_why_each_lost() -> None:
    best, second, *_ = RANKED
    ratio = second.cost.total_us / best.cost.total_us
    assert second.lost.startswith(f"{ratio:.2f} times the predicted time")
    misfits = [item for item in rank(FORWARD, request(256, "float32")) if "shared memory" in item.lost]
    assert misfits and all(item.lost == f"needs {item.cost.shared_bytes} B of shared memory, sm90 has {232448}" for item in misfits)


def test_a_tile_goes_without_a_second_stage_only_where_there_is_no_room() -> None:
    roomy = {replace(item.tile, num_stages=1) for item in RANKED if item.tile.num_stages > 1}
    assert not [item for item in RANKED if item.tile.num_stages == 1 and item.tile in roomy and "shared memory" not in item.lost]


def test_nothing_fits() -> None:
    with pytest.raises(DoesNotFit, match=r"forward does not fit sm86 at d = 4096, e = 4096 in float32(.|\n)*a 2-byte dtype"):
        rank(FORWARD, request(4096, "float32", "sm86"))


def test_kernels_in_float64_know_no_limits() -> None:
    assert not [item for item in rank(FORWARD, request(512, "float64")) if "shared memory" in item.lost]


def test_stages_alone_make_no_other_tile() -> None:
    found = distinct(RANKED)
    assert len({replace(item.tile, num_stages=1) for item in RANKED}) == len(found)
    assert found[0] is RANKED[0]


def test_a_known_tile_that_compiles_ends_the_search() -> None:
    refused, asked = compiles()
    tile = parse_tile("128x64,w8,s2")
    assert skip_refused(RANKED, (None, tile), FORWARD, request(), refused) == (RANKED, ())
    assert asked == [str(tile)]


def test_the_next_that_compiles_is_taken() -> None:
    first = str(RANKED[0].tile)
    refused, asked = compiles(first)
    found, failed = skip_refused(RANKED, (), FORWARD, request(), refused)
    assert asked[0] == first and str(found[0].tile) == asked[-1] != first
    assert [(str(item.tile), item.lost) for item in failed] == [(first, "does not compile: it says no")]
    assert found[0].lost == "" and first not in [str(item.tile) for item in found]


def test_a_form_that_failed_twice_is_passed_over() -> None:
    flags = [flag for flag in ("pipe", "late", "tma") if getattr(RANKED[0].tile, flag)]
    assert flags, "the best tile for sm90 has a form"

    def refused(role: str, tile: TileSchedule) -> str:
        return "this form" if getattr(tile, flags[0]) else ""

    found, failed = skip_refused(RANKED, (), FORWARD, request(), refused)
    assert len(failed) == 2 and not getattr(found[0].tile, flags[0])


def test_too_many_failures_are_an_error() -> None:
    with pytest.raises(CompileFailed, match="no tile of forward compiles for sm90; of 6"):
        skip_refused(RANKED, (), FORWARD, request(), lambda role, tile: "never")


def test_text_of_a_candidate() -> None:
    taken, lost = RANKED[0], RANKED[1]
    assert str(taken).startswith(f"{taken.tile}: taken; ")
    assert str(lost).startswith(f"{lost.tile}: {lost.lost}; ")
    assert isinstance(taken, Candidate) and rank(kernel_facts(program(DIFFERENTIAL).parts[0]).work, request())[0].lost == ""
