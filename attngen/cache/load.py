"""Imports a module from a file of the cache or of `generated/`.

Triton, tracebacks and debuggers read source text from `linecache`; they get the text that runs, even after the file was replaced. No byte
code is read or written, so that only the verified file can run. The store verifies it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import linecache
import sys
import threading
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from attngen.errors import InternalError

# Concurrent loads of one module give one module.
_LOADING = threading.RLock()


def load_module(path: Path, name: str, *, text: bytes | None = None, preset: Mapping[str, object] | None = None) -> ModuleType:
    """The module in the file `path`, executed once per process, path, text and `name`.

    Args:
        path: a Python file.
        name: a readable identifier; a hash of path and text is added, so that equal names never clash.
        text: of the file, if already read; the file is then not opened.
        preset: names set in the module before it is executed. Not part of its identity: another preset needs another name.

    Returns:
        The module, registered in `sys.modules`.

    Raises:
        Whatever the module raises on execution; it is then not registered.
    """
    if not name.isidentifier():
        raise InternalError(f"{name!r} cannot name a module")
    path = path.absolute()
    text = path.read_bytes() if text is None else text
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape") + b"\0" + text).hexdigest()
    unique = f"attngen_loaded_{name}_{digest[:16]}"
    with _LOADING:
        if unique in sys.modules:
            return sys.modules[unique]
        _show(path, importlib.util.decode_source(text))
        spec = importlib.util.spec_from_file_location(unique, path, loader=_Loader(unique, str(path), text))
        if spec is None or spec.loader is None:
            raise InternalError(f"{path} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        vars(module).update(preset or {})
        sys.modules[unique] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[unique]
            raise
        return module


def source_of(module: ModuleType) -> str:
    """The source text of a module."""
    loader = module.__spec__.loader if module.__spec__ is not None else None
    if not isinstance(loader, _Loader):
        return inspect.getsource(module)
    text = loader.get_source(module.__name__)
    _show(Path(loader.path), text)
    return text


def copied(module: ModuleType) -> ModuleType:
    """A second module of the same text and name, executed anew and not entered in `sys.modules`.

    Args:
        module: importable from a file, or present in `linecache`.
    """
    copy = ModuleType(module.__name__, module.__doc__)
    copy.__file__, copy.__package__ = module.__file__, module.__package__
    exec(compile(source_of(module), module.__file__ or module.__name__, "exec"), vars(copy))
    return copy


def _show(path: Path, text: str) -> None:
    """Set the text in `linecache`; without a modification time it is not compared with the disk."""
    linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))


class _Loader(SourceFileLoader):
    """Compiles the hashed bytes, without byte code files."""

    def __init__(self, fullname: str, path: str, text: bytes) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._text)
