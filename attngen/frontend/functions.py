"""The vocabulary of cascade bodies: contractions, reductions along named axes, positions, masks and pointwise functions.

Takes and gives traced values. Axes align by name. A reduction becomes a step, located at the user's line; pointwise operations stay an
expression until it has to be a step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch

from attngen.errors import AxisError, SpecError, TraceError
from attngen.frontend import patterns
from attngen.frontend.torch_functions.pointwise import cast, number
from attngen.frontend.tracing.partial_index import PartialIndex, broadcast
from attngen.frontend.tracing.trace import RESERVED, Trace
from attngen.frontend.tracing.tracer import Traced, lift, pointwise
from attngen.frontend.tracing.user_frames import Place, assigned, locate, user_place
from attngen.ir import build
from attngen.ir.cascade import Einsum, Reduce
from attngen.ir.expr import Apply, Expr, Extent, Index
from attngen.ir.traverse import free_axes
from attngen.source import naming

Align = Literal["top_left", "bottom_right"]


# Reductions


def einsum(subscripts: str, *operands: Any, name: str | None = None) -> Traced:
    """Multiply operands and sum over the axes that the result lacks.

    Args:
        subscripts: a pattern for each operand, then the result: "b h m d, b h n d -> b h m n". The axes of an operand may be in any
            order, except that those of a captured tensor name its dimensions. The result's pattern is the layout of an output.
        operands: traced values and captured tensors.
        name: the name of the step.

    Returns:
        A value with the axes of the result.

    Raises:
        AxisError: the axes of an operand differ from those of its pattern.
    """
    if not isinstance(subscripts, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError("einsum takes the patterns first, then the operands", remedy='Write attngen.einsum("b m d, b n d -> b m n", q, k).')
    left, arrow, right = subscripts.partition("->")
    inputs = [patterns.parse(part) for part in left.split(",")]
    if not arrow or len(inputs) != len(operands):
        raise SpecError(
            f"einsum({subscripts!r}) with {len(operands)} operands",
            remedy=f'Write one pattern for each operand, {len(operands)} in all, and the result: "m d, n d -> m n".',
        )
    output = patterns.parse(right)
    trace = _trace_of(*operands)
    factors = [_operand(value, patterns.flat(pattern), trace) for value, pattern in zip(operands, inputs, strict=True)]
    available = tuple(dict.fromkeys(axis for pattern in inputs for axis in patterns.flat(pattern)))
    axes = patterns.flat(output)
    if missing := [axis for axis in axes if axis not in available]:
        remedy = patterns.hint(missing, available) or "Drop it, or multiply by a value that has it."
        raise AxisError(f"the result of einsum has {_words(missing)}, which no operand has", remedy=remedy)
    body = factors[0]
    for factor in factors[1:]:
        body = build.mul(body, factor)
    over = tuple(axis for axis in available if axis not in axes)
    step = Einsum(_step_name(trace, name, "t"), axes, body, "sum" if over else None, over)
    value = _add(trace, step, name or assigned(user_place()) or "einsum(...)")
    return Traced(value.expr, trace, layout=output)


def sum(x: Any, over: str, *, name: str | None = None) -> Traced:
    """The sum along one or more axes ("n", "n d")."""
    return _reduced("sum", x, over, name, "t")


def max(x: Any, over: str, *, name: str | None = None) -> Traced:
    """The largest value along one or more axes; minus infinity over no elements."""
    return _reduced("max", x, over, name, "t")


def logsumexp(x: Any, over: str, *, name: str | None = None) -> Traced:
    """log(sum(exp(x))) along one or more axes; minus infinity over no elements."""
    return _reduced("logsumexp", x, over, name, "lse")


def softmax(x: Any, over: str, *, name: str | None = None) -> Traced:
    """exp(x - logsumexp(x)) along one or more axes; 0 at masked elements."""
    _removed("softmax", _value(x), over)
    x = _named(_value(x), "x", "softmax")
    result = exp(x - _reduced("logsumexp", x, over, None, "lse", "softmax"))
    return result if name is None else _named(result, name, "softmax", chosen=True)


def _add(trace: Trace, step: Einsum, called: str, place: Place | None = None) -> Traced:
    """A step with its name in messages, located where its value was computed, else at the running line."""
    return Traced(trace.add(replace(step, loc=naming(locate(place or user_place()), called))), trace)


def _removed(called: str, value: Traced, over: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The axes of a value, and those that a reduction removes."""
    axes = axes_of(value.expr, _trace_of(value))
    removed = patterns.flat(patterns.parse(over))
    if not removed:
        raise AxisError(f"{called} over no axis", remedy=f"Name one: over={axes[-1]!r}." if axes else "The value has none.")
    if missing := [axis for axis in removed if axis not in axes]:
        remedy = patterns.hint(missing, axes) or f"Reduce over axes of the value, as in over={axes[-1:] and axes[-1]!r}."
        raise AxisError(f"{called} over {_words(missing)}, but the value has {_words(axes) or 'no axes'}", remedy=remedy)
    return axes, removed


