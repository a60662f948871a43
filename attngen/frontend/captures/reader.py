"""Reads origins: one generated function reads all captured values of a variant and tests the guards of its trace.

It costs a call about as much as hand-written reads. What cannot change (the cells and globals of a function, the object of a bound method,
an object whose identity a guard has just tested) is looked up once, when the function is generated; closure variables and globals are
variables of the generated function too, so that bytecode compilers see through it.
"""

from __future__ import annotations

import builtins
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch

from attngen.frontend.captures.origins import Attribute, Call, Guard, Held, Item, Origin, Root, is_origin

Values = dict[str, Any]
Reader = Callable[[], Values | None]

_FIXED: tuple[tuple[type, frozenset[str]], ...] = (
    (FunctionType, frozenset(("__closure__", "__globals__"))),
    (MethodType, frozenset(("__func__", "__self__"))),
    (functools.partial, frozenset(("func", "args", "keywords"))),
)
"""Attributes that never change."""
_LARGEST = 2**63


class Scalar:
    """A captured Python float as the 0-d tensor that kernels read, cached until the number changes."""

    def __init__(self) -> None:
        self.last: tuple[float | None, torch.Tensor | None] = (None, None)

    def __call__(self, value: float) -> torch.Tensor:
        known, tensor = self.last
        if known is not None and tensor is not None and known == value and math.copysign(1.0, known) == math.copysign(1.0, value):
            return tensor
        with torch.inference_mode(False), torch._C.DisableTorchFunction():
            made = torch.tensor(value, dtype=torch.float64, device="cpu")
        if type(made) is torch.Tensor:  # not one that exists only in a mode
            self.last = value, made
        return made


