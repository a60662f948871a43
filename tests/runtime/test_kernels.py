"""Which tiles a real compile is asked about before they run: those that no measurement stands behind, and a user's that may not fit."""

from __future__ import annotations

import pytest
import torch

import attngen
from attngen.errors import CompileFailed
from attngen.frontend.spec import Spec
from attngen.knobs import Knobs
from attngen.plan.options import Options, freeze
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import parse_tile
from attngen.targets import table as target

DIMS = (("d", 64), ("e", 64))
REQUEST = Request(DIMS, "bfloat16", target.get("sm90"))


def kernels(spec: Spec, arch: str = "sm90", **schedule: object) -> Kernels:
    options = Options(arch, freeze(schedule) if schedule else None)
    return KernelTable(spec.cascade, "asked", options, Knobs.from_env()).kernels(ProgramKey("bfloat16"))


def unseen() -> Spec:
    """A variant whose arithmetic no table has."""
    return attngen.attention(score_mod=lambda s, b, h, q, k: torch.erf(torch.erf(s)))


def test_kernels_that_a_schedule_says_nothing_of_are_settled_all_the_same() -> None:
    every = kernels(unseen()).choice(REQUEST).unsettled
    mine = kernels(unseen(), forward={"BLOCK_N": 32}).choice(REQUEST)
    assert set(every) - set(mine.unsettled) == {"forward"}
    assert mine.asked == ("forward",)
    assert mine.reasons[0].fallback is None, "what a user asks for has no successor"


def test_a_tile_of_the_users_that_does_not_fit_is_refused_with_what_it_needs() -> None:
    asked = kernels(attngen.attention(), "sm86", forward={"BLOCK_M": 128, "BLOCK_N": 128, "num_stages": 6})
    assert asked.choice(Request(DIMS, "bfloat16", target.get("sm86"))).doubtful == ("forward",)
    with pytest.raises(CompileFailed, match=r"needs \d+ B of shared memory \(a program may have 101376\) on sm86") as caught:
        asked.settled(Request(DIMS, "bfloat16", target.get("sm86")))
    assert caught.value.remedy is not None
    assert 'schedule={"forward"' in caught.value.remedy


def test_a_tile_of_the_users_that_fits_is_taken_as_it_is() -> None:
    asked = kernels(attngen.attention(), forward={"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "PIPE": False, "TMA": False})
    choice = asked.choice(REQUEST)
    assert choice.unsettled == ()
    assert asked.settled(REQUEST)["forward"] == parse_tile("64x32,w4,s2")
