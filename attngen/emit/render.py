"""Kernels and host plan to the text of a module, checked once more before anything may run it."""

from __future__ import annotations

import ast
from collections.abc import Set

from attngen.alternates.known_alternates import ALTERNATES
from attngen.emit.context import ModuleContext
from attngen.emit.environment import library, render_template
from attngen.emit.format import break_lines
from attngen.errors import InternalError, UnsafeValue

_IMPORTS = {"torch", "triton", "triton.language"}
_NAMES = {module: names for alternate in ALTERNATES.values() for module, names in alternate.imports.items()}
"""What may be imported by name."""
# In an order in which what is needed stands first.
_HELPER_NEEDS = {
    "fetch": ("load",),
    "fetch_head": ("load", "fetch"),
    "gelu_tanh": ("tanh",),
    "tanh_small": ("tanh",),
    "atan2": ("atan",),
    "asinh": ("log1p",),
}


def helper_sources(names: frozenset[str]) -> tuple[str, ...]:
    """Sources of the helper functions called, each after what it needs, in a fixed order."""
    late = tuple(_HELPER_NEEDS)
    wanted = sorted(names | {need for name in names for need in _HELPER_NEEDS.get(name, ())})
    wanted.sort(key=lambda name: late.index(name) if name in late else -1)
    return tuple(library(name) for name in wanted)


def render(module: ModuleContext) -> str:
    """The module's source.

    Raises:
        UnsafeValue: the text does something that no emitted module does.
    """
    source = break_lines(render_template("module.py.j2", module=module, host=module.host))
    check(source)
    return source


def check(source: str, siblings: tuple[str, ...] = ()) -> None:
    """Parse the text and walk it with a short list of what it may contain; `siblings` are modules beside it."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InternalError(f"the emitted module does not parse: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and not {alias.name for alias in node.names} <= _IMPORTS:
            raise UnsafeValue("an emitted module imports something but torch and triton")
        if isinstance(node, ast.ImportFrom) and not {alias.name for alias in node.names} <= _importable(node, siblings):
            raise UnsafeValue("an emitted module imports names")
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            raise UnsafeValue(f"an emitted module reads the private attribute {node.attr}")
        if isinstance(node, ast.Name) and node.id in ("exec", "eval", "compile", "open", "__import__", "getattr", "setattr", "globals"):
            raise UnsafeValue(f"an emitted module names {node.id}")


def _importable(node: ast.ImportFrom, siblings: tuple[str, ...]) -> Set[str]:
    """The names that a module may import from another."""
    return set(siblings) if node.level == 1 else _NAMES.get(node.module or "", frozenset()) if node.level == 0 else set()
