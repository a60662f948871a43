"""What a traced function may not do: every error has its own class, the user's line and a remedy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attngen.errors import (
    AttngenError,
    DataDependentBranch,
    RandomInMod,
    ReductionInMod,
    TracedConversion,
    TracedIteration,
    TracedMutation,
    TraceError,
    UnsupportedOperation,
)
from attngen.frontend.attention import attention

TABLE = torch.zeros(4, 40)


def branches(s, b, h, q, k):
    if q > k:
        return s
    return s * 2


def loops(s, b, h, q, k):
    while q > k:
        s = s * 2
    return s


def chains(s, b, h, q, k):
    return torch.where(0 < q < k, s, 0.0)


def writes_table(s, b, h, q, k):
    TABLE[h, q] = 1.0
    return s


def writes_score(s, b, h, q, k):
    s[0] = 1.0
    return s


def augments_table(s, b, h, q, k):
    global TABLE
    TABLE += 1.0
    return s


def unpacks(s, b, h, q, k):
    low, high = q
    return s + low + high


def changes_type(s, b, h, q, k):
    q += 0.5
    return s + q


CASES = {
    DataDependentBranch: [
        branches,
        loops,
        chains,
        lambda s, b, h, q, k: s if q >= k else s * 2,
        lambda s, b, h, q, k: (q > k) and s,
        lambda s, b, h, q, k: s * (not q),
        lambda s, b, h, q, k: s * max(q, k),
        lambda s, b, h, q, k: s * sorted([q, k])[0],
        lambda s, b, h, q, k: s * (q in (1, 2)),
    ],
    TracedConversion: [
        lambda s, b, h, q, k: s * float(q),
        lambda s, b, h, q, k: s * int(q),
        lambda s, b, h, q, k: s * math.sqrt(q),
        lambda s, b, h, q, k: s * math.floor(q / 2),
        lambda s, b, h, q, k: s * [1, 2][h],
        lambda s, b, h, q, k: s * sum(range(h)),
        lambda s, b, h, q, k: s * np.exp(q),
        lambda s, b, h, q, k: s * np.asarray(q),
        lambda s, b, h, q, k: s * np.arange(3)[h],
        lambda s, b, h, q, k: s * q.item(),
        lambda s, b, h, q, k: s * {0: 1.0}[h],
        lambda s, b, h, q, k: s * round(q),
        lambda s, b, h, q, k: s + TABLE[h, :q][0],
        lambda s, b, h, q, k: torch.tensor([s, s])[0],
    ],
    TracedIteration: [
        unpacks,
        lambda s, b, h, q, k: s * sum(q),
        lambda s, b, h, q, k: s * len(q),
        lambda s, b, h, q, k: s * (1 in q),
        lambda s, b, h, q, k: s + sum(TABLE[h]),
    ],
    TracedMutation: [
        writes_table,
        writes_score,
        augments_table,
        changes_type,
        lambda s, b, h, q, k: s.add_(1.0),
        lambda s, b, h, q, k: F.relu(s, inplace=True),
        lambda s, b, h, q, k: torch.relu_(s),
        lambda s, b, h, q, k: s + TABLE.zero_()[h, q],
        lambda s, b, h, q, k: TABLE.copy_(s),
    ],
    RandomInMod: [
        lambda s, b, h, q, k: s + torch.rand(()),
        lambda s, b, h, q, k: s + torch.randn(4)[h],
        lambda s, b, h, q, k: F.dropout(s, 0.1),
        lambda s, b, h, q, k: torch.bernoulli(s),
        lambda s, b, h, q, k: s + torch.rand_like(s),
        lambda s, b, h, q, k: s + torch.empty(4)[h],
    ],
    ReductionInMod: [
        lambda s, b, h, q, k: s - s.amax(-1),
        lambda s, b, h, q, k: s - s.max(),
        lambda s, b, h, q, k: s - s.max(-1).values,
        lambda s, b, h, q, k: torch.softmax(s, -1),
        lambda s, b, h, q, k: s / s.sum(),
        lambda s, b, h, q, k: torch.mean(s),
        lambda s, b, h, q, k: torch.logsumexp(s, 0),
        lambda s, b, h, q, k: s * (q > k).any(),
        lambda s, b, h, q, k: s + (TABLE[h] > q).any(-1),
        lambda s, b, h, q, k: s + TABLE[h].mean(),
    ],
    UnsupportedOperation: [
        lambda s, b, h, q, k: torch.matmul(s, s),
        lambda s, b, h, q, k: torch.erfinv(s),
        lambda s, b, h, q, k: torch.stack([s, s]),
        lambda s, b, h, q, k: s + "1",
        lambda s, b, h, q, k: s + None,
        lambda s, b, h, q, k: s[0],
        lambda s, b, h, q, k: s & 1,
        lambda s, b, h, q, k: s.no_such_method(),
        lambda s, b, h, q, k: s.view(2, 2),
        lambda s, b, h, q, k: s.gelu(no_such_option=1),
    ],
    TraceError: [
        lambda s, b, h, q, k: s + undefined_name,  # noqa: F821
        lambda s, b, h, q, k: s + [1, 2][7],
        lambda s, b, h, q, k: torch.where(q > k),
        lambda s, b, h, q, k: F.gelu(s, no_such_option=1),
    ],
}


@pytest.mark.parametrize(("error", "mod"), [(error, mod) for error, mods in CASES.items() for mod in mods])
def test_refused(error: type[AttngenError], mod) -> None:
    with pytest.raises(error) as raised:
        attention(mod)
    loc = raised.value.loc
    assert loc is not None and loc.filename == __file__
    assert loc.function == mod.__name__
    assert raised.value.rule


def test_the_error_shows_the_line_with_a_caret_and_the_remedy() -> None:
    with pytest.raises(DataDependentBranch) as raised:
        attention(branches)
    text = str(raised.value)
    assert "    if q > k:\n" in text
    assert text.splitlines()[-2].endswith("^^^^^")
    assert "torch.where" in text.splitlines()[-1]


def test_the_line_is_that_of_the_helper_that_fails() -> None:
    def helper(index):
        return math.sqrt(index)

    with pytest.raises(TracedConversion) as raised:
        attention(lambda s, b, h, q, k: s + helper(q))
    assert raised.value.loc is not None and raised.value.loc.function == "helper"


def test_nothing_is_left_behind_by_a_failure() -> None:
    with pytest.raises(TraceError):
        attention(branches)
    assert torch.where(torch.ones(2) > 0, 1.0, 2.0).tolist() == [1.0, 1.0]
    assert TABLE.sum() == 0


def test_a_value_that_escapes_cannot_be_used() -> None:
    kept = []

    def mod(s, b, h, q, k):
        kept.append(s)
        return s

    attention(mod)
    with pytest.raises(TraceError):
        torch.exp(kept[0])


def test_metadata_of_traced_values() -> None:
    def mod(s, b, h, q, k):
        assert s.dtype.is_floating_point and q.dtype == torch.int32 and (q > k).dtype == torch.bool
        assert s.shape == () and s.dim() == s.ndim == 0 and torch.is_floating_point(s)
        low = torch.finfo(s.dtype).min
        return torch.where(q >= k, s, low).to(s.device)

    assert "where(m >= n" in str(attention(mod).cascade)


def test_a_context_of_the_users_own_stays_in_force() -> None:
    with torch.no_grad(), torch.device("cpu"):
        assert attention(lambda s, b, h, q, k: s * 2.0).cascade == attention(lambda s, b, h, q, k: s * 2.0).cascade
