"""The suite is held to what it finds: of all mutants, only equivalent ones survive it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernels.mutants import MUTANTS

Attempt = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    command = [sys.executable, "-m", "tests.kernels.mutate"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        to, back = process.stdin, process.stdout
        assert to is not None
        assert back is not None

        def ask(name: str) -> dict[str, str]:
            to.write(f"{name}\n")
            to.flush()
            answer: dict[str, str] = json.loads(back.readline())
            return answer

        yield ask
        to.close()


@pytest.mark.slow
def test_the_original_survives(attempt: Attempt):
    found = attempt("")
    assert found["outcome"] == "survived", found["why"]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant(attempt: Attempt, mutant):
    """Killed by a wrong result, a crash or an error while it runs; one that cannot even be emitted proves nothing."""
    found = attempt(mutant.name)
    expected = {"survived"} if mutant.equivalent else {"wrong", "crashed", "raised"}
    assert found["outcome"] in expected, f"{found['outcome']}: {found['why']}"


def test_there_are_enough():
    assert len(MUTANTS) >= 30
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert sum(bool(mutant.equivalent) for mutant in MUTANTS) <= len(MUTANTS) // 20
