"""The programs of a token layout with their tiles, and whether a backward is split, with the same results in every run, or fused.

compile(..., deterministic=True), torch.use_deterministic_algorithms(True)       split
schedule={"backward_fused": ...}, {"backward_rows": ...}                         the form that has such a kernel
a captured tensor requires a gradient that rows sum up                           split
else                                                                             the cheaper one, by the model of the schedule
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from attngen.errors import CompileFailed, DoesNotFit
from attngen.ir.cascade import Cascade
from attngen.kernel.fused_backward import fused
from attngen.knobs import Knobs
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey, Programs
from attngen.schedule.backward_choice import compare, form_of
from attngen.schedule.choose import Choice
from attngen.schedule.ranking import Request


@dataclass(frozen=True, slots=True)
class BackwardForm:
    """Whether the backward is fused, and why, for `explain`."""

    fused: bool
    why: str


class TiledPrograms(Programs, ABC):
    """Programs with a choice of tiles for each."""

    def __init__(self, cascade: Cascade, options: Options, knobs: Knobs, *, canonical: bool = False) -> None:
        super().__init__(cascade, options, knobs, canonical=canonical)
        self._forms: dict[tuple[ProgramKey, Request, bool, bool], BackwardForm] = {}

    @abstractmethod
    def choice(self, key: ProgramKey, request: Request) -> Choice:
        """Tiles for every kernel of a program.

        Raises:
            DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
        """

    @abstractmethod
    def is_stored(self, key: ProgramKey, request: Request, *, interpreted: bool = False) -> bool:
        """Whether calls may run a program, on a GPU or in the interpreter: always, but for strict mode, where nothing is built."""

    def backward_form(self, key: ProgramKey, request: Request, *, repeatable: bool, in_order: bool = False) -> BackwardForm:
        """The form for a class of lengths, decided once.

        Args:
            key: of the program with the split backward.
            request: dtype, feature lengths, target and class of lengths of the calls.
            repeatable: results have to be the same in every run.
            in_order: programs run one after the other, as on the CPU: the fused backward is repeatable, and has fewer products.

        Raises:
            DoesNotFit: no tile of the split backward fits the target.
        """
        repeatable = repeatable or self.options.deterministic
        request = replace(request, singles=())
        known = (key, request, repeatable, in_order)
        with self.lock:
            if known not in self._forms:
                self._forms[known] = self._decided(key, request, repeatable, in_order)
            return self._forms[known]

    def decide_again(self) -> None:
        """Forget the forms, because a compiler failed on some tiles."""
        with self.lock:
            self._forms.clear()

    def _decided(self, key: ProgramKey, request: Request, repeatable: bool, in_order: bool) -> BackwardForm:
        other_key = replace(key, fused=True)
        other = self.find(other_key)
        if other is None:
            return BackwardForm(False, "; ".join(fused(self.program(key).parts).refused) or "there is nothing to join")
        if in_order and self.is_stored(other_key, request, interpreted=True):
            return BackwardForm(True, "its 5 products for each pair of tiles are fewer than 7, and the CPU adds dq in order")
        if repeatable:
            return BackwardForm(False, "deterministic results are asked for")
        named = form_of({name for name, value in self.options.schedule or () if isinstance(value, tuple)})
        if named:
            return BackwardForm(named == "fused", "the schedule names its kernels")
        summed = [name for kernel in other.kernels for name in kernel.atomic_adds if not set(kernel.axes(name)) & set(kernel.features)]
        if summed:
            why = f"{', '.join(summed)} would be atomic adds, and gradients of captured tensors are deterministic"
            return BackwardForm(False, why)
        if not self.is_stored(other_key, request):
            return BackwardForm(False, "strict mode has no other stored")
        try:
            one = self.choice(other_key, request)
        except (DoesNotFit, CompileFailed) as error:
            return BackwardForm(False, error.rule)
        try:
            two = self.choice(key, request)
        except CompileFailed as error:
            return BackwardForm(True, error.rule)
        verdict = compare(two, one)
        return BackwardForm(verdict.fused, verdict.why)
