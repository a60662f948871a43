"""Facts are found once: schedule, emitter and report read them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from attngen.emit.segments import segments_of
from attngen.facts import kernel_facts as facts_module
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.pipeline import Program, analyse, compiled, lowered
from attngen.schedule.choose import Request
from attngen.targets import table as targets
from tests.kernels.cases import ALL


def program(name: str) -> Program:
    return analyse(parse(ALL[name]))


def test_a_causal_forward() -> None:
    facts = program("causal").facts_of("forward")
    assert facts.ranges is not None and not facts.listed
    assert facts.visits.endswith("unmasked in [0, min(first + 1, extent(n)))")
    masked = {name for name, guard in facts.guards.items() if guard is not None and print_expr(guard) == "m >= n"}
    assert {"acc", "l_i"} <= masked and facts.guards["s"] is None
    assert (facts.prefetched, facts.dense_rows, facts.alternates) == (("s",), ("k", "v"), ("specialised",))
    assert facts.work.maxima == 1 and facts.work.alternates == facts.alternates


def test_what_does_not_stream_has_no_ranges() -> None:
    facts = program("causal").facts_of("backward_prepare")
    assert (facts.ranges, facts.prefetched, facts.dense_rows) == (None, (), ())
    assert segments_of(facts) is None and facts.visits == "nothing passes"


def test_a_mask_without_closed_form_is_listed() -> None:
    facts = program("multiples").facts_of("forward")
    segments = segments_of(facts)
    assert facts.listed and segments is not None and segments.listed and segments.count == 2
    assert facts.visits.endswith("of these the tiles that forward_list lists")


def test_facts_are_equal_where_kernels_are() -> None:
    first, second = program("causal"), program("causal")
    assert first.facts == second.facts and hash(first.facts) == hash(second.facts)
    assert first.facts[0] != program("window").facts[0]
    assert first.kernels == tuple(facts.kernel for facts in first.facts)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each analysis is carried out for each role."""
    found: Counter[str] = Counter()

    def count(name: str) -> None:
        analysis = getattr(facts_module, name)

        def counted(kernel: object, *args: object, **options: object) -> object:
            role = getattr(kernel, "role", None) or sys._getframe(1).f_locals["kernel"].role
            found[f"{name} of {role}"] += 1
            return analysis(kernel, *args, **options)

        monkeypatch.setattr(facts_module, name, counted)

    for name in ("loop_ranges", "contributing", "dots_to_zero", "prefetchable_dots", "streamed_rows", "ineligible", "structure"):
        count(name)
    lowered.cache_clear()
    yield found
    lowered.cache_clear()


def test_each_fact_is_computed_once_a_kernel(calls: Counter[str]) -> None:
    """Once for all dtypes alike, once more for kernels with the rewrites that a dtype allows; tiles and text come of these."""
    request = Request((("d", 64), ("e", 64)), "bfloat16", targets.get("sm90"))
    roles = [kernel.role for kernel in compiled(parse(ALL["causal"]), "causal", request).program.kernels]
    assert {name.rpartition(" ")[2] for name in calls} == set(roles)
    assert set(calls.values()) == {2}
