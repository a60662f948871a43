"""Attention variants by name: the catalogue that `attngen generate` builds, and specs named on the command line.

A name gives a `Spec`, made when it is asked for, so that listing the names needs no torch. What a variant's mods capture (slopes, a
window, prefix lengths) stands for values that a caller gives: in a deployed kernel each capture is an argument. Nothing is compiled here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attngen.errors import ArgumentError, SpecError

if TYPE_CHECKING:
    from attngen.frontend.spec import Spec


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the catalogue. `captures` are the arguments of the deployed function besides the tensors of the spec."""

    name: str
    title: str
    captures: tuple[str, ...]

    def make(self) -> Spec:
        """The spec, traced."""
        from attngen import variants

        make: Callable[[], Spec] = getattr(variants, self.name)
        return make()


def names() -> tuple[str, ...]:
    """The names of the catalogue, in its order."""
    return tuple(variant.name for variant in VARIANTS)


def load(text: str) -> Spec:
    """The spec of that name.

    Args:
        text: a name of the catalogue, "package.module:object" or "path/file.py:object"; the object is a spec or makes one without
            arguments.

    Raises:
        ArgumentError: there is no such name, module, file or object, or the object is no spec.
        Whatever the user's module raises when it is imported.
    """
    where, colon, name = text.rpartition(":")
    if not colon:
        variant = next((variant for variant in VARIANTS if variant.name == text), None)
        if variant is None:
            near = difflib.get_close_matches(text, names(), n=1)
            raise ArgumentError(
                f"{text!r} is not in the catalogue" + (f"; did you mean {near[0]}?" if near else ""),
                remedy=f"Names are {', '.join(names())}. A spec of your own is package.module:object or path/file.py:object.",
            )
        return variant.make()
    module = _file(where) if where.endswith(".py") else _module(where)
    return _spec(text, getattr(module, name, None), [key for key in vars(module) if not key.startswith("_")])


def _module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A module that the user's own module misses is not the user's spelling of a spec.
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ArgumentError(f"there is no module {name!r}", remedy="A file is named with its ending: path/file.py:object.") from None


def _file(name: str) -> ModuleType:
    path = Path(name).absolute()
    if not path.is_file():
        raise ArgumentError(f"there is no file {name}", remedy="A spec in a file is named path/file.py:object.")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"{name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    # Tracing looks a function's module up by name, and a module of the standard library must stay what it is.
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _spec(text: str, found: Any, names: list[str]) -> Spec:
    from attngen.frontend.spec import Spec

    name = text.rpartition(":")[2]
    if found is None:
        raise ArgumentError(f"{text.rpartition(':')[0]} has no {name!r}", remedy=f"It has {', '.join(names)}." if names else "")
    made = found() if callable(found) and not isinstance(found, type | Spec) else found
    if not isinstance(made, Spec):
        raise SpecError(
            f"{text} is {'a function that returned ' if made is not found else ''}{type(made).__name__}, not a spec",
            remedy="Make one with attngen.attention(...) or @attngen.cascade(...).",
        )
    return made


VARIANTS: tuple[Variant, ...] = (
    Variant("full", "softmax attention over all keys", ()),
    Variant("causal", "softmax attention over the keys up to the query's own position", ()),
    Variant("sliding_window", "causal softmax attention over the last `window` keys", ("window",)),
    Variant("alibi_causal", "causal softmax attention with a penalty per distance, slopes[head]", ("slopes",)),
    Variant("softcap", "softmax attention over softcap * tanh(score / softcap)", ("softcap",)),
    Variant("prefix_lm", "causal softmax attention in which all queries see the first prefix[batch] keys", ("prefix",)),
    Variant("sigmoid", "sigmoid(score + bias) in place of a softmax", ("bias",)),
    Variant("differential", "the difference of two softmaxes over shared values", ()),
)
