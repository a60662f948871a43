from __future__ import annotations

from attngen.analysis.predicates import contributions, guards, known, mask_of, without
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr

CASCADE = parse("""cascade(q[m,d], k[n,d]; w: int)
  s[m,n] = sum[d] q[m,d] * k[n,d]
  x[m,n] = s[m,n] * 0.5  if m >= n
  y[m,n] = x[m,n] + 1.0  if m - n <= w
  l[m] = sum[n] y[m,n]  if n > 0
  z[m,n] = y[m,n] * l[m]
  -> z""")


def text(name: str) -> str | None:
    found = guards(CASCADE)[name]
    return None if found is None else print_expr(found)


def test_a_value_exists_where_all_that_it_reads_does() -> None:
    assert text("s") is None
    assert text("x") == "m >= n"
    assert text("y") == text("z") == "m >= n and m - n <= w"


def test_a_reduction_ends_masks() -> None:
    """Its result exists in every row, even in one from which nothing was summed."""
    assert text("l") is None


def test_what_a_reduction_sums() -> None:
    step = CASCADE.step("l")
    assert step is not None
    found = contributions(step, guards(CASCADE))
    assert mask_of(found) == {*mask_of(guards(CASCADE)["y"]), *mask_of(step.where)}


def test_parts_that_a_mask_lacks() -> None:
    exists = guards(CASCADE)
    left = without(exists["y"], mask_of(exists["x"]))
    assert left is not None and print_expr(left) == "m - n <= w"
    assert without(exists["x"], mask_of(exists["y"])) is None
    assert mask_of(None) == frozenset()


def test_names_that_are_no_steps_exist_always() -> None:
    step = CASCADE.step("s")
    assert step is not None
    assert known(step.body, guards(CASCADE)) is None
    assert known(None, guards(CASCADE)) is None
