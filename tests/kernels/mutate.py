"""A process that tries mutants: reads one name a line, answers with one line of JSON.

torch and triton are imported once. Each mutant is a fork that imports attngen from a copy with one text replaced and runs the suite,
so that a crash ends the fork only. `""` stands for the copy as it is.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

import pytest

from tests.kernels.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LIMIT_S = 120
SURVIVED, WRONG, STILLBORN, REFUSED, BROKEN = 0, 3, 4, 5, 6
"""BROKEN: it is the process that failed, which says nothing of the mutant."""
_OUTCOMES = {SURVIVED: "survived", WRONG: "wrong", STILLBORN: "stillborn", REFUSED: "raised"}


def copy_with(name: str, folder: Path) -> None:
    """Copy the package, with what Python has compiled of it, and its templates to `folder`, with the text of one mutant replaced.

    Raises:
        ValueError: the text does not occur, or more than once.
    """
    for part in ("attngen", "templates"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "pyproject.toml", folder)
    if not name:
        return
    mutant = _named(name)
    path, start = place(mutant)
    text = (ROOT / path).read_text(encoding="utf-8")
    (folder / path).write_text(text[:start] + mutant.new + text[start + len(mutant.old) :], encoding="utf-8")


def place(mutant: Mutant) -> tuple[Path, int]:
    """The file, below the checkout, that holds the text a mutant replaces, and where the text begins.

    Raises:
        ValueError: no such symbol, or its text does not occur, or more than once.
    """
    if mutant.where not in symbols():
        raise ValueError(f"mutant {mutant.name!r}: there is no {mutant.where}")
    found: list[tuple[Path, int]] = []
    for path, start, end in symbols()[mutant.where]:
        text = (ROOT / path).read_text(encoding="utf-8")[:end]
        while (start := text.find(mutant.old, start)) >= 0:
            found.append((path, start))
            start += len(mutant.old)
    if len(found) != 1:
        raise ValueError(f"mutant {mutant.name!r}: its text occurs {len(found)} times in {mutant.where}")
    return found[0]


@cache
def symbols() -> dict[str, list[tuple[Path, int, int]]]:
    """What a mutant may name -> its places: a file below the checkout, and from where to where.

    A name is that of a function, a class or a table at the top of a module or of a function of the templates, a method after its
    class (`Class.method`), or the file name of a template.
    """
    found: dict[str, list[tuple[Path, int, int]]] = {}
    for path in sorted((ROOT / "templates").rglob("*.j2")):
        found[path.name] = [(path.relative_to(ROOT), 0, len(path.read_text(encoding="utf-8")))]
    for path in (*sorted((ROOT / "attngen").rglob("*.py")), *sorted((ROOT / "templates").rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
        for name, first, last in _definitions(ast.parse(text).body):
            found.setdefault(name, []).append((path.relative_to(ROOT), starts[first - 1], starts[last]))
    return found


def _definitions(body: list[ast.stmt]) -> Iterator[tuple[str, int, int]]:
    """Names of the top of a module, and of methods, with their first and last lines."""
    for node in body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name, min(item.lineno for item in (node, *node.decorator_list)), node.end_lineno or 0
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node.lineno, node.end_lineno or 0
            case _:
                pass
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{name}", *lines) for name, *lines in _definitions(node.body))


def _named(name: str) -> Mutant:
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def attempt(folder: Path, first: str, alone: bool) -> int:
    """Run the suite on the copy in `folder`, or its first check alone; in a fork."""
    sys.path.insert(0, str(folder))
    if first.startswith("tests/"):
        return _tests(first)
    try:
        from tests.kernels import suite

        suite.emit()
    except BaseException:
        traceback.print_exc()
        return STILLBORN
    try:
        suite.kill(first, alone=alone)
    except AssertionError:
        traceback.print_exc(limit=-1)
        return WRONG
    except BaseException:
        traceback.print_exc(limit=-2)
        return REFUSED
    return SURVIVED


def _tests(place: str) -> int:
    """The tests of a folder or a file, or one test of a file."""
    try:
        importlib.import_module("attngen.schedule.choose")
    except Exception:
        traceback.print_exc()
        return STILLBORN
    options = [
        "-x",
        "-q",
        "--triton-interpreter",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=line",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    folder = ROOT / place
    files = [str(path) for path in sorted(folder.glob("test_*.py"))] if folder.is_dir() else [str(folder)]
    return WRONG if pytest.main([*options, *files]) == pytest.ExitCode.TESTS_FAILED else SURVIVED


def verdict(name: str) -> dict[str, str]:
    """What became of one mutant, and the last lines it wrote."""
    with tempfile.TemporaryDirectory(prefix="attngen-mutant-") as folder, tempfile.TemporaryFile() as log:
        try:
            copy_with(name, Path(folder))
        except ValueError as error:
            return {"outcome": "unknown", "why": str(error)}
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            # Of the processor: a busy machine makes nothing hang. What sleeps for ever is ended as well.
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            signal.alarm(10 * LIMIT_S)
            mutant = _named(name) if name else None
            found = BROKEN
            try:
                found = attempt(Path(folder), mutant.first if mutant else "", bool(mutant and mutant.equivalent))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(found)
        _, status = os.waitpid(child, 0)
        log.seek(0)
        why = log.read().decode("utf-8", "replace")[-600:]
    if os.WIFSIGNALED(status):
        return {"outcome": "crashed", "why": f"{signal.Signals(os.WTERMSIG(status)).name}\n{why}"}
    return {"outcome": _OUTCOMES.get(os.WEXITSTATUS(status), "broken"), "why": why}


def main() -> None:
    for name in ("jinja2", "networkx", "sympy", "torch", "triton", "triton.language", "triton.runtime.interpreter"):
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(verdict(line.rstrip("\n"))), flush=True)


if __name__ == "__main__":
    main()
