from __future__ import annotations

from attngen.ir.names import Names
from attngen.ir.parser import parse

CASCADE = parse("cascade(q[m,d], w[n]; t: float[])\n  w2[m,n] = q[m,0] * w[n] + t\n  o[m] = sum[n] w2[m,n] * to_float(n)\n  -> o")


def test_names_that_are_free_stay() -> None:
    assert Names(CASCADE).fresh("x") == "x"


def test_inputs_steps_and_axes_are_taken() -> None:
    names = Names(CASCADE)
    assert [names.fresh(base) for base in ("w", "t", "o", "n", "m")] == ["w3", "t2", "o2", "n2", "m2"]


def test_a_name_is_given_once() -> None:
    names = Names(CASCADE)
    assert [names.fresh("acc") for _ in range(3)] == ["acc", "acc2", "acc3"]


def test_numbers_start_anew_for_each_cascade() -> None:
    """No counter of the process: the same cascade gives the same text."""
    assert Names(CASCADE).fresh("w") == Names(CASCADE).fresh("w") == "w3"
