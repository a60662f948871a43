"""Byte code is that of its module, or it is told what is wrong."""

from __future__ import annotations

import importlib.util
import marshal
import py_compile
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attngen.deploy.bytecode import is_compiled_from

GENERATED = Path(__file__).parents[2] / "generated"
TAG = str(sys.implementation.cache_tag)
SOURCE = b'''"""A module."""
import math
BIG, SMALL, TABLE = 2**80, -1.5, {("a", 1): [None, True, ...]}
def outer(x, *rest, key=3, **more):
    """Of everything."""
    def inner(y: int) -> str:
        return f"{x} {y} {key} {3j} {b'bytes'}"
    try:
        return [inner(z) for z in rest if z not in (1, 2)]
    finally:
        more.clear()
class Shape:
    side = 2
    def area(self): return self.side ** 2
'''


def compiled(source: bytes, folder: Path, level: int = 0) -> bytes:
    path = folder / "module.py"
    path.write_bytes(source)
    return Path(py_compile.compile(str(path), cfile=str(folder / "module.pyc"), doraise=True, optimize=level)).read_bytes()


def test_what_python_writes_on_import_is_known(tmp_path: Path) -> None:
    for name, source in (("plain", SOURCE), ("host", (GENERATED / "alibi_causal" / "kernels.py").read_bytes())):
        (tmp_path / f"{name}.py").write_bytes(source)
    command = "import sys; sys.dont_write_bytecode = False; import torch, plain, host"
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, env={"PYTHONHASHSEED": "7"})
    found = {path.name.partition(".")[0]: path for path in (tmp_path / "__pycache__").iterdir()}
    assert set(found) == {"plain", "host"}
    for name, path in found.items():
        assert is_compiled_from(path.read_bytes(), (tmp_path / f"{name}.py").read_bytes(), TAG, 0) == ""


def test_levels_of_optimisation_are_told_apart(tmp_path: Path) -> None:
    source = b"def f(x):\n    'Doc.'\n    assert x\n"
    for level in (0, 1, 2):
        code = compiled(source, tmp_path, level)
        assert [is_compiled_from(code, source, TAG, other) == "" for other in (0, 1, 2)] == [other == level for other in (0, 1, 2)]


CHANGES = {
    b"math": b"cmath",
    b"-1.5": b"-1.6",
    b"2**80": b"3**80",
    b"key=3": b"key=4",
    b"Of everything": b"Of nothing",
    b"finally": b"except KeyError",
    b"(1, 2)": b"(1, 3)",
    b"side ** 2": b"side ** 3",
    b"bytes'": b"bits'",
    b"int)": b"str)",
    b"3j": b"4j",
    b"import": b"\nimport",
}


@pytest.mark.parametrize(("old", "new"), CHANGES.items())
def test_any_other_module_is_seen(tmp_path: Path, old: bytes, new: bytes) -> None:
    source = SOURCE.replace(old, new, 1)
    assert source != SOURCE
    assert is_compiled_from(compiled(source, tmp_path), SOURCE, TAG, 0) == "is not the byte code of its module"


def test_of_another_python(tmp_path: Path) -> None:
    code = compiled(SOURCE, tmp_path)
    assert "another Python" in is_compiled_from(code, SOURCE, "cpython-36", 0)
    assert "another Python" in is_compiled_from(b"\0\0\r\n" + code[4:], SOURCE, TAG, 0)


@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damage_is_seen_and_never_an_error(place: int, value: int, short: bool) -> None:
    """Bits that only say whether a value is referred to again, or interned, mean nothing."""
    code = bytearray(importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(compile(SOURCE, "module.py", "exec")))
    place = 16 + place % (len(code) - 16)
    if short:
        assert is_compiled_from(bytes(code[:place]), SOURCE, TAG, 0) != ""
    code[place] = value
    said = is_compiled_from(bytes(code), SOURCE, TAG, 0)
    assert said == "" or said == "is not the byte code of its module"


MALFORMED = [b"", b"(", b"(\xff\xff\xff\x7f", b"r\0\0\0\0", b"\xa9\x01r\0\0\0\0", b"(\x01\0\0\0" * 100_000, b"Q", b"[\1\0\0\0N"]


@pytest.mark.parametrize("data", [*MALFORMED, b"l\0\0\0\x80"], ids=len)
def test_what_is_no_byte_code_is_no_error(data: bytes) -> None:
    assert is_compiled_from(importlib.util.MAGIC_NUMBER + bytes(12) + data, SOURCE, TAG, 0) == "is not the byte code of its module"
