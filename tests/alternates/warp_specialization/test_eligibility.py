from __future__ import annotations

import pytest

from attngen.alternates.warp_specialization.eligibility import why_ineligible
from attngen.ir.parser import parse
from attngen.pipeline import analyse, for_dtype
from tests.kernels import cases
from tests.variants import SOFTMAX

SIZES = cases.Sizes(b=1, g=1, r=1, m=20, n=20)


def test_only_the_forward_divides_its_warps():
    reasons = {facts.role: why_ineligible(facts.kernel, facts.prefetched, facts.guards) for facts in analyse(parse(SOFTMAX)).facts}
    assert [role for role, why in reasons.items() if not why] == ["forward"]


@pytest.mark.parametrize(
    ("variant", "reason"), [("causal_alibi", "a bias is folded into its scores"), ("low_rank", "is not read as rows lie in memory")]
)
def test_reasons(variant: str, reason: str):
    program = for_dtype(analyse(cases.case(variant, SIZES, seed=1).cascade, wanted=frozenset()), "bfloat16")
    assert reason in program.facts[0].ineligible["specialised"]
