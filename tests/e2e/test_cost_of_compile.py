"""Compilation is linear in the DAG of a user's function, in calls of the package's own functions, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import attngen
from attngen.frontend.spec import Spec
from attngen.pipeline import analyse, build, for_dtype
from tests import reused

PACKAGE = str(Path(attngen.__file__).parent)


def calls(run: Callable[[], Any]) -> int:
    """How many calls of the package's functions a run makes."""
    found = 0

    def count(frame: FrameType, event: str, _: Any) -> None:
        nonlocal found
        found += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return found


def compiled(make: Callable[[int], Spec], steps: int) -> str:
    """The text of a variant with all gradients."""
    return build(for_dtype(analyse(make(steps).cascade), "bfloat16"), "reused").text


@pytest.mark.parametrize("name", reused.ALL)
def test_twice_the_steps_are_little_more_than_twice_the_work(name: str) -> None:
    make = reused.ALL[name]
    compiled(make, 2)
    half, whole = (calls(lambda n=n: compiled(make, n)) for n in (10, 20))
    assert whole < 3 * half
    assert whole < 2_000_000
