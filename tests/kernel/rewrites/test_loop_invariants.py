from __future__ import annotations

import pytest
import torch

from attngen.interpreter.torch_reference import reference
from attngen.ir.cascade import Cascade
from attngen.ir.parser import parse
from attngen.kernel.rewrites.loop_invariants import hoist_row_values

HEAD = "cascade(x[m,n], lse[m], other[m])\n"
SAFE = "where(lse[m] == -inf, inf, lse[m])"


def rewritten(steps: str, saved: tuple[str, ...] = ("lse",)) -> tuple[Cascade, Cascade, tuple[str, ...]]:
    before = parse(f"{HEAD}{steps}\n  -> y")
    after, names = hoist_row_values(before, saved, ("m",))
    return before, after, names


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (f"  y[m,n] = exp(x[m,n] - {SAFE})", [SAFE]),
        (f"  t[m,n] = exp(x[m,n] - {SAFE})\n  y[m,n] = t[m,n] * {SAFE}", [SAFE]),
        ("  y[m,n] = x[m,n] * where(lse[m] > 0.0, exp(where(lse[m] > 1.0, 0.0, lse[m])), 1.0)",
         ["where(lse[m] > 0.0, exp(where(lse[m] > 1.0, 0.0, lse[m])), 1.0)"]),
        (f"  y[m,n] = exp(x[m,n] - {SAFE}) * where(lse[m] > 2.0, 1.0, 0.0)",
         [SAFE, "where(lse[m] > 2.0, 1.0, 0.0)"]),
        ("  y[m,n] = x[m,n] * where(other[m] > 0.0, 1.0, 0.0)", []),
        ("  y[m,n] = where(lse[m] > x[m,n], x[m,n], 0.0)", []),
        ("  y[m,n] = where(lse[m] > to_float(n), lse[m], 0.0)", []),
        ("  y[m,n] = x[m,n] * exp(lse[m])", []),
    ],
)  # fmt: skip
def test_choices_by_saved_statistics_are_computed_once_a_row(steps: str, found: list[str]) -> None:
    before, after, names = rewritten(steps)
    bodies = {str(step).partition(" = ")[2] for step in after.steps if step.name in names}
    assert bodies == set(found) and len(names) == len(found)
    generator = torch.Generator().manual_seed(0)
    values = {item.name: torch.randn([4, 5][: len(item.axes or ())], generator=generator).double() for item in before.inputs}
    values["lse"][1] = -torch.inf
    torch.testing.assert_close(reference(after, values)["y"], reference(before, values)["y"], rtol=0, atol=0, equal_nan=True)


def test_they_come_before_the_first_that_reads_them() -> None:
    _, after, names = rewritten(f"  t[m,n] = x[m,n] * 2.0\n  y[m,n] = t[m,n] * {SAFE}")
    assert [step.name for step in after.steps] == ["t", *names, "y"]


def test_a_name_that_is_taken_stays() -> None:
    _, _, names = rewritten(f"  lse_safe[m] = other[m] * 2.0\n  y[m,n] = x[m,n] * {SAFE} * lse_safe[m]")
    assert names == ("lse_safe2",)
