"""`@cascade(...)`: a Python function over named axes becomes a `Spec`.

Takes one pattern for each argument and a function written with `functions`, Python's operators and torch's pointwise functions; gives the
traced cascade. A value becomes a step when it is a reduction, an output, the operand of a softmax or an einsum, or a costly subexpression
shared by several steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from attngen.errors import AttngenError, ModReturn, SpecError
from attngen.frontend import patterns
from attngen.frontend.captures.captures import Lifter
from attngen.frontend.captures.origins import Root
from attngen.frontend.functions import axes_of
from attngen.frontend.spec import Argument, Spec
from attngen.frontend.tracing.named_steps import name_shared, rename
from attngen.frontend.tracing.trace import RESERVED, Trace
from attngen.frontend.tracing.trace_call import call, located, outside_of_graphs, until_settled
from attngen.frontend.tracing.tracer import Traced, lift
from attngen.frontend.tracing.user_frames import assigned, definition, locate
from attngen.ir import build
from attngen.ir.cascade import Einsum, Input
from attngen.ir.expr import Expr, Kind
from attngen.source import naming

# Keyword options of calls.
_OPTIONS = frozenset(("return_lse", "seed", "return_seed", "training"))
_KINDS: dict[str, Kind] = {"": "float", "float": "float", "int": "int", "bool": "bool"}


def cascade(*function: Any, **signature: str) -> Callable[[Callable[..., Any]], Spec]:
    """Describe an attention variant as a cascade of einsums.

    Args:
        signature: the axes of each argument, as in q="b (g r) m d"; a composite dimension is split at the call. An argument of integers or
            truth values says so: document="b n: int".

    Returns:
        A decorator. The decorated function returns one value, a tuple, or a dict of named values; the decorator gives its `Spec`.

    Raises:
        SpecError: parameters and patterns do not match, or a pattern is malformed.
        TraceError: the function does something that cannot be traced.
    """

    if function:
        remedy = 'Write @attngen.cascade(q="b h m d", k="b h n d", v="b h n e") above the function.'
        raise SpecError("cascade takes the axes of each argument by keyword, and returns a decorator", remedy=remedy)

    @outside_of_graphs
    def decorate(function: Callable[..., Any]) -> Spec:
        if not callable(function):
            raise SpecError(f"cascade decorates a function, not a {type(function).__name__}", remedy="Put it above a def.")
        return _spec(_header(function, signature), {"function": function})

    return decorate


def _spec(header: _Header, roots: Mapping[str, Any]) -> Spec:
    def attempt(keep: frozenset[Hashable]) -> tuple[Trace, Callable[[], Spec]]:
        axes = tuple(dict.fromkeys(axis for argument in header.arguments for axis in patterns.flat(argument.pattern)))
        trace = Trace(header.inputs, axes)
        return trace, lambda: _trace(roots["function"], header, trace, Lifter(trace, keep))

    return until_settled(attempt)


@dataclass(frozen=True, slots=True)
class _Header:
    arguments: tuple[Argument, ...]
    inputs: tuple[Input, ...]


def _header(function: Callable[..., Any], signature: dict[str, str]) -> _Header:
    parameters = inspect.signature(function).parameters
    if missing := [name for name in signature if name not in parameters]:
        raise SpecError(
            f"the cascade has a pattern for {missing[0]!r}, which is not a parameter of {function.__name__}", remedy="Match the names."
        )
    unknown = [name for name, parameter in parameters.items() if name not in signature and parameter.default is parameter.empty]
    if unknown:
        raise SpecError(f"parameter {unknown[0]!r} of {function.__name__} has no pattern", remedy=f'Add {unknown[0]}="..." to the cascade.')
    arguments: list[Argument] = []
    inputs: list[Input] = []
    for name in (name for name in parameters if name in signature):
        if not isinstance(signature[name], str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError(f"the axes of {name} are a {type(signature[name]).__name__}", remedy=f'Write a string: {name}="b h m d".')
        text, _, kind = signature[name].partition(":")
        if kind.strip() not in _KINDS or name in RESERVED | _OPTIONS:
            raise SpecError(
                f"illegal argument {name}={signature[name]!r}",
                remedy='Write axes and optionally a kind, as in "b n: int"; avoid reserved names.',
            )
        pattern = patterns.parse(text)
        axes = patterns.flat(pattern)
        arguments.append(Argument(name, pattern))
        inputs.append(Input(name, axes, len(axes), _KINDS[kind.strip()]))
    names = {argument.name for argument in arguments}
    if clash := [axis for item in inputs for axis in item.axes or () if axis in names or axis in RESERVED]:
        raise SpecError(f"{clash[0]!r} names an axis and an argument, or is reserved", remedy="Rename the axis.")
    return _Header(tuple(arguments), tuple(inputs))


def _trace(function: Callable[..., Any], header: _Header, trace: Trace, lifter: Lifter) -> Spec:
    lifted = lifter.lift(function, Root("function"), function.__name__)
    arguments = {item.name: Traced(build.read(item.name, item.axes or (), item.kind), trace) for item in header.inputs}
    result = call(lambda: lifted(**arguments), (), trace)
    keys, values = _results(result, trace, function)
    names = _Outputs(trace, locate_definition(function)).name_all(keys, values)
    trace.lift_masks(tuple(names))
    trace.name_shared_values()
    name_shared(trace)
    traced, captures = trace.finish(tuple(names))
    signature = [argument.pattern for argument in header.arguments]
    layouts = [value.layout or patterns.grouped(traced.axes(name), signature) for name, value in zip(names, values, strict=True)]
    outputs = tuple(Argument(name, layout) for name, layout in zip(names, layouts, strict=True))
    label = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in function.__name__).strip("_") or "cascade"
    tracing = trace.tracing(captures, {"function": function}, partial(_spec, header))
    return Spec(label, traced, header.arguments, outputs, captures, keys=keys, seed=trace.seed_of(traced), tracing=tracing)


def locate_definition(function: Callable[..., Any]) -> Any:
    """The `def` line, for outputs without a line of their own."""
    return definition(function.__code__) if hasattr(function, "__code__") else None


def _results(result: Any, trace: Trace, function: Callable[..., Any]) -> tuple[tuple[str, ...] | None, list[Traced]]:
    keys: tuple[str, ...] | None = None
    if type(result) is dict:
        keys = tuple(result)
        if not all(isinstance(key, str) and key.isidentifier() for key in keys):
            given = f"{function.__name__} returned a dict with keys {keys}"
            raise ModReturn(given, loc=locate_definition(function), remedy="Use identifiers as keys.")
        result = tuple(result.values())
    given = list(result) if type(result) in (tuple, list) else [result]
    if not given or not all(type(value) is Traced for value in given):
        kinds = ", ".join(type(value).__name__ for value in given) or "nothing"
        raise ModReturn(
            f"{function.__name__} returned {kinds}",
            loc=locate_definition(function),
            remedy="Return a traced value, a tuple or a dict of them.",
        )
    return keys, [lift(value, trace) for value in given]


class _Outputs:
    """Gives every output a step under its result name."""

    def __init__(self, trace: Trace, loc: Any) -> None:
        self._trace = trace
        self._loc = loc
        self._done: list[str] = []
        self._renamed: list[Callable[[Expr], Expr]] = []

    def name_all(self, keys: tuple[str, ...] | None, values: list[Traced]) -> list[str]:
        for position, value in enumerate(values):
            wanted = keys[position] if keys is not None else "o"
            try:
                self._done.append(self._name(value, wanted))
            except AttngenError as error:
                raise located(error, value.place) from None
        return self._done

    def _name(self, value: Traced, wanted: str) -> str:
        trace = self._trace
        expr = value.expr
        for current in self._renamed:
            expr = current(expr)
        expr = trace.use_names(expr)
        step = trace.find(expr)
        axes = axes_of(expr, trace) if value.layout is None else patterns.flat(value.layout)
        if step is not None and step.axes == axes and step.name not in self._done:
            if step.name in trace.kept or step.name == wanted:
                return step.name
            name = trace.fresh(wanted)
            self._renamed.append(rename(trace, step.name, name))
            return name
        name = trace.fresh(wanted)
        loc = naming(locate(value.place) or self._loc, assigned(value.place) or f"the output {wanted}")
        trace.add(Einsum(name, axes, expr, loc=loc))
        return name
