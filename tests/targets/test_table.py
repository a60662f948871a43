from __future__ import annotations

import pytest

from attngen.errors import UnknownArch
from attngen.targets import table as target

# Vendors' dense bf16 peaks in TFLOP/s.
PUBLISHED = {"sm80": 312, "sm86": 150, "sm89": 362, "sm90": 989, "sm100": 2250, "sm120": 209.5, "gfx942": 1307, "gfx950": 2517}


def test_names_are_the_documented_ones():
    assert [t.name for t in target.TARGETS] == list(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_multiply_to_the_published_peak(name):
    assert target.get(name).bf16_tflops == pytest.approx(PUBLISHED[name], rel=0.01)


@pytest.mark.parametrize("t", target.TARGETS, ids=lambda t: t.name)
def test_limits_are_consistent(t):
    assert t.shared_bytes <= t.shared_bytes_per_sm
    assert t.threads_per_sm % t.warp_size == 0
    assert (t.capability == t.name) == (t.backend == "hip")


def test_shared_memory_limits_in_bytes():
    limits = {t.name: t.shared_bytes for t in target.TARGETS}
    assert limits == {
        "sm80": 166912, "sm86": 101376, "sm89": 101376, "sm90": 232448,
        "sm100": 232448, "sm120": 101376, "gfx942": 65536, "gfx950": 163840,
    }  # fmt: skip


def test_capabilities_name_their_target():
    assert [target.from_capability(*pair).name for pair in [(8, 0), (9, 0), (10, 0), (12, 0)]] == ["sm80", "sm90", "sm100", "sm120"]


@pytest.mark.parametrize("lookup", [lambda: target.get("sm75"), lambda: target.get("SM90"), lambda: target.from_capability(7, 0)])
def test_unknown_names_list_the_legal_ones(lookup):
    with pytest.raises(UnknownArch, match=r"sm90 \(H200 SXM\)"):
        lookup()
