"""The kernels of one cascade, in one table by program, which equal cascades share in a process; and the rewrites that a user names."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch

from attngen.errors import ArgumentError, CompileFailed, MissingKernel, RewriteRefused
from attngen.ir.cascade import Cascade
from attngen.knobs import Knobs
from attngen.pipeline import REWRITES
from attngen.plan.feature_lengths import dtype_name
from attngen.plan.options import Options, own_schedule
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.plan.tiled_programs import TiledPrograms
from attngen.runtime.devices import target_for
from attngen.runtime.kernels import Kernels
from attngen.schedule.choose import Choice, Request
from attngen.targets.table import Target

_TABLES: dict[tuple[str, Options, Knobs], KernelTable] = {}
FORMER_NAMES = {
    "drop_maxima": "static_max",
    "join_products": "join_dots",
    "split_biases": "bias_separation",
    "fold_biases": "bias_as_dot",
    "fold_scales": "scale_folding",
}
"""Names that rewrites had, which are still understood."""
_LOCK = threading.Lock()


class KernelTable(TiledPrograms):
    """Programs of a cascade with their kernels. Safe for threads."""

    def __init__(self, cascade: Cascade, name: str, options: Options, knobs: Knobs, *, canonical: bool = False) -> None:
        super().__init__(cascade, options, knobs, canonical=canonical)
        self.name = name
        self._kernels: dict[ProgramKey, Kernels] = {}

    def kernels(self, key: ProgramKey) -> Kernels:
        """The kernels of a program. Dtypes whose rewrites change nothing share them."""
        with self.lock:
            if key not in self._kernels:
                program, plain = self.program(key), ProgramKey("", key.gradients, key.split, key.fused)
                if key != plain and program.kernels == self.program(plain).kernels:
                    self._kernels[key] = self.kernels(plain)
                else:
                    asked = own_schedule(self.options.schedule, program, few=key.gradients == FORWARD_ONLY)
                    self._kernels[key] = Kernels(program, self.name, self.options, self.knobs, asked)
            return self._kernels[key]

    def forms(self, dtype: str) -> tuple[Kernels, ...]:
        """The kernels of a training call for a dtype: with the split backward, and with the fused one where there is one."""
        keys = (ProgramKey(dtype), ProgramKey(dtype, fused=True))
        return tuple(self.kernels(key) for key in keys if self.find(key) is not None)

    def target(self, device: torch.device) -> Target:
        """The target of calls with tensors on a device.

        Raises:
            ArchMismatch: the device is of another architecture than the one asked for.
        """
        return target_for(device, self.options.arch, interpret=self.knobs.interpret)

    def runs_in_order(self, device: torch.device) -> bool:
        """Whether calls with tensors on a device run in the CPU engine, program by program."""
        return device.type == "cpu" and not self.knobs.interpret

    def choice(self, key: ProgramKey, request: Request) -> Choice:
        return self.kernels(key).choice(request)

    def is_stored(self, key: ProgramKey, request: Request, *, interpreted: bool = False) -> bool:
        if not self.knobs.strict:
            return True
        kernels = self.kernels(key)
        try:
            schedule = kernels.choice(request).schedule if interpreted else kernels.settled(request)
            kernels.module(
                kernels.source(request.extents, schedule.alternates),
                "engine" if interpreted else "compiled",
                request.target,
                request.extents,
                request.dtype,
            )
        except MissingKernel:
            return False
        return True

    def settle(self, request: Request, *, repeatable: bool) -> None:
        """Settle the tiles of the split backward, and those of the fused one where that is what runs.

        Raises:
            CompileFailed: no form of the backward compiles, or the forward does not.
        """
        key = ProgramKey(request.dtype)
        fused = self.backward_form(key, request, repeatable=repeatable).fused
        for mine in (key, *([ProgramKey(request.dtype, fused=True)] if fused else [])):
            try:
                self.kernels(mine).settled(request)
            except CompileFailed:
                self.decide_again()
                other = ProgramKey(request.dtype, fused=self.backward_form(key, request, repeatable=repeatable).fused)
                if other == mine:
                    raise
                self.kernels(other).settled(request)


def kernel_table(cascade: Cascade, name: str, options: Options, *, canonical: bool = False) -> KernelTable:
    """The table of a cascade as the environment wants it; equal cascades share one."""
    knobs = Knobs.from_env()
    key = (str(cascade), options, knobs)
    with _LOCK:
        if key not in _TABLES:
            _TABLES[key] = KernelTable(cascade, name, options, knobs, canonical=canonical)
        return _TABLES[key]


def rewrites_named(names: Iterable[str]) -> frozenset[str]:
    """Names of rewrites, as a set; former names stand for those of today.

    Raises:
        ArgumentError: there is none of that name.
    """
    if isinstance(names, str):
        raise ArgumentError(f"the names of rewrites are {names!r}, which is one string", remedy=f"Pass a list: [{names!r}].")
    found = frozenset(FORMER_NAMES.get(name, name) for name in names)
    for name in sorted(found - REWRITES.keys()):
        raise ArgumentError(f"there is no rewrite {name!r}", remedy=f"They are {', '.join(REWRITES)}.")
    return found


def check_required(table: KernelTable, names: frozenset[str], dtype: object) -> None:
    """Refuse a variant to whose kernels for a dtype a rewrite that is asked for does not apply. Nothing is worked out for no names.

    Raises:
        RewriteRefused: with the reason at each step.
    """
    if not names:
        return
    kind = dtype_name(dtype)
    told = dict(table.program(ProgramKey(kind)).rewrites)
    for name in sorted(names):
        notes = told.get(name)
        if notes is None:
            why = f"it is left out, or not for {kind}"
        elif any(note.applied for note in notes):
            continue
        else:
            why = "; ".join(dict.fromkeys(f"not {note.step}, for {note.text}" for note in notes)) or "no step has its form"
        raise RewriteRefused(f"the rewrite {name} does not apply: {why}", remedy="Leave it out of `require`, or change what it names.")
