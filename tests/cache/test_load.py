"""Modules come from a file, run once, keep their text, and leave nothing behind."""

from __future__ import annotations

import inspect
import linecache
import sys
from pathlib import Path

import pytest

from attngen.cache.load import load_module, source_of
from attngen.errors import InternalError


def write(folder: Path, text: str) -> Path:
    path = folder / "kernel.py"
    path.write_text(text)
    return path


def test_a_module_is_imported_once(tmp_path: Path) -> None:
    path = write(tmp_path, "calls = []\n\ndef forward():\n    return 42\n")
    module = load_module(path, "causal")
    assert module.forward() == 42
    assert load_module(path, "causal") is module
    assert sys.modules[module.__name__] is module
    assert load_module(path, "causal_interpreted") is not module


def test_the_text_can_be_read_back(tmp_path: Path) -> None:
    module = load_module(write(tmp_path, "def forward():\n    return 'here'\n"), "causal")
    assert inspect.getsource(module.forward) == "def forward():\n    return 'here'\n"


def test_a_changed_file_is_another_module(tmp_path: Path) -> None:
    old = load_module(write(tmp_path, "def f():\n    return 1\n"), "causal")
    inspect.getsource(old.f)
    new = load_module(write(tmp_path, "# longer\ndef f():\n    return 2\n"), "causal")
    assert (old.f(), new.f()) == (1, 2)
    assert inspect.getsource(new.f) == "def f():\n    return 2\n"


def test_equal_files_in_two_places_are_two_modules(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert load_module(write(tmp_path, "x = 1\n"), "causal") is not load_module(write(tmp_path / "other", "x = 1\n"), "causal")


def test_names_can_be_preset(tmp_path: Path) -> None:
    path = write(tmp_path, "seen = jit(3)\n")
    assert load_module(path, "doubled", preset={"jit": lambda x: 2 * x}).seen == 6


def test_no_byte_code_is_written_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    load_module(write(tmp_path, "x = 1\n"), "causal")
    assert [path.name for path in tmp_path.iterdir()] == ["kernel.py"]


def test_a_module_that_fails_is_not_registered(tmp_path: Path) -> None:
    path = write(tmp_path, "raise ZeroDivisionError\n")
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError):
        load_module(path, "broken")
    assert set(sys.modules) == before


def test_a_name_must_be_an_identifier(tmp_path: Path) -> None:
    with pytest.raises(InternalError):
        load_module(write(tmp_path, ""), "not a name")


def test_a_text_that_was_read_before_is_what_runs_and_what_is_shown(tmp_path: Path) -> None:
    """Triton compiles what `inspect` shows, long after the file was verified."""
    verified = b"def f():\n    return 'verified'\n"
    module = load_module(write(tmp_path, "def f():\n    return 'planted'\n"), "causal", text=verified)
    assert module.f() == "verified"
    linecache.checkcache()
    assert inspect.getsource(module.f) == inspect.getsource(module) == verified.decode()
    linecache.clearcache()
    assert source_of(module) == verified.decode()
