"""Runs a user's function on traced values; errors show the user's line."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar, cast

import torch

from attngen.errors import AttngenError, InternalError, ModSignature, TraceError
from attngen.frontend import functions
from attngen.frontend.tracing.interception import Interception, Refused
from attngen.frontend.tracing.trace import NeedsValue, Trace
from attngen.frontend.tracing.user_frames import Place, is_internal, locate, place_of

_REASON = "attngen builds kernels here: build them outside of the compiled function, and pass what changes as an argument"
P = ParamSpec("P")
Result = TypeVar("Result")


def outside_of_graphs(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, excluded from torch.compile: it runs in Python after a graph break.

    With fullgraph=True PyTorch refuses, with the reason given here.
    """
    held: list[Callable[P, Result]] = []

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> Result:
        if not held:
            # Without it nothing is being compiled, and its import is slow.
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            held.append(cast("Callable[P, Result]", torch.compiler.disable(function, reason=_REASON)))
        return held[0](*args, **kwargs)

    return run


def until_settled(attempt: Callable[[frozenset[Hashable]], tuple[Trace, Callable[[], Result]]]) -> Result:
    """Trace until no more captured numbers have to be baked in."""
    keep: frozenset[Hashable] = frozenset()
    while True:
        trace, run = attempt(keep)
        try:
            return run()
        except NeedsValue as needed:
            more = frozenset(trace.key_of(name) for name in needed.names)
            if more <= keep:
                raise InternalError("a baked number is asked for again") from None
            keep |= more


def call(function: Callable[..., Any], args: tuple[Any, ...], trace: Trace) -> Any:
    """`function(*args)` with every torch call intercepted.

    Raises:
        TraceError: the function cannot be traced, at the user's line.
        InternalError: an exception from attngen's own code.
    """
    try:
        with Interception(trace):
            return function(*args)
    except Refused as refused:
        raise located(refused.error, place_of(refused.__traceback__)) from None
    except AttngenError as error:
        raise located(error, place_of(error.__traceback__)) from None
    except Exception as error:
        loc = locate(place_of(error.__traceback__))
        text = f"{type(error).__name__}: {error}"
        if is_internal(error.__traceback__):
            raise InternalError(text, loc=loc) from error
        raise TraceError(f"the function raised an exception during the trace. {text}", loc=loc, remedy=_remedy(error)) from error


def _remedy(error: Exception) -> str:
    """The remedy for an exception that attngen did not raise."""
    called = re.match(r"(\w+)\(\)", str(error)) if isinstance(error, TypeError) else None
    function = getattr(functions, called[1], None) if called is not None else None
    if called is not None and function is not None:
        given = ", ".join(str(parameter).partition(":")[0] for parameter in inspect.signature(function).parameters.values())
        return f"Its parameters are attngen.{called[1]}({given})."
    return "The function was called with traced values, which stand for elements at all positions."


def located(error: AttngenError, place: Place | None) -> AttngenError:
    """The error with the user's line, if it has none."""
    return error if error.loc is not None else type(error)(error.rule, loc=locate(place), remedy=error.remedy)


def check_signature(function: Callable[..., Any], expected: tuple[str, ...], role: str) -> None:
    """Refuse a mod that does not take FlexAttention's positional parameters.

    Raises:
        ModSignature: the parameters differ in number.
    """
    if not callable(function):
        raise ModSignature(
            f"{role} is a {type(function).__name__}, not a function", remedy=f"Pass a function {role}({', '.join(expected)})."
        )
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*expected)
    except TypeError as error:
        raise ModSignature(f"{role} has parameters {signature}: {error}", remedy=f"Write def {role}({', '.join(expected)}).") from None
