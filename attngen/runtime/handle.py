"""One kernel of a compiled variant, to look at: its source, and what a real compile makes of it.

Also how users name dtypes and feature lengths. Triton is imported when something is compiled, not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.alternates.alternate_kernel import AlternateKernel
from attngen.alternates.known_alternates import of_role
from attngen.errors import ArgumentError, DtypeMismatch, ShapeMismatch
from attngen.runtime.kernels import Kernels
from attngen.runtime.options import asked_alternates
from attngen.schedule.tile_schedule import DTYPE_BYTES
from attngen.targets import table as targets

if TYPE_CHECKING:
    from attngen.toolchain.compile import Compiled


@dataclass(frozen=True, slots=True)
class KernelHandle:
    """One kernel: `role` is "forward", "backward_rows", "backward_columns" and the like; `known` are lengths of captured features."""

    kernels: Kernels
    role: str
    known: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"<kernel {self.name} of {self.kernels.name}>"

    @property
    def alternate(self) -> AlternateKernel | None:
        """The alternate kernel that `schedule=` asks for."""
        asked = asked_alternates(self.kernels.override, self.role)
        return next((alternate for alternate in of_role(self.role) if alternate.flag in asked), None)

    @property
    def name(self) -> str:
        """Of the function in the emitted module, of the form that `schedule=` asks for."""
        alternate = self.alternate
        return f"{self.role}_kernel" if alternate is None else alternate.function

    @property
    def source(self) -> str:
        """The text of the emitted function for bfloat16, for feature lengths that are powers of two; of an alternate kernel
        with the functions that it calls."""
        lengths = feature_lengths(self.kernels.program.features, None, dict(self.known))
        text = self.kernels.at("bfloat16").source(lengths).text
        place = text.index(f"def {self.name}(")
        alternate = self.alternate
        first = place if alternate is None else text.index(f"def {alternate.first_function}(")
        return text[text.rindex("@", 0, first) : text.index("\n\n\n", place)] + "\n"

    def resources(self, dtype: object = "bfloat16", head_dim: int | Sequence[int] | None = None, arch: str | None = None) -> Compiled:
        """Compile the kernel as a call would, without a GPU: registers, spills, shared memory, binary, assembly.

        Args:
            dtype: of the arguments, a torch dtype or its name.
            head_dim: one length for all feature axes, or one for each; 128 by default.
            arch: the target; by default the one compiled for, or sm90.

        Raises:
            CompileFailed: Triton or the assembler refused it. DoesNotFit: no tile fits the target.
        """
        from attngen.report.resources import inspect_kernels

        target = targets.get(arch or self.kernels.arch or "sm90")
        lengths = feature_lengths(self.kernels.program.features, head_dim, dict(self.known))
        return inspect_kernels(self.kernels, lengths, dtype_name(dtype), target, (self.role,))[0].compiled


def kernel_names(role: str) -> tuple[str, ...]:
    """Of the functions that a kernel may be launched as: the plain one, and its alternates."""
    return (f"{role}_kernel", *(alternate.function for alternate in of_role(role)))


def handles(kernels: Kernels, known: tuple[tuple[str, int], ...]) -> tuple[KernelHandle, ...]:
    """The kernels of a variant in launch order, then those that only the other form of its backward has."""
    found = {kernel.role: kernels for kernel in kernels.program.kernels}
    other = kernels.fused()
    if other is not None:
        found |= {kernel.role: other for kernel in other.program.kernels if kernel.role not in found}
    return tuple(KernelHandle(mine, role, known) for role, mine in found.items())


def dtype_name(dtype: object) -> str:
    """A legal dtype by its short name.

    Raises:
        DtypeMismatch: listing the legal ones.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise DtypeMismatch(f"{name!r} is no dtype of a kernel", remedy=f"Legal: {', '.join(DTYPE_BYTES)}.")
    return name


def feature_lengths(
    features: Sequence[str], head_dim: int | Sequence[int] | None, known: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Feature axis -> length.

    Args:
        features: axes in order of appearance, that of queries and keys first.
        head_dim: one length for all that are not known, or one for each; the last one stands for the rest. None is 128.
        known: lengths of axes that captured tensors have.

    Raises:
        ArgumentError: more lengths than axes, or an illegal one.
    """
    given = dict(known or {})
    asked = [axis for axis in features if axis not in given]
    sizes = (128,) if head_dim is None else tuple(head_dim) if isinstance(head_dim, Sequence) else (head_dim,)
    legal = all(type(size) is int and size >= 1 for size in sizes)
    if not sizes or len(sizes) > max(len(asked), 1) or not legal:
        raise ArgumentError(
            f"head_dim={head_dim!r} does not fit the feature axes {', '.join(asked)}", remedy="Give one length, or one for each axis."
        )
    sizes = (*sizes, *[sizes[-1]] * (len(asked) - len(sizes)))
    given |= dict(zip(asked, sizes, strict=False))
    return {axis: given[axis] for axis in features}


def given_lengths(features: Sequence[str], extents: Mapping[str, int], known: Mapping[str, int]) -> dict[str, int]:
    """Feature axis -> length, of what a caller gives and what is known.

    Raises:
        ShapeMismatch: one is missing.
    """
    extents = dict(known) | dict(extents)
    missing = [axis for axis in features if axis not in extents]
    if missing:
        raise ShapeMismatch(f"extents lacks {', '.join(missing)}", remedy=f"The feature axes are {', '.join(features)}.")
    return {axis: int(extents[axis]) for axis in features}


def check_counts(**given: object) -> None:
    """Refuse what is no number of things.

    Raises:
        ArgumentError
    """
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ArgumentError(f"{name} is {value!r}", remedy="Give a whole number, 0 or more.")
