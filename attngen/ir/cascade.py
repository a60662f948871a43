"""Cascades: inputs, ordered single-assignment steps, outputs.

    cascade(q[b,h,m,d], k[b,h,n,d]; slopes: float[:])
      s[b,h,m,n] = sum[d] q[b,h,m,d] * k[b,h,n,d]
      x[b,h,m,n] = s[b,h,m,n] + slopes[h] * (n - m)  if m >= n
      -> x

A step is an extended einsum `name[axes] = reduce[over] body if where`. `where` is the mask: a reduction skips masked elements, and a value
computed from a masked element is masked too. Masking is never arithmetic with minus infinity.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from attngen.ir.expr import Expr, Kind
from attngen.ir.printer import print_expr
from attngen.source import SourceLoc

Reduce = Literal["sum", "max", "logsumexp"]
IDENTITY: dict[Reduce, float] = {"sum": 0.0, "max": float("-inf"), "logsumexp": float("-inf")}


@dataclass(frozen=True, slots=True)
class Input:
    """An input tensor. An argument has `axes`, one name per dimension. A capture has `axes=None` and is indexed freely; `number` marks a
    captured Python number, which has no gradient."""

    name: str
    axes: tuple[str, ...] | None
    rank: int
    kind: Kind = "float"
    number: bool = False

    @property
    def by_value(self) -> bool:
        """Whether kernels take it by value. A float is passed by pointer: Triton would round it to 32 bits."""
        return self.number and self.kind != "float"

    @property
    def differentiable(self) -> bool:
        """Whether it can have a gradient."""
        return self.kind == "float" and not self.number

    def __str__(self) -> str:
        """`q[b,h,m,d]`, `slopes: float[:]`, or `window: int` for a Python number."""
        if self.axes is not None:
            suffix = "" if self.kind == "float" else f": {self.kind}"
            return f"{self.name}[{','.join(self.axes)}]{suffix}"
        return f"{self.name}: {self.kind}" + ("" if self.number else f"[{', '.join(':' * self.rank)}]")


def operand_of(inputs: Iterable[Input], features: Collection[str]) -> Input:
    """The first argument with a feature axis: its dtype is that of dot operands. Arguments without features may have another."""
    floats = [item for item in inputs if item.axes is not None and item.kind == "float"]
    return next((item for item in floats if set(item.axes or ()) & set(features)), floats[0])


def without_features(inputs: Iterable[Input], features: Collection[str]) -> tuple[Input, ...]:
    """Float arguments without a feature axis, which kernels read in the accumulator's dtype."""
    return tuple(item for item in inputs if item.axes is not None and item.kind == "float" and not set(item.axes) & set(features))


def arguments_first(inputs: Iterable[Input]) -> tuple[Input, ...]:
    """Inputs in printing order: arguments before captures."""
    return tuple(sorted(inputs, key=lambda item: item.axes is None))


@dataclass(frozen=True, slots=True)
class Einsum:
    """One step. `loc` is the user's line; it takes no part in equality, so identical variants of two users are equal."""

    name: str
    axes: tuple[str, ...]
    body: Expr
    reduce: Reduce | None = None
    over: tuple[str, ...] = ()
    where: Expr | None = None
    loc: SourceLoc | None = field(default=None, compare=False)

    @property
    def called(self) -> str:
        """Its name in messages: the user's variable name if known."""
        return self.loc.called if self.loc is not None and self.loc.called else self.name

    def __str__(self) -> str:
        """`name[axes] = reduce[over] body  if where`."""
        axes = f"[{','.join(self.axes)}]" if self.axes else ""
        reduce = f"{self.reduce}[{','.join(self.over)}] " if self.reduce else ""
        where = f"  if {print_expr(self.where)}" if self.where is not None else ""
        return f"{self.name}{axes} = {reduce}{print_expr(self.body)}{where}"


@dataclass(frozen=True, slots=True)
class Cascade:
    """The whole program. Outputs name steps (or, in a backward cascade, inputs)."""

    inputs: tuple[Input, ...]
    steps: tuple[Einsum, ...]
    outputs: tuple[str, ...]

    def step(self, name: str) -> Einsum | None:
        """The step of that name, or None for an input."""
        return next((step for step in self.steps if step.name == name), None)

    def input(self, name: str) -> Input | None:
        """The input of that name, or None for a step."""
        return next((item for item in self.inputs if item.name == name), None)

    def axes(self, name: str) -> tuple[str, ...]:
        """Axes of a step or of an argument; () for a capture, which is indexed freely."""
        step = self.step(name)
        if step is not None:
            return step.axes
        item = self.input(name)
        if item is None:
            raise KeyError(name)
        return item.axes or ()

    def __str__(self) -> str:
        """One line for the inputs, one a step, one for the outputs. `parser.parse` reads it back."""
        arguments = ", ".join(str(item) for item in self.inputs if item.axes is not None)
        captures = ", ".join(str(item) for item in self.inputs if item.axes is None)
        head = f"cascade({arguments}; {captures})" if captures else f"cascade({arguments})"
        lines = [head, *(f"  {step}" for step in self.steps), f"  -> {', '.join(self.outputs)}"]
        return "\n".join(lines)
