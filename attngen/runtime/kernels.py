"""The kernels of one program: modules by the cuts of feature axes, loaded for the compiler or the interpreter, with tiles for a call."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from types import ModuleType

import torch
from torch import Tensor

from attngen.cache.entry import Artefacts
from attngen.cache.key import kernel_key
from attngen.cache.load import load_module
from attngen.cache.user_table import tuned_tiles
from attngen.errors import ArchMismatch, MissingKernel
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.kernel.rewrites.note import Note
from attngen.knobs import Knobs
from attngen.pipeline import Program, Source, analyse, build, for_dtype, fused, schedule
from attngen.runtime.devices import target_of
from attngen.runtime.options import Options, asks_specialised, own_part, roles, thaw
from attngen.runtime.tile_list_cache import TileListCache
from attngen.schedule.choose import Choice, Request
from attngen.schedule.space import length_class
from attngen.schedule.tile_schedule import ModuleSchedule, parse_schedule
from attngen.stages.observe import watching
from attngen.targets import table as targets
from attngen.toolchain.artifact_store import store, stored, toolchain
from attngen.toolchain.refusals import Failure, Refusals

_log = logging.getLogger("attngen")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module ready to launch: its host functions, and the tiles by role."""

    module: ModuleType
    tiles: Mapping[str, Mapping[str, int]]


