"""Every error a user can meet, one class per rule.

A message states the rule, shows the user's line when there is one, and ends with the remedy. Tests assert classes, so wording stays
free. Anything unexpected becomes an `InternalError`: a bug of the compiler never looks like a mistake of the user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from attngen.source import SourceLoc, excerpt


class AttngenError(Exception):
    """Base of all errors raised on purpose. `str(error)` is a block: rule, place, remedy; Python puts the class before it."""

    def __init__(self, rule: str, *, loc: SourceLoc | None = None, remedy: str = "") -> None:
        self.rule = rule
        self.loc = loc
        self.remedy = remedy
        parts = [rule]
        if loc is not None:
            parts.append(excerpt(loc))
        if remedy:
            parts.append(remedy)
        super().__init__("\n".join(parts))

    def at(self, loc: SourceLoc) -> Self:
        """The same error with the user's line, where it was not known."""
        AttngenError.__init__(self, self.rule, loc=loc, remedy=self.remedy)
        return self


class UnknownName(AttngenError, AttributeError):
    """attngen has nothing of that name."""


class InternalError(AttngenError):
    """Something the compiler did not expect: a bug of attngen, to be reported with the text of the cascade."""


# ---- tracing a user's function


class TraceError(AttngenError, TypeError):
    """A Python function cannot be read as an attention variant."""


class DataDependentBranch(TraceError):
    """Python asked for the truth of a traced value (`if`, `while`, `and`, `or`, `not`)."""


class TracedConversion(TraceError):
    """Python asked for the number behind a traced value (`float()`, `int()`, `range()`, numpy, `math`)."""


class TracedIteration(TraceError):
    """Iterating over, unpacking or taking the length of a traced value."""


class TracedMutation(TraceError):
    """Writing into a captured tensor or a traced value."""


class UnsupportedOperation(TraceError):
    """A torch function or operator that has no meaning in a score or mask function."""


class RandomInMod(UnsupportedOperation):
    """Random numbers drawn while tracing would be frozen into the kernel."""


class ReductionInMod(UnsupportedOperation):
    """A reduction inside a score or mask function that is not a contraction of two rows or a short literal any/all."""


class CaptureError(TraceError):
    """A captured tensor is used in a way that cannot be compiled (rank, dtype, index count)."""


class ModReturn(TraceError):
    """A mod returned something other than one score, or one truth value for a mask."""


class ModSignature(TraceError):
    """A score or mask function takes other parameters than FlexAttention's."""


class NaNConstant(TraceError):
    """A constant is not a number."""


# ---- writing a cascade


class SpecError(AttngenError, ValueError):
    """A cascade breaks a rule: unknown axis, missing reduction, inconsistent ranks."""


class AxisError(SpecError):
    """An axis is unknown, missing where it is reduced, or used twice."""


class MalformedCascade(SpecError):
    """`verify` found a broken rule of a Form."""


class ParseError(SpecError):
    """The text of a cascade cannot be read back."""


# ---- what the algebra refuses


class UnsupportedError(AttngenError, NotImplementedError):
    """A legal variant that this compiler cannot build; the message says which rule stands in the way."""


class NotStreamable(UnsupportedError):
    """A reduction mixes streamed and running values in one factor, so that one pass cannot compute it."""


class NotAContraction(UnsupportedError):
    """A factor of an accumulator fits neither side of a matrix product."""


class MaskMismatch(UnsupportedError):
    """Values that exist under different masks meet in an operation that is not a sum."""


class MaxNotAShift(UnsupportedError):
    """A `max` over the streamed axis changes the outputs, so that it is no free choice of gauge."""


class NotDifferentiable(UnsupportedError):
    """A gradient was asked for through an operation that has none here (second order, forward mode, integer)."""


class RewriteRefused(UnsupportedError):
    """A rewrite that the user asked for does not apply."""


# ---- schedules and targets


class ScheduleError(AttngenError, ValueError):
    """A schedule is illegal or does not fit the target."""


class UnknownArch(ScheduleError):
    """The target is not in the table."""


class DoesNotFit(ScheduleError):
    """No tile fits the shared memory or the registers of the target."""


class CompileFailed(ScheduleError):
    """Triton or the assembler refused a kernel for its target."""


class ArchMismatch(ScheduleError):
    """Tensors live on a device of another architecture than the kernel was compiled for."""


class NoDevice(AttngenError, RuntimeError):
    """Something is to be timed, and there is no GPU."""


class DeviceLost(AttngenError, RuntimeError):
    """The device answers nothing any more in this process, as after a kernel that read outside of its memory."""


# ---- calling a kernel


class ArgumentError(AttngenError, ValueError):
    """An argument of a call is wrong; the message prints what was expected and what came."""


class ShapeMismatch(ArgumentError):
    """An extent does not match the other arguments."""


class GatherOutOfRange(ArgumentError, IndexError):
    """A position computed for a read lies outside of the tensor, at an element that exists."""


class DtypeMismatch(ArgumentError, TypeError):
    """A dtype is unsupported or differs from the other arguments."""


class DeviceMismatch(ArgumentError):
    """Arguments or captured tensors live on different devices."""


# ---- emission


class EmitError(AttngenError):
    """A value may not enter emitted code, or a template is broken."""


class UnsafeValue(EmitError, ValueError):
    """A name or value supplied from outside is not allowed in emitted code."""


class TemplateError(EmitError):
    """A template failed to render."""


# ---- cache and deployment


class CacheError(AttngenError, OSError):
    """The cache cannot be used."""


class UnsafeCacheDirectory(CacheError):
    """Others could write into the cache directory, so nothing may be loaded from it."""


class MissingKernel(CacheError):
    """Strict mode: no compiled entry exists, and compiling at run time is switched off. It knows what is missing: the target, the dtype of
    the arguments, and the lengths of the feature axes."""

    def __init__(self, rule: str, arch: str, dtype: str, lengths: Mapping[str, int], *, remedy: str = "") -> None:
        super().__init__(rule, remedy=remedy)
        self.arch, self.dtype, self.lengths = arch, dtype, dict(lengths)

    def instead(self, remedy: str) -> MissingKernel:
        """The same with another remedy."""
        return MissingKernel(self.rule, self.arch, self.dtype, self.lengths, remedy=remedy)


class ForeignFolder(ArgumentError):
    """A folder to be replaced is none that attngen wrote, or holds what attngen did not write."""


class MissingOperator(AttngenError, LookupError):
    """A saved program calls an operator that nothing in this process has made."""


class MissingTriton(AttngenError, ImportError):
    """Triton has no wheel on this platform; everything but compiling and running kernels works."""


class InvalidKnob(AttngenError, ValueError):
    """An ATTNGEN_* environment variable has a value that its knob cannot take."""
