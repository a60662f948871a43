"""One kernel of a compiled variant, to look at: its source, and what a real compile makes of it.

Triton is imported when something is compiled, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attngen.alternates.alternate_kernel import AlternateKernel
from attngen.alternates.known_alternates import of_role
from attngen.plan.feature_lengths import dtype_name, feature_lengths
from attngen.plan.options import asked_alternates
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.targets import table as targets

if TYPE_CHECKING:
    from attngen.toolchain.compile import Compiled


@dataclass(frozen=True, slots=True)
class KernelHandle:
    """One kernel: `role` is "forward", "backward_rows", "backward_columns" and the like; `known` are lengths of captured features."""

    table: KernelTable
    role: str
    known: tuple[tuple[str, int], ...] = ()

    def __repr__(self) -> str:
        return f"<kernel {self.name} of {self.table.name}>"

    @property
    def alternate(self) -> AlternateKernel | None:
        """The alternate kernel that `schedule=` asks for."""
        asked = asked_alternates(self.table.options.schedule, self.role)
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
        lengths = feature_lengths(self.table.axes.features, None, dict(self.known))
        kernels = next(mine for mine in self.table.forms("bfloat16") if self.role in {kernel.role for kernel in mine.program.kernels})
        text = kernels.source(lengths).text
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

        target = targets.get(arch or self.table.options.arch or "sm90")
        lengths = feature_lengths(self.table.axes.features, head_dim, dict(self.known))
        return inspect_kernels(self.table, lengths, dtype_name(dtype), target, (self.role,))[0].compiled


def kernel_names(role: str) -> tuple[str, ...]:
    """Of the functions that a kernel may be launched as: the plain one, and its alternates."""
    return (f"{role}_kernel", *(alternate.function for alternate in of_role(role)))


def handles(table: KernelTable, known: tuple[tuple[str, int], ...]) -> tuple[KernelHandle, ...]:
    """The kernels of a variant in launch order, then those that only the fused backward has."""
    split, fused = ProgramKey(), ProgramKey(fused=True)
    programs = [program for program in (table.find(split), table.find(fused)) if program is not None]
    roles = dict.fromkeys(kernel.role for program in programs for kernel in program.kernels)
    return tuple(KernelHandle(table, role, known) for role in roles)
