"""The architecture: small folders, names that stand once, no circles of imports, and tests that mirror the source."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).parents[1]
MODULES_A_FOLDER = 12
LINES_A_MODULE = 350
LINES_A_FUNCTION = 60
EXCEPTIONS = frozenset({"emit"})
"""Folders that may be large and tangled."""
SUITES = frozenset({"benchmarks", "docs", "e2e", "gpu", "kernels", "versions"})
"""Folders of tests of the whole."""
WHOLES = frozenset({"test_dead_code.py", "test_deploy.py", "test_examples.py", "test_packaging.py", "test_rooms.py"})
"""Tests of the whole outside of those folders."""


@cache
def modules() -> dict[str, Path]:
    """Every module and package of attngen, by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted((ROOT / "attngen").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if path.stem == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room(path: Path) -> str:
    """The folder of a module, below attngen."""
    return path.parent.relative_to(ROOT / "attngen").as_posix()


def imported(path: Path) -> set[str]:
    """The modules of attngen that a module names in imports, those in functions and those for types alone included."""
    named: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            named |= {name if name in modules() else node.module for name in submodules}
    return named & modules().keys()


def circles(folder: str | None = None) -> list[list[str]]:
    """Groups of modules that import each other, in one folder or in all of them."""
    kept = {name for name, path in modules().items() if room(path) not in EXCEPTIONS and folder in (None, room(path))}
    graph = nx.DiGraph((name, other) for name in kept for other in imported(modules()[name]) & kept if other != name)
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_folders_are_small():
    sizes = Counter(room(path) for path in modules().values() if path.stem != "__init__")
    assert {folder: size for folder, size in sizes.items() if size > MODULES_A_FOLDER and folder not in EXCEPTIONS} == {}


def test_a_file_name_stands_in_one_folder():
    names = Counter(path.name for path in modules().values() if path.stem != "__init__")
    assert [name for name, times in names.items() if times > 1] == []


def test_no_module_imports_itself_through_others():
    assert circles() == []


def test_a_circle_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An import in a function and one for types alone close a circle."""
    (tmp_path / "attngen" / "ir").mkdir(parents=True)
    files = {
        "one": "def f():\n    from attngen.ir import two\n",
        "two": "if TYPE_CHECKING:\n    from attngen.ir.one import f\n",
        "three": "",
    }
    for name, text in files.items():
        (tmp_path / "attngen" / "ir" / f"{name}.py").write_text(text)
    (tmp_path / "attngen" / "ir" / "__init__.py").touch()
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for kept in (modules, tree):
        kept.cache_clear()
    try:
        assert circles() == circles("ir") == [["attngen.ir.one", "attngen.ir.two"]]
    finally:
        monkeypatch.undo()
        modules.cache_clear()


def test_modules_and_functions_are_short():
    long = [name for name, path in modules().items() if len(path.read_text(encoding="utf-8").splitlines()) > LINES_A_MODULE]
    long += [
        f"{name}.{node.name}"
        for name, path in modules().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= LINES_A_FUNCTION
    ]
    assert long == []


def test_tests_mirror_the_source():
    """tests/schedule/test_space.py tests attngen/schedule/space.py."""
    sources = {path.relative_to(ROOT / "attngen").as_posix() for path in modules().values()}
    astray: list[str] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        place = path.relative_to(ROOT / "tests")
        if place.parts[0] in SUITES or place.as_posix() in WHOLES:
            continue
        if place.with_name(path.name.removeprefix("test_")).as_posix() not in sources:
            astray.append(place.as_posix())
    assert astray == []
