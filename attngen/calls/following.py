"""Which of its traces a variant runs: the one that relied on what is true at the call.

Values that are only read are read again and need no trace. What decided a trace (the type of a number, the branch that Python took, the
function behind a name) is tested while they are read; where it has changed, an earlier trace may be right again, or there is a new one,
whose kernels are those of any variant with an equal cascade.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

from attngen.calls.spec_form import Values
from attngen.calls.variant import Variant
from attngen.errors import InternalError
from attngen.frontend.captures.reader import Reader
from attngen.frontend.captures.retrace import Roots, Tracing
from attngen.frontend.spec import Spec, retraced

_log = logging.getLogger("attngen")
_MOST = 32
"""Traces that are kept at once."""


class _Trace:
    """One trace: its compiled form, and how its captures are read."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.at_trace_time: dict[str, Any] = {capture.name: capture.value for capture in variant.spec.captures}
        self._reader: Reader | None = None
        self.compiled: Reader | None = None

    def read(self) -> Values | None:
        """The values of the captures; None where the trace is not right any more."""
        try:
            if self._reader is None:
                self._reader = self._made(compiled=False)
            return self._reader()
        except Exception:  # something is gone, or a property of the user's fails: tracing again says so at their line
            return None

    def prepare(self) -> None:
        """Make what a compiler of bytecode looks into: the reader, and operators."""
        if self.compiled is None:
            self.compiled = self._made(compiled=True)
            self.variant.prepare_graphs()

    def _made(self, *, compiled: bool) -> Reader:
        tracing = self.variant.spec.tracing or Tracing(Roots({}))
        return tracing.reader(self.at_trace_time, compiled)


class Following:
    """The traces of one variant.

    Args:
        first: as it was traced first.
        compiled: makes the compiled form of another trace.
    """

    def __init__(self, first: Variant, compiled: Callable[[Spec], Variant]) -> None:
        self._spec, self._compile = first.spec, compiled
        self._traces = [_Trace(first)]
        self._last = self._traces[0]
        self._made = 1
        self._lock = threading.RLock()
        self._warned = False

    def now(self) -> tuple[Variant, Values]:
        """What runs now, and the values of its captures.

        Raises:
            TraceError: it has to be traced again, and cannot be.
        """
        if torch.compiler.is_compiling():
            trace = self._traces[self._right()]
            found = None if trace.compiled is None else trace.compiled()
            if found is None:
                raise InternalError("captures changed while they were read")
            return trace.variant, found
        last = self._last
        values = last.read()
        if values is None:
            last, values = self._other()
        return last.variant, values

    def _right(self) -> int:
        """Which trace a compiler of bytecode takes. It looks into how that one reads, and compiles again when something else comes out."""
        last = self._last
        if last.read() is None:
            last, _ = self._other()
        last.prepare()
        return self._traces.index(last)

    def _other(self) -> tuple[_Trace, Values]:
        with self._lock:
            for trace in self._traces:
                values = trace.read()
                if values is not None:
                    self._last = trace
                    return trace, values
            trace = _Trace(self._compile(retraced(self._spec)))
            if len(self._traces) < _MOST:
                self._traces.append(trace)
            else:
                self._traces[self._made % _MOST] = trace
            self._made += 1
            self._last = trace
            values = trace.read()
            if values is None and not self._warned:
                self._warned = True
                _log.warning("attngen: %s is traced at each call: something that it reads is another object each time.", self._spec.name)
            return trace, trace.at_trace_time if values is None else values


# `torch.compiler.assume_constant_result` without importing the compiler.
Following._right._dynamo_marked_constant = True  # type: ignore[attr-defined]  # pyright: ignore[reportFunctionMemberAccess]
