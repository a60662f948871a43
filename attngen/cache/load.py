"""Import of a module from a file of the cache or of `generated/`.

The file stays where it is, so that Triton, tracebacks and debuggers read its text from there. No byte code is read or written: beside a
verified file there must be nothing else that could run. Verifying is the store's duty, not done here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import sys
import threading
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from attngen.errors import InternalError

# Two threads that ask for one module at once get one module.
_LOADING = threading.RLock()


def load_module(path: Path, name: str, *, preset: Mapping[str, object] | None = None) -> ModuleType:
    """The module in the file `path`, run once per process, path, text and `name`.

    Args:
        path: a Python file.
        name: an identifier for people; path and text are added to it, so that equal names never clash.
        preset: names that are set in the module before it runs. Not part of its identity: with another preset, give another name.

    Returns:
        The module, registered in `sys.modules`.

    Raises:
        Whatever the module raises when it runs; it is then not registered.
    """
    if not name.isidentifier():
        raise InternalError(f"{name!r} cannot name a module")
    path = path.absolute()
    text = path.read_bytes()
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape") + b"\0" + text).hexdigest()
    unique = f"attngen_loaded_{name}_{digest[:16]}"
    with _LOADING:
        if unique in sys.modules:
            return sys.modules[unique]
        # The text of this path may have been another one a moment ago.
        linecache.checkcache(str(path))
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


class _Loader(SourceFileLoader):
    """Compiles the bytes that were hashed, and knows no byte code."""

    def __init__(self, fullname: str, path: str, text: bytes) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)
