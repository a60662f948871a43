"""The `Spec` that front ends give to the compiler: a traced cascade, the layout of call arguments, and the captured values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

import torch

from attngen.errors import ArgumentError, CaptureError
from attngen.frontend.block_sparse import BlockTable
from attngen.frontend.captures.retrace import Tracing
from attngen.frontend.token_order import Order
from attngen.ir.cascade import Cascade
from attngen.ir.expr import Index
from attngen.ir.traverse import reads

Pattern = tuple[tuple[str, ...], ...]
"""One entry a dimension of the user's tensor; an entry of several axes is a composite dimension: "b (g r) m d"."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A tensor passed at each call: its name and the axes of its dimensions."""

    name: str
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Capture:
    """A value captured by the user's functions, as of the trace, by its name in the cascade. Calls read it anew (`Spec.tracing`)."""

    name: str
    value: torch.Tensor | bool | int


@dataclass(frozen=True, slots=True)
class Spec:
    """An attention variant, ready to compile.

    Attributes:
        name: a legal identifier, from the user's function names.
        cascade: the traced cascade (TracedForm); its outputs are in the order of `outputs`.
        arguments: in call order.
        outputs: name and pattern of each result, in return order.
        on_request: outputs that a call returns only when asked (`return_lse=True`).
        keys: names of the results when the user's function returned a dict, else None.
        blocks: the table that its mask looks up, which is for certain lengths.
        order: in which the user wants kernels to take the tokens, queries and keys alike; None as they come.
        reordered: the same variant with tokens in an order that its mask suggests, for `compile` to choose; `pairs` are the queries times
            keys in tiles that hold anything, in this order and in that one.
        seed: the captured integer that decides what dropout drops; each call brings another value. None without dropout.
        captures: values behind the captured inputs. A captured Python float is a 0-d float64 tensor; a Python int or bool stays one.
        tracing: where calls read them, what the trace relied on, and how to trace again; None for a cascade that was not traced.
    """

    name: str
    cascade: Cascade
    arguments: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    captures: tuple[Capture, ...]
    on_request: tuple[str, ...] = ()
    keys: tuple[str, ...] | None = None
    seed: str | None = None
    blocks: BlockTable | None = field(default=None, compare=False)
    order: Order | None = field(default=None, compare=False)
    reordered: Spec | None = field(default=None, compare=False)
    pairs: tuple[int, int] | None = field(default=None, compare=False)
    source: tuple[str, ...] = field(default=(), compare=False)
    tracing: Tracing | None = field(default=None, compare=False)

    def __copy__(self) -> Spec:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Spec:
        other = None if self.reordered is None else self.reordered.__deepcopy__(memo)
        return self if self.tracing is None else replace(self, tracing=self.tracing.copied(memo), reordered=other)

    def __reduce__(self) -> tuple[Any, ...]:
        now = current(self)[0]
        tracing = None if now.tracing is None else now.tracing.plain()
        blocks = None if now.blocks is None else replace(now.blocks, mask_mod=None)
        plain = replace(now, tracing=tracing, blocks=blocks)
        return Spec, tuple(getattr(plain, item.name) for item in fields(plain))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """A spec is no function yet.

        Raises:
            ArgumentError
        """
        raise ArgumentError(
            f"{self.name} is a spec, a description of attention, and was called",
            remedy="Compile it first: attend = attngen.compile(spec), then attend(...).",
        )


def current(spec: Spec) -> tuple[Spec, dict[str, Any]]:
    """The spec as its captures decide it now, with their values: the same one unless something changed that its trace relied on.

    Raises:
        CaptureError: it has to be traced again, and what was traced is gone.
    """
    values = read(spec)
    if values is None:
        spec = retraced(spec)
        values = read(spec) or {capture.name: capture.value for capture in spec.captures}
    return replace(spec, captures=tuple(Capture(name, value) for name, value in values.items())), values


def read(spec: Spec) -> dict[str, Any] | None:
    """The values of the captures; None where the spec has to be traced again."""
    given = {capture.name: capture.value for capture in spec.captures}
    try:
        return given if spec.tracing is None else spec.tracing.reader(given)()
    except Exception:  # something is gone, or a property of the user's fails: tracing again says so at their line
        return None


def retraced(spec: Spec) -> Spec:
    """The same variant, traced again.

    Raises:
        CaptureError: what was traced is gone.
    """
    tracing = spec.tracing
    if tracing is None or tracing.again is None:
        raise CaptureError(
            f"something that decides what {spec.name} computes has changed, and its functions were lost when it was pickled",
            remedy="Pickle functions of a module's top level or methods, not lambdas or local functions.",
        )
    found: Spec = tracing.again(tracing.roots.objects)
    return replace(found, name=spec.name, blocks=spec.blocks, pairs=spec.pairs, reordered=None)


def with_lse(spec: Spec) -> Spec:
    """The same variant with its one logsumexp as an extra output.

    Raises:
        ArgumentError: it has none, several, or returns it anyway.
    """
    steps = [step for step in spec.cascade.steps if step.reduce == "logsumexp"]
    if len(steps) != 1:
        raise ArgumentError(
            f"return_lse needs exactly one logsumexp in the spec, {spec.name} has {len(steps)}",
            remedy="Return the statistics you want from the cascade's function.",
        )
    step = steps[0]
    if step.name in spec.cascade.outputs:
        raise ArgumentError(f"{spec.name} returns its logsumexp {step.name} anyway", remedy="Leave return_lse out.")
    cascade = replace(spec.cascade, outputs=(*spec.cascade.outputs, step.name))
    output = Argument(step.name, tuple((axis,) for axis in step.axes))
    keys = (*spec.keys, "lse") if spec.keys is not None else None
    return replace(spec, cascade=cascade, outputs=(*spec.outputs, output), on_request=(step.name,), keys=keys)


def captured_lengths(spec: Spec) -> dict[str, int]:
    """Lengths of the axes that captured tensors alone have: the features of captured rows."""
    tensors = {capture.name: capture.value for capture in spec.captures if isinstance(capture.value, torch.Tensor)}
    given = {axis for item in spec.cascade.inputs for axis in item.axes or ()}
    found: dict[str, int] = {}
    for step in spec.cascade.steps:
        for read in reads(step.body):
            for at, size in zip(read.at, tensors[read.tensor].shape if read.tensor in tensors else (), strict=False):
                if isinstance(at, Index) and at.axis not in given:
                    found.setdefault(at.axis, size)
    return found