def _reduced(reduce: Reduce, x: Any, over: str, name: str | None, hint: str, called: str = "") -> Traced:
    given, called = _value(x), called or reduce
    trace = _trace_of(given)
    axes, removed = _removed(called, given, over)
    value = Traced(number(given.expr) if reduce == "sum" else cast(given.expr, "float"), trace)
    value.place = given.place
    body = value.expr if reduce == "sum" else _named(value, "x", called).expr
    kept = tuple(axis for axis in axes if axis not in removed)
    called = name or assigned(user_place()) or f"{called}(...)"
    return _add(trace, Einsum(_step_name(trace, name, hint), kept, body, reduce, removed), called)


def _operand(value: Any, axes: tuple[str, ...], trace: Trace) -> Expr:
    """A factor of an einsum, named if it is more than a read."""
    lifted = lift(value, trace)
    if lifted.dims:
        return _bound(lifted, axes, trace)
    own = axes_of(lifted.expr, trace)
    if set(own) != set(axes):
        remedy = patterns.hint(axes, own) or patterns.hint(own, axes) or "Name exactly the axes it has."
        raise AxisError(f"an operand of einsum has {_words(own)}, its pattern names {_words(axes)}", remedy=remedy)
    return _named(lifted, "t", "einsum").expr


def _bound(value: Traced, axes: tuple[str, ...], trace: Trace) -> Expr:
    """A captured tensor with its dimensions, in order, along named axes. An axis that no argument has is created."""
    if len(axes) != len(value.dims):
        raise AxisError(f"a captured tensor with {len(value.dims)} dimensions, its pattern names {_words(axes)}", remedy="Name each once.")
    trace.axes += tuple(axis for axis in axes if axis not in trace.axes)
    named = PartialIndex(build.ZERO, tuple((axis, size) for axis, (_, size) in zip(axes, value.dims, strict=True)))
    return broadcast([named, PartialIndex(value.expr, value.dims)])[0][1]


def _named(value: Traced, hint: str, taker: str, *, chosen: bool = False) -> Traced:
    """The value as a step or an argument: itself if it is one, else a new step, for the function `taker`."""
    trace = _trace_of(value)
    expr = trace.use_names(value.expr)
    if not isinstance(expr, Apply) and not chosen:
        return Traced(expr, trace)
    name = _step_name(trace, hint if chosen else None, hint)
    called = name if chosen else assigned(value.place) or f"the operand of {taker}(...)"
    result = _add(trace, Einsum(name, axes_of(expr, trace), value.expr), called, value.place)
    trace.named[value.expr] = result.expr
    return result


def _step_name(trace: Trace, name: str | None, hint: str) -> str:
    if name is None:
        return trace.fresh(hint, first=1 if hint == "t" else 0)
    if not isinstance(name, str) or not (name.isascii() and name.isidentifier()) or name in RESERVED:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SpecError(f"{name!r} is not a legal name for a step", remedy="Use letters, digits and underscores.")
    fresh = trace.fresh(name)
    if fresh != name:
        raise SpecError(f"the name {name!r} is taken", remedy=f"Choose another, such as {fresh!r}.")
    trace.kept.add(name)
    return name


def axes_of(expr: Expr, trace: Trace) -> tuple[str, ...]:
    """The axes of a value, in the order of the signature."""
    axes = free_axes(expr)
    if unknown := [axis for axis in axes if axis not in trace.axes]:
        if unknown[0].startswith("$"):
            raise AxisError("a captured tensor has no named axes", remedy='Index it with attngen.index("..."), or pass it to einsum.')
        raise AxisError(f"no argument has an axis {unknown[0]!r}", remedy=f"The axes are {', '.join(trace.axes)}.")
    return trace.order(axes)


def _value(x: Any) -> Traced:
    return lift(x, None)


