"""Attention variants by name: the catalogue that `attngen generate` builds, and specs named on the command line.

A name gives a `Spec`, traced on demand, so that listing the names needs no torch. The captures of a variant's mods (slopes, a window,
prefix lengths) are placeholders: in a deployed kernel each capture is an argument. Nothing is compiled here.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import keyword
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attngen.errors import ArgumentError, AttngenError, MissingKernel, SpecError
from attngen.source import SourceLoc

if TYPE_CHECKING:
    from attngen.frontend.spec import Spec


_MAX_NAME = 100
_IMPORTED = frozenset(
    """
    attngen torch triton functorch torchgen numpy sympy mpmath networkx jinja2 markupsafe fsspec filelock platformdirs typing_extensions
    setuptools pkg_resources pip yaml nvidia transformers torchvision torchaudio accelerate einops scipy pandas matplotlib pytest test tests
    """.split()  # noqa: SIM905  as a list it would fill a screen
)
"""Import names of torch, triton, attngen and related packages, which no folder of kernels may shadow."""


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


def check_folder_name(name: str) -> None:
    """Refuse names that cannot be imported, or would shadow another module.

    Raises:
        ArgumentError: saying why.
    """
    shown = repr(name if len(name) <= _MAX_NAME else f"{name[:20]}...")
    if not (name.isidentifier() and name.isascii()):
        why = ""
    elif len(name) > _MAX_NAME:
        why = f": it has {len(name)} letters, {_MAX_NAME} at most"
    elif keyword.iskeyword(name):
        why = ": Python reads it as a keyword"
    elif name.startswith("__") or name in sys.stdlib_module_names or name in _IMPORTED:
        why = f": it would be imported in place of {name} itself"
    else:
        return
    remedy = "Give it another name (--name), of letters, digits and underscores."
    raise ArgumentError(f"{shown} cannot name a folder of kernels{why}", remedy=remedy)


def is_folder_name(name: str) -> bool:
    """Whether a folder of kernels can have this name."""
    try:
        check_folder_name(name)
    except ArgumentError:
        return False
    return True


def spelling(spec: Spec) -> str | None:
    """The text with which `load` finds a spec; None where it is not at the top level of a module with a file."""
    from attngen.frontend.spec import Spec

    def is_it(value: object) -> bool:
        return value is spec or (type(value) is Spec and value.name == spec.name and value.cascade == spec.cascade)

    if spec.name in names() and is_it(load(spec.name)):
        return spec.name
    # The main module last, for loading it runs the script once more.
    for module in sorted(list(sys.modules.values()), key=lambda module: getattr(module, "__name__", "") == "__main__"):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if name.isidentifier() and is_it(value) and _home(module) is not None:
                return f"{_home(module)}:{name}"
    return None


def _home(module: ModuleType) -> str | None:
    """A module's name on the command line: its import name in a package or an installed library, else its file."""
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
    name = module.__name__ if spec is None else spec.name
    if name != "__main__" and (file is None or "." in name or hasattr(module, "__path__") or file.startswith(_LIBRARIES)):
        return name
    path = None if file is None else Path(file).absolute()
    if path is None or path.suffix != ".py" or not path.is_file():
        return None
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def load(text: str) -> Spec:
    """The spec of that name.

    Args:
        text: a name of the catalogue, "package.module:object" or "path/file.py:object"; the object is a spec or makes one without
            arguments.

    Raises:
        ArgumentError: there is no such name, module, file or object, or no object of a file is named.
        SpecError: the object is no spec, or the user's module raised an error; with its line.
    """
    where, colon, name = text.rpartition(":")
    if not colon and not text.endswith(".py"):
        variant = next((variant for variant in VARIANTS if variant.name == text), None)
        if variant is None:
            near = difflib.get_close_matches(text, names(), n=1)
            raise ArgumentError(
                f"{text!r} is not in the catalogue" + (f"; did you mean {near[0]}?" if near else ""),
                remedy=f"Names are {', '.join(names())}. A spec of your own is package.module:object or path/file.py:object.",
            )
        return variant.make()
    try:
        module = _file(where or text) if (where or text).endswith(".py") else _module(where)
        if not colon:
            raise ArgumentError(f"{text} does not name a spec in the file", remedy=_written_out(text, module))
        return _spec(text, getattr(module, name, None), module)
    except AttngenError as error:
        loc = _place(error)
        if error.loc is None and loc is not None:
            error.at(loc)
        raise
    except (Exception, SystemExit) as error:
        raise SpecError(f"{text} cannot be imported: {type(error).__name__}: {error}", loc=_place(error)) from error


def _place(error: BaseException) -> SourceLoc | None:
    """The user's line of an error: that of a syntax error, or the innermost frame outside of libraries."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return SourceLoc(error.filename, error.lineno or 1, "<module>", max((error.offset or 1) - 1, 0))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_MACHINERY)]
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames
    return SourceLoc(own[-1].filename, own[-1].lineno or 0, own[-1].name) if own else None


_MACHINERY = (str(Path(__file__).parent) + os.sep, "<")
_LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _module(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An import that fails inside the user's module is not a misspelt spec.
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
    # Tracing looks up a function's module by name; modules of the standard library must not be replaced.
    mine = sys.modules.setdefault(path.stem, module) is module
    try:
        spec.loader.exec_module(module)
    except MissingKernel:
        # A script that calls, in strict mode, the kernel to be built.
        pass
    except BaseException:
        if mine:
            del sys.modules[path.stem]
        raise
    return module


def _written_out(where: str, module: ModuleType) -> str:
    """The names of the specs of a module, as a remedy."""
    from attngen.frontend.spec import Spec

    names = [name for name, value in vars(module).items() if isinstance(value, Spec)]
    others = [name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, ModuleType)]
    if names:
        return f"Its specs are {', '.join(f'{where}:{name}' for name in names)}."
    return "It has no spec" + (f", only {', '.join(others)}." if others else ".")


def _spec(text: str, found: Any, module: ModuleType) -> Spec:
    from attngen.frontend.spec import Spec

    where, _, name = text.rpartition(":")
    if found is None:
        raise ArgumentError(f"{where} has no {name!r}", remedy=_written_out(where, module))
    if inspect.isfunction(found):
        needed = [item.name for item in inspect.signature(found).parameters.values() if item.default is item.empty and item.kind < 2]
        if needed:
            raise SpecError(f"{text} is a function of {', '.join(needed)}, not a spec", remedy=_written_out(where, module))
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
