"""Every part of Triton that attngen touches, public and private, imported in one place.

A version of Triton that moves something fails here, or in the interpreter's `self_check`, and nowhere else.
"""

from __future__ import annotations

from attngen.errors import MissingTriton

try:
    import triton
    import triton.language as tl
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.language.semantic import TritonSemantic
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction
except ImportError as error:
    raise MissingTriton("running or compiling a kernel needs Triton", remedy="Triton has wheels for Linux: pip install triton") from error

_SOURCES = {False: ASTSource}

try:
    # Importing gluon checks that the functions of tl are JITFunctions; it must happen before the interpreter swaps any of them.
    from triton.experimental.gluon import language as gluon
    from triton.experimental.gluon._runtime import GluonASTSource
    from triton.experimental.gluon.language.nvidia import hopper

    _SOURCES[True] = GluonASTSource
except ImportError:
    gluon = hopper = None


def source_type(function: JITFunction) -> type[ASTSource]:
    """What `triton.compile` takes for a function, by the language that it is written in."""
    return _SOURCES[getattr(function, "is_gluon", lambda: False)()]


__all__ = [
    "ASTSource",
    "GPUTarget",
    "JITFunction",
    "TritonSemantic",
    "gluon",
    "hopper",
    "interpreter",
    "knobs",
    "source_type",
    "tl",
    "triton",
]