def traced(x: Any) -> tuple[Traced, Trace]:
    """A value of a cascade and its trace."""
    value = _value(x)
    return value, _trace_of(value)


def _trace_of(*values: Any) -> Trace:
    for value in values:
        if type(value) is Traced and value.trace is not None:
            return value.trace
    for value in values:
        if type(value) is Traced:
            with suppress(TraceError):
                found: Any = torch.positive(value)  # type: ignore[arg-type]  # the interception knows the trace
                if found.trace is not None:
                    return found.trace
    raise SpecError("values that are not part of a cascade", remedy="Call it inside a function under @attngen.cascade.")


def _words(axes: list[str] | tuple[str, ...]) -> str:
    return " ".join(axes)


# Positions, lengths and masks


def index(axis: str) -> Traced:
    """The position along an axis; along a composite one, "(g r)", the position in the user's tensor."""
    names = patterns.flat(patterns.parse(axis))
    if not names:
        raise AxisError("index() of no axis", remedy='Name one, as in index("m").')
    position: Expr = Index(names[0])
    for name in names[1:]:
        position = build.add(build.mul(position, Extent(name)), Index(name))
    return Traced(position)


def extent(axis: str) -> Traced:
    """The length of an axis, or of a composite one."""
    length: Expr = build.const(1)
    for name in patterns.flat(patterns.parse(axis)):
        length = build.mul(length, Extent(name))
    return Traced(length)


def causal(q_axis: str, kv_axis: str, *, align: Align | None = None) -> Traced:
    """Whether a query may see a key: the key is not later.

    Args:
        q_axis: axis of the queries.
        kv_axis: axis of the keys.
        align: "top_left": the first query meets the first key (SDPA); "bottom_right": the last meets the last (flash-attn).

    Raises:
        SpecError: `align` is missing or unknown.
    """
    return _aligned(q_axis, kv_axis, align) >= index(kv_axis)


def sliding_window(q_axis: str, kv_axis: str, size: Any, *, align: Align | None = None) -> Traced:
    """Causal, and among the `size` last keys up to the query's own position."""
    distance = _aligned(q_axis, kv_axis, align) - index(kv_axis)
    return causal(q_axis, kv_axis, align=align) & (distance < size)


def _aligned(q_axis: str, kv_axis: str, align: Align | None) -> Traced:
    if align == "top_left":
        return index(q_axis)
    if align == "bottom_right":
        return index(q_axis) + extent(kv_axis) - extent(q_axis)
    raise SpecError(
        f"align={align!r} does not align queries and keys",
        remedy='Pass align="top_left" (as SDPA) or align="bottom_right" (as flash-attn).',
    )


# Pointwise


def _pointwise(name: str, meaning: str) -> Callable[..., Traced]:
    def function(*args: Any, **options: Any) -> Traced:
        return pointwise(name, *args, **options)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = meaning
    return function


exp = _pointwise("exp", "e ** x.")
exp2 = _pointwise("exp2", "2 ** x.")
log = _pointwise("log", "Natural logarithm.")
log2 = _pointwise("log2", "Logarithm to base 2.")
sqrt = _pointwise("sqrt", "Square root.")
rsqrt = _pointwise("rsqrt", "1 / sqrt(x).")
sin = _pointwise("sin", "Sine.")
cos = _pointwise("cos", "Cosine.")
erf = _pointwise("erf", "The error function.")
tanh = _pointwise("tanh", "Hyperbolic tangent.")
sigmoid = _pointwise("sigmoid", "1 / (1 + exp(-x)).")
softplus = _pointwise("softplus", "log(1 + exp(x)).")
relu = _pointwise("relu", "max(x, 0), with derivative 0 at 0.")
gelu = _pointwise("gelu", 'x times the normal CDF; approximate="tanh" for the approximation.')
silu = _pointwise("silu", "x * sigmoid(x).")
abs = _pointwise("abs", "Absolute value, with derivative 0 at 0.")
floor = _pointwise("floor", "Rounded down.")
minimum = _pointwise("minimum", "The smaller of two values.")
maximum = _pointwise("maximum", "The larger of two values.")
clamp = _pointwise("clamp", "clamp(x, min=None, max=None).")
where = _pointwise("where", "where(condition, a, b). where(condition, x, -inf) under a softmax is a mask.")
logaddexp = _pointwise("logaddexp", "log(exp(a) + exp(b)).")
divide_or_zero = _pointwise("safe_div", "a / b, and 0 where b is 0, as for an average over no keys.")
