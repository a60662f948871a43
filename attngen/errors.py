"""Every error a user can meet, one class per rule.

A message states the rule, shows the user's line when there is one, and ends with the remedy. Tests assert classes, so wording is free.
Unexpected exceptions become an `InternalError`: a bug of the compiler never looks like a mistake of the user.
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
        """The same error with the user's line added."""
        AttngenError.__init__(self, self.rule, loc=loc, remedy=self.remedy)
        return self


class UnknownName(AttngenError, AttributeError):
    """attngen has nothing of that name."""


class InternalError(AttngenError):
    """A bug of attngen, to be reported with the text of the cascade."""


# ---- tracing a user's function


class TraceError(AttngenError, TypeError):
    """A Python function cannot be traced as an attention variant."""


class DataDependentBranch(TraceError):
    """Python needed the truth of a traced value (`if`, `while`, `and`, `or`, `not`)."""


class TracedConversion(TraceError):
    """Python needed a traced value as a number (`float()`, `int()`, `range()`, numpy, `math`)."""


class TracedIteration(TraceError):
    """Iterating over, unpacking or taking the length of a traced value."""


class TracedMutation(TraceError):
    """Writing into a captured tensor or a traced value."""


class UnsupportedOperation(TraceError):
    """A torch function or operator that has no meaning in a score or mask function."""


class RandomInMod(UnsupportedOperation):
    """Random numbers drawn while tracing would be frozen into the kernel."""


class ReductionInMod(UnsupportedOperation):
    """A reduction in a score or mask function that is neither a dot of two rows nor short enough to unroll."""


class CaptureError(TraceError):
    """A captured tensor is used in a way that cannot be compiled (rank, dtype, index count)."""


class ModReturn(TraceError):
    """A score mod did not return one score, or a mask mod not one truth value."""


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
    """The text of a cascade cannot be parsed."""


# ---- unsupported variants


class UnsupportedError(AttngenError, NotImplementedError):
    """A legal variant that this compiler cannot build; the message says which rule forbids it."""


class NotStreamable(UnsupportedError):
    """A factor of a reduction mixes streamed and running values, so that no single pass computes it."""


class NotAContraction(UnsupportedError):
    """A factor of an accumulator fits neither operand of a dot."""


class MaskMismatch(UnsupportedError):
    """Values under different masks are combined by an operation other than a sum."""


class MaxNotAShift(UnsupportedError):
    """A `max` over the loop axis affects the outputs, so that it is not a gauge."""


class NotDifferentiable(UnsupportedError):
    """A gradient was requested through an operation without one (second order, forward mode, integer)."""


class RewriteRefused(UnsupportedError):
    """A rewrite requested by the user does not apply."""


# ---- schedules and targets


class ScheduleError(AttngenError, ValueError):
    """A schedule is illegal or does not fit the target."""


class UnknownArch(ScheduleError):
    """The target is not in the table."""


class DoesNotFit(ScheduleError):
    """No tile fits the shared memory or the registers of the target."""


class CompileFailed(ScheduleError):
    """Triton or the assembler failed on a kernel for its target."""


class ArchMismatch(ScheduleError):
    """Tensors are on a device of another architecture than the kernel's target."""


class NoDevice(AttngenError, RuntimeError):
    """Timing needs a GPU, and there is none."""


class DeviceLost(AttngenError, RuntimeError):
    """The device no longer responds in this process, as after an illegal memory access."""


# ---- calling a kernel


class ArgumentError(AttngenError, ValueError):
    """An argument of a call is wrong; the message prints expected and actual."""


class ShapeMismatch(ArgumentError):
    """An extent does not match the other arguments."""


class GatherOutOfRange(ArgumentError, IndexError):
    """A computed position of a read is out of bounds, at an element that is not masked."""


class DtypeMismatch(ArgumentError, TypeError):
    """A dtype is unsupported or differs from the other arguments."""


class DeviceMismatch(ArgumentError):
    """Arguments or captured tensors are on different devices."""


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
    """Strict mode: a kernel is not in the cache and may not be compiled. Has the target, the dtype of the arguments, and the lengths of the
    feature axes."""

    def __init__(self, rule: str, arch: str, dtype: str, lengths: Mapping[str, int], *, remedy: str = "") -> None:
        super().__init__(rule, remedy=remedy)
        self.arch, self.dtype, self.lengths = arch, dtype, dict(lengths)

    def instead(self, remedy: str) -> MissingKernel:
        """The same error with another remedy."""
        return MissingKernel(self.rule, self.arch, self.dtype, self.lengths, remedy=remedy)


class ForeignFolder(ArgumentError):
    """A folder to be replaced was not written by attngen, or holds other files."""


class MissingOperator(AttngenError, LookupError):
    """A saved program calls an operator that this process has not registered."""


class MissingTriton(AttngenError, ImportError):
    """Triton is not available on this platform; everything but compiling and running kernels works."""


class InvalidKnob(AttngenError, ValueError):
    """An ATTNGEN_* environment variable has an illegal value."""
