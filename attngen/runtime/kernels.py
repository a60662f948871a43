"""The kernels of one program: modules by the cuts of feature axes, loaded for a way to run, with tiles for a call."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType
from typing import Literal

import torch

from attngen.cache.entry import Artefacts
from attngen.cache.key import kernel_key
from attngen.cache.load import load_module
from attngen.cache.user_table import tuned_tiles
from attngen.errors import MissingKernel
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.knobs import Knobs
from attngen.pipeline import Program, Source, build, schedule
from attngen.plan.options import Frozen, Options, asked_alternates, thaw
from attngen.runtime.tile_list_cache import TileListCache
from attngen.schedule.choose import Choice, Request
from attngen.schedule.tile_schedule import ModuleSchedule, parse_schedule
from attngen.stages.observe import watching
from attngen.targets import table as targets
from attngen.toolchain.artifact_store import store, stored, toolchain
from attngen.toolchain.refusals import Failure, Refusals

Mode = Literal["compiled", "engine", "interpreted"]
"""How kernels run: compiled by Triton, on the CPU by the engine, or in Triton's interpreter."""
_log = logging.getLogger("attngen")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module ready to launch: its host functions, and the tiles by role."""

    module: ModuleType
    tiles: Mapping[str, Mapping[str, int]]


class Kernels:
    """Builds modules on demand and keeps them. One object a program; safe for threads. `override` is what the user says of its tiles."""

    def __init__(self, program: Program, name: str, options: Options, knobs: Knobs, override: Frozen | None = None) -> None:
        self.program = program
        self.name = name
        self.options = options
        self.arch = options.arch
        self.override = override
        self.knobs = knobs
        self.lock = threading.RLock()
        self.choices: dict[Request, Choice] = {}
        self.schedules: dict[str, ModuleSchedule] = {}
        self.sources: dict[tuple[Cuts, frozenset[str]], Source] = {}
        self.loaded: dict[tuple[object, ...], Loaded] = {}
        self.modules: dict[tuple[Cuts, frozenset[str], Mode], ModuleType] = {}
        self.refusals = Refusals(program, knobs, options.local)
        self.kept = TileListCache()

    @property
    def saved(self) -> tuple[str, ...]:
        """Steps that the forward keeps for the backward, in the order in which the backward takes them."""
        return tuple(item.name for item in self.program.backward.saved) if self.program.backward is not None else ()

    def source(self, dims: Mapping[str, int], alternates: frozenset[str] = frozenset()) -> Source:
        """The emitted module for these feature lengths; its text depends only on how they are cut into tiles, and on the alternate
        kernels that it has too, as a schedule or the user may ask."""
        with self.lock:
            return self._source(dims, alternates | asked_alternates(self.override))

    def _source(self, dims: Mapping[str, int], alternates: frozenset[str]) -> Source:
        key = (cuts(dims), alternates)
        if key not in self.sources:
            self.sources[key] = build(self.program, self.name, *key, watching(self.knobs))
        return self.sources[key]

    def choice(self, request: Request) -> Choice:
        """Tiles for every kernel, with the reasons.

        Raises:
            DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
        """
        with self.lock:
            if request not in self.choices:
                tuned = tuned_tiles(self.knobs, self.options.local)
                # What is stored, or made for others, has no alternate kernels that nobody asked for.
                kept = self.knobs.strict or self.options.stored or not self.options.local
                tuned = tuned.without_alternates() if kept else tuned
                asked = None if self.override is None else thaw(self.override)
                refused, watch = partial(self.refusals.why, request), watching(self.knobs)
                self.choices[request] = schedule(self.program, request, tuned, refused, asked, watch)
            return self.choices[request]

    def settled(self, request: Request) -> ModuleSchedule:
        """The schedule that kernels run with: the choice where it rests on measurements, else what a real compile made of it.

        Compiles at most each unmeasured kernel once and each rejected leader's successor once; the result is kept in the cache. Where a
        compiler fails on both, the choice is made again without them. A user's tile is compiled if it may not fit, and has no successor.
        In strict mode a class of lengths for which nothing is stored takes what is stored for long ones.

        Raises:
            CompileFailed: no tile of a kernel compiles and fits, or a user's does not. MissingKernel: strict mode, and nothing is stored.
        """
        while (choice := self.choice(request)).unsettled:
            key = self.refusals.settled_key(request, choice)
            with self.lock:
                found = self.schedules.get(key) or self._settle(key, choice, request)
                if found is not None:
                    self.schedules[key] = found
                    return found
        return choice.schedule

    def refuse(self, request: Request, failed: Sequence[Failure]) -> None:
        """Have tiles that a compiler failed on passed over from now on.

        Raises:
            CompileFailed: one is the user's.
        """
        with self.lock:
            self._refuse(request, failed)

    def _refuse(self, request: Request, failed: Sequence[Failure]) -> None:
        choice = self.choices.pop(request, None) if failed else None
        for failure in failed:
            self.refusals.add(self.name, request, failure, () if choice is None else choice.asked)

    def _settle(self, key: str, choice: Choice, request: Request) -> ModuleSchedule | None:
        """Settle a choice; None where a compiler failed on all that it offers for a kernel."""
        from attngen.toolchain.settle import Emitted, settle

        entry = store(self.knobs).try_load(key)
        if entry is None:
            if self.knobs.strict and request.length != "long":
                return self.settled(replace(request, length="long", singles=()))
            if self.knobs.strict:
                raise self.missing(request.extents, request.dtype, request.target)
            _log.info("attngen: compiling %s for %s to settle its tiles", self.name, request.target.name)
            source = self._source(request.extents, choice.schedule.alternates)
            module = self._module(source, "compiled", request.target, request.extents, request.dtype)
            settled = settle(Emitted(source, module), choice, request)
            self._refuse(request, settled.failed)
            if settled.open:
                return None
            text = str(settled.schedule)
            entry = store(self.knobs).build(key, lambda: Artefacts({"schedule.txt": text.encode()}, {"kind": "schedule"}))
        return parse_schedule(entry.content("schedule.txt").decode())

    def get(self, request: Request, device: torch.device) -> Loaded:
        """The module and tiles for calls with tensors on a device.

        Raises:
            CompileFailed, DoesNotFit: of `settled`. MissingKernel: strict mode, and nothing is stored.
        """
        return self.loaded_for(request, self.mode(device))

    def mode(self, device: torch.device) -> Mode:
        """How kernels run for tensors on a device."""
        return "interpreted" if self.knobs.interpret else "engine" if device.type == "cpu" else "compiled"

    def loaded_for(self, request: Request, mode: Mode) -> Loaded:
        """The module and tiles for a way to run; errors as for `get`."""
        schedule = self.settled(request) if mode == "compiled" else self.choice(request).schedule
        schedule = schedule.without_alternates() if mode == "engine" else schedule
        key = (request, mode, schedule)
        if key not in self.loaded:
            dims = request.extents
            module = self.module(self.source(dims, schedule.alternates), mode, request.target, dims, request.dtype)
            self.loaded[key] = Loaded(module, schedule.as_tiles(self.program.kernels))
        return self.loaded[key]

    def module(self, source: Source, mode: Mode, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        """The loaded module of a source; written to the cache, since Triton reads functions from files."""
        with self.lock:
            return self._module(source, mode, target, dims, dtype)

    def _module(self, source: Source, mode: Mode, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        key = (cuts(dims), source.alternates, mode)
        if key not in self.modules:
            self.modules[key] = self.load(source, mode, target, dims, dtype)
        return self.modules[key]

    def load(self, source: Source, mode: Mode, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        # Imported here, so that tracing works without Triton; its absence is noticed before a module of kernels asks for it.
        from attngen.engine.cpu_kernel import on_cpu
        from attngen.interpreter.interpreter import interpreted

        text_hash = hashlib.sha256(source.text.encode()).hexdigest()
        key = kernel_key(str(source.program.cascade), f"text={text_hash}", target.name, toolchain(self.knobs))
        entry = stored(store(self.knobs), key, source.text, self.knobs, lambda: self.missing(dims, dtype, target))
        module = load_module(entry.file("kernels.py"), f"attngen_{self.name}_{key[:12]}", text=entry.content("kernels.py"))
        if mode == "compiled":
            return module
        if mode == "engine":
            return on_cpu(module, source)
        _notice()
        return interpreted(module)

    def missing(self, dims: Mapping[str, int], dtype: str, target: targets.Target) -> MissingKernel:
        """The error of strict mode. Only who has the user's spec can say how it is built."""
        lengths = ", ".join(f"{axis} = {length}" for axis, length in dims.items())
        rule = f"strict mode: no stored kernels of {self.name} for {target.name}, {dtype}, {lengths}"
        return MissingKernel(rule, target.name, dtype, dims, remedy="Build them beforehand with attngen generate.")


@cache
def _notice() -> None:
    _log.warning("attngen: CPU tensors run in Triton's interpreter: slow, for checking only.")
