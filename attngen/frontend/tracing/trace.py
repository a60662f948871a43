"""The state of one trace: names, captured values, steps.

Takes tensors, numbers and bodies from the tracer; gives the inputs and steps of a cascade. Values carry their trace: there is no global
current trace.
"""

from __future__ import annotations

import functools
import keyword
import math
import operator
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from attngen.errors import AxisError, CaptureError, NaNConstant
from attngen.frontend.captures.origins import Guard, Origin, called
from attngen.frontend.captures.reader import Places
from attngen.frontend.captures.retrace import Roots, Tracing
from attngen.frontend.spec import Capture
from attngen.frontend.tracing.shared_values import replace_parts, shared_values
from attngen.frontend.tracing.user_frames import Place, assigned, locate, user_frame
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.expr import OPS, Const, Expr, Index, Kind, Read, kind_of
from attngen.ir.masks import lift_masks
from attngen.ir.traverse import extents, free_axes, live_steps, rewrite, step_reads
from attngen.ir.verify import TracedForm, verify
from attngen.source import naming

RESERVED = frozenset((*keyword.kwlist, *OPS, "cascade", "extent", "first", "inf", "last", "logsumexp", "sum", "tl", "torch", "triton"))
# Prefixes of the names for extrema of captured tensors over a tile.
_OF_TILES = ("least_", "most_")
NARROW = {torch.uint8: 8, torch.int8: 8, torch.int16: 16}
"""Integer dtypes that wrap around, with their bits."""
_INT64 = range(-(2**63), 2**63)


