"""The programs of one cascade, in one table by the part of a plan that decides them. Each is analysed when it is first looked up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from attngen.analysis.axis_roles import roles
from attngen.ir.cascade import Cascade
from attngen.kernel.partition import forward_kernel
from attngen.knobs import Knobs
from attngen.pipeline import Program, analyse, for_dtype, fused, stream
from attngen.plan.options import Options, thaw
from attngen.schedule.tile_schedule import check_roles
from attngen.stages.observe import watching


@dataclass(frozen=True, slots=True)
class ProgramKey:
    """What decides the kernels of a cascade.

    Attributes:
        dtype: of the arguments, by its short name; "" without the rewrites that need one.
        gradients: the inputs that the backward differentiates by; None for all that have kernels, empty for a forward alone.
        split: split-KV, a forward alone.
        fused: the fused backward instead of the split one.
    """

    dtype: str = ""
    gradients: frozenset[str] | None = None
    split: bool = False
    fused: bool = False


FORWARD_ONLY: frozenset[str] = frozenset()
"""`ProgramKey.gradients` of a forward alone."""


class Programs:
    """The table of one cascade. `start` is its one-pass form, `axes` are the roles of its axes, `grid` those that CTAs are spread over.

    Args:
        cascade: TracedForm; or CanonicalForm, where `canonical` says so.
        options: of `compile`. knobs: of the environment.

    Raises:
        NotStreamable, UnsupportedError, AxisError, ...: the variant is refused, with the reason.
    """

    def __init__(self, cascade: Cascade, options: Options, knobs: Knobs, *, canonical: bool = False) -> None:
        self.options, self.knobs = options, knobs
        self.lock = threading.RLock()
        self.start = stream(cascade, watching(knobs), canonical=canonical)
        self.axes = roles(self.start.cascade)
        # What no kernel can be made of is refused here.
        self.grid = forward_kernel(self.start.streamed, (), self.start.features).grid
        self._programs: dict[ProgramKey, Program | None] = {}

    def program(self, key: ProgramKey) -> Program:
        """The program of a key.

        Raises:
            KeyError: the backward has no fused form.
        """
        found = self.find(key)
        if found is None:
            raise KeyError(key)
        return found

    def find(self, key: ProgramKey) -> Program | None:
        """The program of a key; None where the backward has no fused form."""
        with self.lock:
            if key not in self._programs:
                self._programs[key] = self._made(key)
            return self._programs[key]

    def _made(self, key: ProgramKey) -> Program | None:
        watch = watching(self.knobs)
        if key.fused or key.dtype:
            before = self.program(replace(key, fused=False) if key.fused else replace(key, dtype=""))
            return fused(before, watch) if key.fused else for_dtype(before, key.dtype, watch)
        options = self.options
        return analyse(
            self.start,
            watch,
            wanted=key.gradients,
            without=options.without,
            asked=options.asked,
            divided=key.split,
            precise_delta=options.precise_delta,
        )

    def gradients(self, names: frozenset[str]) -> frozenset[str] | None:
        """The key of a backward that computes the gradients of these inputs and no others; in strict mode all, as they were stored.

        A tile of a bias that nobody trains is then never stored, a slope's never summed.
        """
        general = self.program(ProgramKey())
        every = {item.name for item in general.cascade.inputs if item.differentiable} - {name for name, _ in general.refused}
        return None if names >= every or self.knobs.strict else names

    def roles(self) -> frozenset[str]:
        """Of the kernels of a training call, with either form of its backward."""
        programs = (self.find(ProgramKey()), self.find(ProgramKey(fused=True)))
        return frozenset(kernel.role for program in programs if program is not None for kernel in program.kernels)

    def check_schedule(self) -> None:
        """Refuse a user's schedule of kernels that no program has.

        Raises:
            ScheduleError: listing the roles of those that there are.
        """
        if self.options.schedule is not None:
            check_roles(thaw(self.options.schedule), self.roles())
