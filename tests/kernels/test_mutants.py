"""The suite is held to what it finds: of all mutants, only equivalent ones survive it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernels import suite
from tests.kernels.mutants import MUTANTS
from tests.kernels.mutate import ROOT, place

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


def test_every_mutant_has_one_place():
    """Its text occurs once in the symbol it names, so that a change of that text or of that name is noticed at once."""
    for mutant in MUTANTS:
        path, start = place(mutant)
        assert mutant.new != mutant.old, mutant.name
        assert (ROOT / path).read_text(encoding="utf-8")[start:].startswith(mutant.old), mutant.name


def test_every_mutant_meets_a_check_that_exists():
    """A check that does not exist would raise, which looks like a mutant that was killed."""
    for first in sorted({mutant.first for mutant in MUTANTS if mutant.first}):
        if first.startswith("tests/"):
            path, *names = first.split("[")[0].split("::")
            assert (ROOT / path).exists(), first
            body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body if names else []
            for name in names:
                found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
                assert found, first
                body = found[0].body
        else:
            assert first in suite.checks()