def as_tensor(value: float) -> torch.Tensor:
    """The same under a bytecode compiler."""
    return torch.tensor(value, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Places:
    """The origins and guards of one trace.

    Attributes:
        origins: of the values, by name.
        guards: in the order of the trace.
    """

    origins: tuple[tuple[str, Origin], ...] = ()
    guards: tuple[Guard, ...] = ()

    def reader(self, roots: Mapping[str, Any], given: Mapping[str, Any], compiled: bool = False) -> Reader:
        """A function that reads all values, Python floats as 0-d float64 tensors. It returns None where a guard fails, and raises where
        an origin no longer exists.

        Args:
            roots: the user's objects by role.
            given: all values, in the wanted order; those without an origin are constant.
            compiled: for a bytecode compiler, which must not see cached numbers.
        """
        return _Writer(roots, self, compiled).function(given)


class _Writer:
    """The text of one reader and the objects bound to it."""

    def __init__(self, roots: Mapping[str, Any], places: Places, compiled: bool) -> None:
        self._roots, self._places, self._compiled = roots, places, compiled
        self._tests: dict[Origin, list[Guard]] = {}
        for guard in places.guards:
            self._tests.setdefault(guard.origin, []).append(guard)
        self._lines: list[str] = []
        self._cells: dict[str, CellType] = {}
        self._bound: dict[tuple[int, bool], str] = {}
        self._kept: list[Any] = []
        self._fresh = itertools.count()
        self._read: dict[Origin, tuple[str, Any, bool]] = {}
        self._spaces: dict[int, tuple[dict[str, Any], list[tuple[str, str]]]] = {}

    # ---- what the text refers to

    def _bind(self, value: Any, cell: CellType | None = None) -> str:
        key = (id(value if cell is None else cell), cell is None)
        if key not in self._bound:
            self._kept.append(value if cell is None else cell)
            self._bound[key] = f"c{next(self._fresh)}"
            self._cells[self._bound[key]] = CellType(value) if cell is None else cell
        return self._bound[key]

    def _local(self, text: str) -> str:
        name = f"v{next(self._fresh)}"
        self._lines.append(f"{name} = {text}")
        return name

    def _constant(self, value: Any) -> str:
        return repr(value) if type(value) in (int, str, bool, type(None)) else self._bind(value)

    # ---- places

    def place(self, origin: Origin) -> tuple[str, Any, bool]:
        """The text of a value, "" if it is constant; its current value; and whether it is constant. Its guards are tested before."""
        if origin not in self._read:
            self._read[origin] = found = self._written(origin)
            if self._tests.get(origin):
                self._read[origin] = self._tested(origin, *found)
        return self._read[origin]

    def _written(self, origin: Origin) -> tuple[str, Any, bool]:
        match origin:
            case Root(role=role):
                return "", self._roots[role], True
            case Attribute(of=of, name=name):
                return self._attribute(of, name)
            case Item(of=of, key=key):
                return self._item(of, key)
            case Call():
                return self._call(origin)

    def text(self, origin: Origin) -> str:
        """The text of the value at an origin."""
        text, value, _ = self.place(origin)
        return text or self._bind(value)

    def _attribute(self, of: Origin, name: str) -> tuple[str, Any, bool]:
        _, value, fixed = self.place(of)
        now = _absent(lambda: getattr(value, name))
        if fixed and any(isinstance(value, kind) and name in names for kind, names in _FIXED):
            return "", now, True
        if fixed and isinstance(value, CellType) and name == "cell_contents":
            return self._local(self._bind(None, value)), now, False
        table, text = _table(value, name), self.text(of)
        plain = f"{text}.{name}" if name.isidentifier() else f"{self._bind(getattr)}({text}, {name!r})"
        return self._local(plain if table is None else f"{text}.{table}[{name!r}]"), now, False

    def _item(self, of: Origin, key: Any) -> tuple[str, Any, bool]:
        _, value, fixed = self.place(of)
        now = _absent(lambda: value[key])
        if fixed and type(value) is tuple:
            return "", now, True
        if fixed and isinstance(of, Attribute) and of.name == "__globals__":
            names = self._spaces.setdefault(id(value), (value, []))[1]
            local = f"v{next(self._fresh)}"
            names.append((local, key))
            return local, now, False
        return self._local(f"{self.text(of)}[{self._constant(key)}]"), now, False

    def _call(self, call: Call) -> tuple[str, Any, bool]:
        args = [self._argument(arg) for arg in call.args]
        keywords = {name: self._argument(value) for name, value in call.keywords}
        now = _absent(lambda: call.function(*(value for _, value in args), **{name: value for name, (_, value) in keywords.items()}))
        texts = [text for text, _ in args]
        name = getattr(call.function, "__name__", "")
        rest = ", ".join((*texts[1:], *(f"{key}={text}" for key, (text, _) in keywords.items())))
        if call.function is getattr and isinstance(call.args[1], str):
            return self._local(f"{texts[0]}.{call.args[1]}"), now, False
        if args and isinstance(args[0][1], torch.Tensor) and name.isidentifier() and hasattr(torch.Tensor, name):
            return self._local(f"{texts[0]}.{name}({rest})"), now, False
        return self._local(f"{self._bind(call.function)}({', '.join(part for part in (*texts[:1], rest) if part)})"), now, False

    def _argument(self, arg: Any) -> tuple[str, Any]:
        if is_origin(arg):
            return self.text(arg), self.place(arg)[1]
        value = arg.value if isinstance(arg, Held) else arg
        return self._constant(value), value

    # ---- guards

    def _tested(self, origin: Origin, text: str, value: Any, fixed: bool) -> tuple[str, Any, bool]:
        for guard in self._tests[origin]:
            if guard.test == "same":
                continue  # once both are read
            if not fixed or not _holds(guard, value):
                self._refuse(self._condition(guard, text or self._bind(value)))
            if guard.test == "is":
                text, value, fixed = "", guard.value, True
        return text, value, fixed

    def _refuse(self, condition: str) -> None:
        self._lines.append(f"if {condition}: return None")

    def _condition(self, guard: Guard, text: str) -> str:
        match guard.test:
            case "is":
                return f"{text} is not {self._bind(guard.value)}"
            case "type":
                return f"type({text}) is not {self._bind(guard.value)}"
            case "equal":
                value = guard.value
                if value is None or type(value) is bool:
                    return f"{text} is not {value!r}"
                return f"{text} != {self._constant(value)} or type({text}) is not {self._bind(type(value))}"
            case "number":
                return f"type({text}) is not {self._bind(guard.value)}"
            case _:
                dtypes, rank = guard.value
                strided = f"{text}.layout is not {self._bind(torch.strided)}"
                return f"{text}.dim() != {rank} or {text}.dtype not in {self._bind(dtypes)} or {strided}"

    def _in_range(self, text: str, guard: Guard | None) -> str:
        """A number in the form that kernels take, after a test of its range."""
        if guard is None:
            return text
        if guard.value is bool:
            return text
        if guard.value is int:
            self._refuse(f"not {-_LARGEST} <= {text} < {_LARGEST}")
            return text
        self._refuse(f"{text} - {text} != 0.0")
        if self._compiled:
            return self._local(f"{self._bind(as_tensor)}({text})")
        last, scalar = f"v{next(self._fresh)}", self._bind(Scalar())
        self._lines.append(f"{last} = {scalar}.last")
        return self._local(f"{last}[1] if {last}[0] is {text} else {scalar}({text})")

    # ---- the function

    def function(self, given: Mapping[str, Any]) -> Reader:
        for guard in self._places.guards:
            self.place(guard.origin)
        numbers = {guard.origin: guard for guard in self._places.guards if guard.test == "number"}
        values = {name: self._in_range(self.text(origin), numbers.get(origin)) for name, origin in self._places.origins}
        for guard in self._places.guards:
            if guard.test == "same":
                (_, one, fixed), (_, other, also) = self.place(guard.origin), self.place(guard.value)
                if not (fixed and also and one is other):
                    self._refuse(f"{self.text(guard.origin)} is not {self.text(guard.value)}")
        items = ", ".join(f"{name!r}: {values.get(name) or self._bind(value)}" for name, value in given.items())
        body = [*self._of_globals(), *self._lines, f"return {{{items}}}"]
        return self._made("read", body, {"__builtins__": builtins, "__name__": __name__}, self._cells)

    def _of_globals(self) -> list[str]:
        """Globals are read by functions in their own namespace."""
        lines: list[str] = []
        for space, names in self._spaces.values():
            body = [f"return ({''.join(f'{name}, ' for _, name in names)})"]
            function = self._made("read_globals", body, space, {})
            lines.append(f"{''.join(f'{local}, ' for local, _ in names)} = {self._bind(function)}()")
        return lines

    def _made(self, name: str, body: list[str], space: dict[str, Any], cells: Mapping[str, CellType]) -> FunctionType:
        code = _code(name, tuple(body), tuple(cells))
        return FunctionType(code, space, name, None, tuple(cells[free] for free in code.co_freevars))


@functools.lru_cache(maxsize=256)
def _code(name: str, body: tuple[str, ...], cells: tuple[str, ...]) -> CodeType:
    """The code of a function with these free variables; equal texts are compiled once."""
    lines = "\n        ".join(body)
    text = f"def make({', '.join(cells)}):\n    def {name}():\n        {lines}\n    return {name}\n"
    module = compile(text, "<attngen places>", "exec")
    outer = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
    return next(constant for constant in outer.co_consts if isinstance(constant, CodeType))


def _holds(guard: Guard, value: Any) -> bool:
    match guard.test:
        case "is":
            return value is guard.value
        case "type" | "number":
            return type(value) is guard.value
        case "equal":
            return type(value) is type(guard.value) and bool(value == guard.value)
        case _:
            return False  # tensor metadata may change in place


def _absent(read: Callable[[], Any]) -> Any:
    """The current value, None if it cannot be read."""
    try:
        return read()
    except Exception:
        return None


def _table(value: Any, name: str) -> str | None:
    """The dict of a module that holds an attribute served by `torch.nn.Module.__getattr__`, which is ten times as slow."""
    if not isinstance(value, torch.nn.Module) or name in value.__dict__ or hasattr(type(value), name):
        return None
    if type(value).__getattr__ is not torch.nn.Module.__getattr__ or type(value).__getattribute__ is not object.__getattribute__:
        return None
    return next((table for table in ("_parameters", "_buffers", "_modules") if name in value.__dict__[table]), None)
