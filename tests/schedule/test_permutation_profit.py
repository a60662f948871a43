from __future__ import annotations

import pytest

from attngen.schedule.permutation_profit import pays
from attngen.targets import table as target

SM90 = target.get("sm90")


def test_nothing_saved_pays_for_no_copy() -> None:
    assert not pays((10_000, 10_000), 1, SM90)
    assert not pays((10_000, 20_000), 0, SM90)


@pytest.mark.parametrize("arch", [item.name for item in target.TARGETS])
def test_what_is_saved_has_to_be_more_than_the_copies(arch: str) -> None:
    """16 bytes a token and 4 operations a pair: so many pairs for each token, by the rates of the target."""
    gpu = target.get(arch)
    pairs = 16 / (gpu.hbm_gb_per_s * 1e9) * (gpu.bf16_tflops * 1e12) / 4
    for tokens in (1024, 65536):
        assert pays((int(pairs * tokens) + tokens, 0), tokens, gpu)
        assert not pays((int(pairs * tokens) - tokens, 0), tokens, gpu)


def test_longer_sequences_of_the_same_share_pay_sooner() -> None:
    """Pairs grow with the square of the length, copies with the length."""
    assert [pays((tokens * tokens, tokens * tokens // 2), tokens, SM90) for tokens in (64, 4096, 65536)] == [False, True, True]