class Kernels:
    """Builds modules on demand and keeps them. One object a compiled variant; safe for threads."""

    def __init__(self, program: Program, name: str, options: Options, knobs: Knobs) -> None:
        self.program = program
        self.name = name
        self.options = options
        self.arch = options.arch
        self.override = own_part(options.schedule, program)
        self.knobs = knobs
        self.lock = threading.RLock()
        self.choices: dict[Request, Choice] = {}
        self.schedules: dict[str, ModuleSchedule] = {}
        self.sources: dict[tuple[Cuts, bool], Source] = {}
        self.loaded: dict[tuple[object, ...], Loaded] = {}
        self.modules: dict[tuple[Cuts, bool, bool], ModuleType] = {}
        self.narrower: dict[frozenset[str], Kernels] = {}
        self.special: dict[str, Kernels] = {}
        self.refusals = Refusals(program, knobs, options.local)
        self.told: dict[str, tuple[tuple[str, tuple[Note, ...]], ...]] = {}
        self.one_walk: Kernels | None = None
        self.forms: dict[tuple[object, ...], tuple[bool, str]] = {}
        self.kept = TileListCache()

    @property
    def saved(self) -> tuple[str, ...]:
        """Steps that the forward keeps for the backward, in the order in which the backward takes them."""
        return tuple(item.name for item in self.program.backward.saved) if self.program.backward is not None else ()

    def at(self, dtype: str) -> Kernels:
        """Kernels for arguments of a dtype, by its short name: these, where its precision changes nothing."""
        with self.lock:
            if dtype not in self.special:
                program = for_dtype(self.program, dtype, watching(self.knobs))
                self.told[dtype] = program.rewrites
                mine = self if program.kernels == self.program.kernels else Kernels(program, self.name, self.options, self.knobs)
                self.special[dtype] = mine
            return self.special[dtype]

    def wanting(self, names: frozenset[str]) -> Kernels:
        """Kernels whose backward computes the gradients of these inputs and no others; in strict mode all, as they were stored.

        A tile of a bias that nobody trains is then never stored, a slope's never summed.
        """
        every = {item.name for item in self.program.cascade.inputs if item.differentiable} - {name for name, _ in self.program.refused}
        if names >= every or self.knobs.strict:
            return self
        with self.lock:
            if names not in self.narrower:
                program, delta, watch = self.program, self.options.precise_delta, watching(self.knobs)
                general = analyse(program.cascade, watch, wanted=names, without=program.without, asked=program.asked, precise_delta=delta)
                program = for_dtype(general, self.program.dtype)
                gone = roles(self.program) - roles(program)
                schedule = tuple(item for item in self.options.schedule if item[0] not in gone) if self.options.schedule else None
                self.narrower[names] = Kernels(program, self.name, replace(self.options, schedule=schedule), self.knobs)
            return self.narrower[names]

    def fused(self) -> Kernels | None:
        """The same with the backward in one walk, None where it has no such form."""
        with self.lock:
            if self.one_walk is None:
                program = fused(self.program, watching(self.knobs))
                if program is not None:
                    self.one_walk = Kernels(program, self.name, self.options, self.knobs)
            return self.one_walk

    def source(self, dims: Mapping[str, int], specialised: bool = False) -> Source:
        """The emitted module for these feature lengths; its text depends only on how they are cut into tiles, and on whether the forward
        has specialised warps too, as a schedule or the user may ask."""
        with self.lock:
            return self._source(dims, specialised or asks_specialised(self.override))

    def _source(self, dims: Mapping[str, int], specialised: bool) -> Source:
        key = (cuts(dims), specialised)
        if key not in self.sources:
            self.sources[key] = build(self.program, self.name, *key, watching(self.knobs))
        return self.sources[key]

    def target(self, device: torch.device) -> targets.Target:
        """The target that schedules are for: the one asked for, else the device's, and sm90's for the CPU.

        Raises:
            ArchMismatch: tensors live on a device of another architecture than the one asked for.
        """
        if device.type != "cuda" or self.knobs.interpret:
            return targets.get(self.arch or "sm90")
        here = target_of(device)
        if self.arch is not None and here.name != self.arch:
            raise ArchMismatch(
                f"compiled for {self.arch}, but the tensors are on {device}, which is {here.name}",
                remedy=f'Compile with arch="{here.name}", or arch=None for the device of the tensors.',
            )
        return here

    def request(
        self, dims: Mapping[str, int], dtype: str, target: targets.Target, lengths: tuple[int, int] | None, singles: tuple[str, ...] = ()
    ) -> Request:
        """What tiles are chosen for, of a call with these lengths."""
        return Request(tuple(dims.items()), dtype, target, "long" if lengths is None else length_class(*lengths), singles)

    def choice(
        self,
        dims: Mapping[str, int],
        dtype: str,
        target: targets.Target,
        lengths: tuple[int, int] | None = None,
        singles: tuple[str, ...] = (),
    ) -> Choice:
        """Tiles for every kernel, with the reasons.

        Raises:
            DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
        """
        request = self.request(dims, dtype, target, lengths, singles)
        with self.lock:
            if request not in self.choices:
                tuned = tuned_tiles(self.knobs, self.options.local)
                # What is stored, or made for others, has no specialised warps that nobody asked for.
                kept = self.knobs.strict or self.options.stored or not self.options.local
                tuned = tuned.unspecialised() if kept else tuned
                asked = None if self.override is None else thaw(self.override)
                refused, watch = partial(self.refusals.why, request), watching(self.knobs)
                self.choices[request] = schedule(self.program, request, tuned, refused, asked, watch)
            return self.choices[request]

    def settled(
        self,
        dims: Mapping[str, int],
        dtype: str,
        target: targets.Target,
        lengths: tuple[int, int] | None = None,
        singles: tuple[str, ...] = (),
    ) -> ModuleSchedule:
        """The schedule that kernels run with: the choice where it rests on measurements, else what a real compile made of it.

        Compiles at most each unmeasured kernel once and each rejected leader's successor once; the result is kept in the cache. Where a
        compiler fails on both, the choice is made again without them. A user's tile is compiled if it may not fit, and has no successor.
        In strict mode a class of lengths for which nothing is stored takes what is stored for long ones.

        Raises:
            CompileFailed: no tile of a kernel compiles and fits, or a user's does not. MissingKernel: strict mode, and nothing is stored.
        """
        request = self.request(dims, dtype, target, lengths, singles)
        while (choice := self.choice(dims, dtype, target, lengths, singles)).unsettled:
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
                return self.settled(request.extents, request.dtype, request.target)
            if self.knobs.strict:
                raise self.missing(request.extents, request.dtype, request.target)
            _log.info("attngen: compiling %s for %s to settle its tiles", self.name, request.target.name)
            source = self._source(request.extents, choice.schedule.specialised)
            module = self._module(source, False, request.target, request.extents, request.dtype)
            settled = settle(Emitted(source, module), choice, request)
            self._refuse(request, settled.failed)
            if settled.open:
                return None
            text = str(settled.schedule)
            entry = store(self.knobs).build(key, lambda: Artefacts({"schedule.txt": text.encode()}, {"kind": "schedule"}))
        return parse_schedule(entry.content("schedule.txt").decode())

    def get(self, dims: Mapping[str, int], tensor: Tensor, lengths: tuple[int, int], singles: tuple[str, ...] = ()) -> Loaded:
        """The module and tiles for a call with operands like `tensor`; `singles` are the other arguments that are fp32."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        target = self.target(tensor.device)
        interpret = tensor.device.type == "cpu" or self.knobs.interpret
        found = (dims, dtype, target, lengths, singles)
        schedule = self.choice(*found).schedule if interpret else self.settled(*found)
        key = (tuple(sorted(dims.items())), dtype, singles, target.name, interpret, schedule)
        if key not in self.loaded:
            module = self.module(self.source(dims, schedule.specialised), interpret, target, dims, dtype)
            self.loaded[key] = Loaded(module, schedule.as_tiles(self.program.kernels))
        return self.loaded[key]

    def module(self, source: Source, interpret: bool, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        """The loaded module of a source; written to the cache, since Triton reads functions from files."""
        with self.lock:
            return self._module(source, interpret, target, dims, dtype)

    def _module(self, source: Source, interpret: bool, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        key = (cuts(dims), source.specialised, interpret)
        if key not in self.modules:
            self.modules[key] = self.load(source, interpret, target, dims, dtype)
        return self.modules[key]

    def load(self, source: Source, interpret: bool, target: targets.Target, dims: Mapping[str, int], dtype: str) -> ModuleType:
        # Imported here, so that tracing works without Triton; its absence is noticed before a module of kernels asks for it.
        from attngen.interpreter.interpreter import interpreted

        text_hash = hashlib.sha256(source.text.encode()).hexdigest()
        key = kernel_key(str(source.program.cascade), f"text={text_hash}", target.name, toolchain(self.knobs))
        entry = stored(store(self.knobs), key, source.text, self.knobs, lambda: self.missing(dims, dtype, target))
        module = load_module(entry.file("kernels.py"), f"attngen_{self.name}_{key[:12]}", text=entry.content("kernels.py"))
        if not interpret:
            return module
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