class NeedsValue(BaseException):
    """Python needs the values of captured scalars. Not an `Exception`, so that the user's `except Exception` does not swallow it."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__("a captured number is needed while tracing")
        self.names = frozenset(names)


class Trace:
    """The state of one trace.

    Args:
        arguments: tensors passed at each call.
        axes: every axis, in the order in which the axes of a step are listed.
        reserved: further names that captures and steps may not take.
    """

    def __init__(self, arguments: tuple[Input, ...], axes: tuple[str, ...], reserved: Iterable[str] = ()) -> None:
        self.arguments = arguments
        self.axes = axes
        self.steps: list[Einsum] = []
        self.kept: set[str] = set()
        self.created: dict[int, torch.Tensor] = {}
        self.named: dict[Expr, Expr] = {}
        self.places: dict[Expr, Place] = {}
        of_tiles = {f"{end}_{axis}" for axis in axes for end in ("first", "last")}
        self._taken = {item.name for item in arguments} | set(axes) | set(reserved) | of_tiles
        self._inputs: dict[str, Input] = {}
        self._values: dict[str, torch.Tensor | bool | int] = {}
        self._tensors: dict[int, tuple[torch.Tensor, str]] = {}
        self._hints: dict[int, tuple[torch.Tensor, str]] = {}
        self._numbers: dict[Hashable, Read] = {}
        self._keys: dict[str, Any] = {}
        self._origins: dict[int, tuple[torch.Tensor, Origin]] = {}
        self._sizes: dict[str, tuple[torch.Tensor, int]] = {}
        self._guards: dict[Hashable, Guard] = {}
        self._features: dict[int, str] = {}
        self._placeholders = 0
        self._draws = 0
        self.seed: str | None = None

    def fresh(self, hint: str, first: int = 0) -> str:
        """An unused name as close to `hint` as possible; numbered from `first` if that is not 0."""
        base = re.sub(r"\W", "_", hint, flags=re.ASCII).strip("_") or "captured"
        base = f"c{base}" if base[0].isdigit() or base.startswith(_OF_TILES) else base
        separator = "_" if base[-1].isdigit() else ""
        count = first or 1
        name = f"{base}{first}" if first else base
        while name in self._taken or name in RESERVED:
            count += 1
            name = f"{base}{separator}{count}"
        self._taken.add(name)
        return name

    def release(self, name: str) -> None:
        """Make a name available again."""
        self._taken.discard(name)

    def placeholder(self) -> str:
        """An axis name for a dimension of a captured tensor that is not yet indexed. It never occurs in a step."""
        self._placeholders += 1
        return f"${self._placeholders}"

    def feature(self, size: int) -> str:
        """The contraction axis of captured rows of that length."""
        if size not in self._features:
            self._features[size] = self.fresh("f")
        return self._features[size]

    def hint(self, tensor: torch.Tensor, name: str) -> None:
        """Record the user's name of a tensor; the first name wins."""
        self._hints.setdefault(id(tensor), (tensor, name))

    def hint_of(self, tensor: torch.Tensor) -> str:
        """The user's name of a tensor: that of its capture, or of a local variable that holds it."""
        if id(tensor) in self._hints:
            return self._hints[id(tensor)][1]
        frame = user_frame()
        names = [] if frame is None else [name for name, value in frame.f_locals.items() if value is tensor]
        return names[0] if names else "captured"

    def locate(self, tensor: torch.Tensor, origin: Origin, name: str) -> None:
        """Record the origin and the user's name of a captured tensor. A tensor with two origins is one capture, guarded to stay so."""
        self.hint(tensor, name)
        _, first = self._origins.setdefault(id(tensor), (tensor, origin))
        if first != origin:
            self.guard(Guard("same", origin, first))
        with torch._C.DisableTorchFunction():
            dense = tensor.layout == torch.strided and not tensor.is_complex() and not tensor.is_quantized
            self.guard(Guard("tensor", origin, (alike(tensor.dtype), tensor.dim())) if dense else Guard("is", origin, tensor))

    def origin_of(self, tensor: torch.Tensor) -> Origin | None:
        """The origin of a captured tensor; None for one created by the traced function."""
        return self._origins[id(tensor)][1] if id(tensor) in self._origins else None

    def guard(self, guard: Guard) -> None:
        """Record a condition on which the trace depends."""
        self._guards.setdefault((guard.test, guard.origin) if guard.test != "same" else (guard.test, (guard.origin, guard.value)), guard)

    def observe(self, axes: Iterable[str]) -> None:
        """Guard the lengths of these dimensions of captured tensors, given by their placeholders."""
        for axis in axes:
            tensor, dimension = self._sizes.get(axis.partition(".")[0], (None, 0))
            origin = None if tensor is None else self.origin_of(tensor)
            if tensor is not None and origin is not None:
                self.guard(Guard("equal", called(torch.Tensor.size, origin, dimension), tensor.size(dimension)))

    def dimensions(self, tensor: torch.Tensor) -> tuple[tuple[str, int], ...]:
        """A placeholder and the length of each dimension of a captured tensor."""
        found = tuple((self.placeholder(), size) for size in tensor.shape)
        self._sizes.update({axis: (tensor, dimension) for dimension, (axis, _) in enumerate(found)})
        return found

    def is_negative(self, name: str) -> bool:
        """The sign of a captured number, with a guard on it."""
        negative, origin = self.value_of(name) < 0, self._keys[name]
        self.guard(Guard("equal", called(operator.lt, origin, 0), negative))
        return negative

    def constant(self, tensor: torch.Tensor) -> Const | None:
        """The literal in a 0-d tensor created by the traced function."""
        if id(tensor) not in self.created or tensor.dim() != 0:
            return None
        return literal(tensor.item())

    def capture(self, tensor: torch.Tensor) -> Input:
        """The input for a tensor object, one each. Called without interception, so that its queries of the tensor are not traced."""
        if id(tensor) in self._tensors:
            return self._inputs[self._tensors[id(tensor)][1]]
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise CaptureError(f"a captured tensor is {tensor.dtype}, {tensor.layout}", remedy="Capture dense float, int or bool tensors.")
        name = self.fresh(self.hint_of(tensor))
        item = Input(name, None, tensor.dim(), kind_of_dtype(tensor.dtype))
        if (origin := self.origin_of(tensor)) is not None:
            self._keys[name] = origin
        self._tensors[id(tensor)] = (tensor, name)
        self._inputs[name] = item
        self._values[name] = tensor
        return item

    def number(self, key: Hashable, hint: str, value: bool | int | float) -> Read | None:
        """A captured Python number as a run-time scalar; None where it must stay a literal (infinities, beyond 64 bits)."""
        if key in self._numbers:
            return self._numbers[key]
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, int) and value not in _INT64):
            return None
        name = self.fresh(hint)
        kind: Kind = literal(value).kind
        self._inputs[name] = Input(name, None, 0, kind, number=True)
        self._values[name] = torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
        self._keys[name] = key
        self._numbers[key] = Read(name, (), kind)
        return self._numbers[key]

    def draw(self) -> tuple[Read, int]:
        """The seed passed at each call, and the number of this draw."""
        if self.seed is None:
            item = Input(self.fresh("seed"), None, 0, "int")
            self.seed = item.name
            self._inputs[item.name] = item
            self._values[item.name] = torch.zeros((), dtype=torch.int64)
        self._draws += 1
        return Read(self.seed, (), "int"), self._draws - 1

    def seed_of(self, cascade: Cascade) -> str | None:
        """The seed, if an output of the finished cascade depends on it."""
        return self.seed if self.seed is not None and cascade.input(self.seed) is not None else None

    def value_of(self, name: str) -> bool | int | float:
        """The current value of a captured number."""
        value = self._values[name]
        return value.item() if isinstance(value, torch.Tensor) else value

    def key_of(self, name: str) -> Hashable:
        """The origin of a captured number."""
        return self._keys[name]

    def order(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Axes in the order of the signature, features last."""
        given = set(axes)
        features = (axis for axis in self._features.values() if axis in given)
        return (*(axis for axis in self.axes if axis in given), *features)

    def add(self, step: Einsum) -> Read:
        """Append a step, with named subexpressions replaced by reads.

        Returns:
            A read of the step at its own axes, or of an equal earlier reduction.

        Raises:
            AxisError: a position or a length along an axis that no argument has.
        """
        where = None if step.where is None else self.use_names(step.where)
        step = replace(step, body=self.use_names(step.body), where=where)
        self._check_axes(step)
        for earlier in self.steps:
            if step.reduce is not None and replace(earlier, name=step.name) == step:
                self.release(step.name)
                return build.read(earlier.name, earlier.axes, kind_of(earlier.body))
        self.steps.append(step)
        return build.read(step.name, step.axes, kind_of(step.body))

    def _check_axes(self, step: Einsum) -> None:
        known = {*self.axes, *self._features.values()}
        for expr in (step.body, step.where):
            for axis in (*free_axes(expr), *extents(expr)):
                if axis.startswith("$"):
                    raise CaptureError(
                        "a captured tensor is used with fewer indices than it has dimensions", remedy="Index every dimension."
                    )
                if axis not in known:
                    raise AxisError(f"no argument has an axis {axis!r}", remedy=f"The axes are {', '.join(self.axes)}.")

    def find(self, expr: Expr) -> Einsum | None:
        """The step that an expression reads, at its own axes and no other positions."""
        if not isinstance(expr, Read):
            return None
        step = next((step for step in self.steps if step.name == expr.tensor), None)
        return step if step is not None and expr.at == tuple(Index(axis) for axis in step.axes) else None

    def use_names(self, expr: Expr) -> Expr:
        """The expression with every named subexpression replaced by a read of its step."""
        return replace_parts(expr, self.named) if self.named else expr

    def lift_masks(self, outputs: tuple[str, ...]) -> None:
        """Lift masks in the bodies of the steps so far into their predicates."""
        inputs = (*self.arguments, *self._inputs.values())
        self.steps[:] = lift_masks(Cascade(inputs, live_steps(Cascade((), tuple(self.steps), outputs)), outputs)).steps

    def name_shared_values(self) -> None:
        """Give what long bodies use more than once steps of their own, under the names of the user's variables where they have any. After
        masks are lifted: they are predicates of the values that the user computed, not of parts."""
        named: dict[Expr, Expr] = {}
        steps: list[Einsum] = []
        for step in self.steps:
            for value in shared_values(step.body, named, self._inputs.__contains__):
                place = self.places.get(value)
                variable = assigned(place)
                name = self.fresh(variable or f"{step.name}_part")
                body = replace_parts(value, named)
                axes = self.order(free_axes(body))
                steps.append(Einsum(name, axes, body, loc=naming(locate(place) or step.loc, variable or name)))
                named[value] = build.read(name, axes)
            steps.append(replace(step, body=replace_parts(step.body, named)))
        self.steps[:] = steps

    def finish(self, outputs: tuple[str, ...]) -> tuple[Cascade, tuple[Capture, ...]]:
        """The cascade of the live steps, and the captured values in order of first use."""
        steps = live_steps(Cascade((), tuple(self.steps), outputs))
        used = dict.fromkeys(name for step in steps for name in step_reads(step) if name in self._inputs)
        inputs = (*self.arguments, *(self._inputs[name] for name in used))
        return verify(Cascade(inputs, steps, outputs), TracedForm), tuple(Capture(name, self._values[name]) for name in used)

    def tracing(self, captures: tuple[Capture, ...], roots: Mapping[str, Any], again: Callable[[Mapping[str, Any]], Any]) -> Tracing:
        """The tracing record of the spec.

        Args:
            captures: of the finished cascade.
            roots: the user's objects by role.
            again: traces other objects.
        """
        origins = tuple((capture.name, self._keys[capture.name]) for capture in captures if capture.name in self._keys)
        return Tracing(Roots(roots), Places(origins, tuple(self._guards.values())), again)


def literal(value: bool | int | float) -> Const:
    """A Python number as a constant.

    Raises:
        NaNConstant: the value is not a number.
    """
    if isinstance(value, float) and math.isnan(value):
        raise NaNConstant("a constant is NaN", remedy="Use where() to choose the elements that have a value.")
    if isinstance(value, bool):
        return Const(value, "bool")
    return Const(int(value), "int") if isinstance(value, int) else Const(float(value), "float")


@functools.cache
def alike(dtype: torch.dtype) -> frozenset[torch.dtype]:
    """The dtypes of a captured tensor with the same trace: all of its kind, except that integers that wrap are only themselves."""
    if dtype in NARROW:
        return frozenset((dtype,))
    every = {value for value in vars(torch).values() if isinstance(value, torch.dtype) and not value.is_complex}
    return frozenset(other for other in every - NARROW.keys() if kind_of_dtype(other) == kind_of_dtype(dtype))


def kind_of_dtype(dtype: torch.dtype) -> Kind:
    """float, int or bool."""
    if dtype == torch.bool:
        return "bool"
    return "float" if dtype.is_floating_point else "int"


def substitute(expr: Expr, mapping: dict[str, Expr]) -> Expr:
    """The expression with positions along some axes replaced."""
    if not mapping:
        return expr
    return rewrite(expr, lambda node: mapping.get(node.axis) if isinstance(node, Index) else None)
