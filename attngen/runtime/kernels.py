"""The kernels of one program: modules by the cuts of feature axes, loaded for the compiler or the interpreter, with tiles for a call."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from attngen import target as targets
from attngen.cache.entry import Artefacts
from attngen.cache.key import kernel_key, request_key
from attngen.cache.load import load_module
from attngen.errors import ArchMismatch, MissingKernel
from attngen.explain import watching
from attngen.ir.pieces import Cuts, cuts
from attngen.knobs import Knobs
from attngen.pipeline import Program, Source, analyse, build, for_dtype, fused
from attngen.runtime.kept import KeptLists
from attngen.runtime.own_tiles import tuned_tiles
from attngen.runtime.stores import store, stored, toolchain
from attngen.schedule.choose import Choice, Request, choose, with_asked
from attngen.schedule.forms import form_of
from attngen.schedule.measured import table
from attngen.schedule.plan import ModuleSchedule, check_specialised, override, parse_schedule
from attngen.schedule.space import length_class
from attngen.transform.splitting import PARTS

_log = logging.getLogger("attngen")
Frozen = tuple[tuple[str, object], ...]
"""A user's schedule as a hashable value."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module ready to launch: its host functions, and the tiles by role."""

    module: ModuleType
    tiles: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Options:
    """What `compile` was asked for besides the variant. `arch` None: the device of the tensors; `schedule`: the user's
    tiles, frozen; `keep_lists`: lists of tiles outlive a call; `without`: rewrites left out, `asked`: those carried out in any case;
    `local`: tiles that were tuned on this machine count, which a product for others must not depend on; `gradients`: it has a backward;
    `divided`: programs share the stream of the forward, and there is no backward; `deterministic`: results are the same in every run,
    whatever PyTorch is told; `precise_delta`: delta is summed over the keys, None where the derivation knows that it matters; `stored`: for
    calls in strict mode."""

    arch: str | None = None
    schedule: Frozen | None = None
    keep_lists: bool = False
    without: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    local: bool = True
    gradients: bool = True
    divided: bool = False
    deterministic: bool = False
    precise_delta: bool | None = None
    stored: bool = False


def freeze(schedule: Mapping[str, Any]) -> Frozen:
    """A user's schedule as a hashable value."""
    return tuple((str(name), freeze(value) if isinstance(value, Mapping) else value) for name, value in schedule.items())


def thaw(schedule: Frozen) -> dict[str, object]:
    """The inverse of `freeze`."""
    return {name: thaw(value) if isinstance(value, tuple) else value for name, value in schedule}  # pyright: ignore[reportUnknownArgumentType]


def asks_specialised(schedule: Frozen | None) -> bool:
    """Whether a user's frozen schedule asks for the warp-specialised form of the forward."""
    said = thaw(schedule or ())
    own = said.get("forward", said)
    return isinstance(own, Mapping) and cast("Mapping[str, object]", own).get("SPECIALISED") is True


def forward_only(schedule: Frozen | None) -> Frozen | None:
    """What a user's frozen schedule says of the forward, for calls of few queries, where warps have too few rows to divide; None where it
    says nothing."""
    said = [item for item in schedule or () if item[0] == "forward" or not isinstance(item[1], tuple)]
    kept = [(name, _unspecialised(cast("Frozen", value)) if isinstance(value, tuple) else value) for name, value in said]
    return tuple(item for item in _unspecialised(kept) if item[1] != ()) or None


def _unspecialised(schedule: Iterable[tuple[str, object]]) -> Frozen:
    return tuple(item for item in schedule if item[0] != "SPECIALISED")


def in_parts_only(schedule: Frozen | None) -> Frozen | None:
    """What a user's frozen schedule says of the forward, for the kernel that walks its parts; None where it says nothing."""
    said = forward_only(schedule) or ()
    whole = [item for item in said if item[0] != "forward"]
    mine = next((value for name, value in said if name == "forward"), tuple(whole))
    return ((PARTS, mine),) if mine else None


def roles(program: Program) -> frozenset[str]:
    """Of the kernels of a program, and of those that it has if its backward is one walk."""
    other = fused(program)
    return frozenset(kernel.role for form in (program, other) if form is not None for kernel in form.kernels)


def own_part(schedule: Frozen | None, program: Program) -> Frozen | None:
    """A user's frozen schedule without what it says of kernels that only the other form of the backward has; None where nothing is left."""
    own = {kernel.role for kernel in program.kernels}
    named = {name for name, value in schedule or () if isinstance(value, tuple)}
    gone = {name for name, value in schedule or () if value == () and name in own}
    if any(kernel.added for kernel in program.kernels):
        gone |= {name for name in named if form_of({name}) == "two walks"}
    elif any(form_of({name}) == "one walk" for name in named):
        gone |= roles(program) - own
    return tuple(item for item in schedule or () if item[0] not in gone) or None


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
        self.one_walk: Kernels | None = None
        self.forms: dict[tuple[object, ...], tuple[bool, str]] = {}
        self.kept = KeptLists()

    @property
    def saved(self) -> tuple[str, ...]:
        """Steps that the forward keeps for the backward, in the order in which the backward takes them."""
        return tuple(item.name for item in self.program.backward.saved) if self.program.backward is not None else ()

    def at(self, dtype: str) -> Kernels:
        """Kernels for arguments of a dtype, by its short name: these, where its precision changes nothing."""
        with self.lock:
            if dtype not in self.special:
                program = for_dtype(self.program, dtype)
                watching(self.knobs)("rewrite", program.kernels)
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
                program = fused(self.program)
                if program is not None:
                    watching(self.knobs)("rewrite", program.kernels)
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
            self.sources[key] = build(self.program, self.name, *key)
        return self.sources[key]

    def target(self, device: torch.device) -> targets.Target:
        """The target that schedules are for: the one asked for, else the device's, and sm90's for the CPU.

        Raises:
            ArchMismatch: tensors live on a device of another architecture than the one asked for.
        """
        if device.type != "cuda" or self.knobs.interpret:
            return targets.get(self.arch or "sm90")
        here = _device_target(device)
        if self.arch is not None and here.name != self.arch:
            raise ArchMismatch(
                f"compiled for {self.arch}, but the tensors are on {device}, which is {here.name}",
                remedy=f'Compile with arch="{here.name}", or arch=None for the device of the tensors.',
            )
        return here

    def choice(self, dims: Mapping[str, int], dtype: str, target: targets.Target, lengths: tuple[int, int] | None = None) -> Choice:
        """Tiles for every kernel, with the reasons.

        Raises:
            DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
        """
        length = "long" if lengths is None else length_class(*lengths)
        request = Request(tuple(dims.items()), dtype, target, length)
        with self.lock:
            if request not in self.choices:
                tuned = tuned_tiles(self.knobs, self.options.local)
                # What is stored, or made for others, has no specialised warps that nobody asked for.
                kept = self.knobs.strict or self.options.stored or not self.options.local
                tuned = tuned.unspecialised() if kept else tuned
                choice = choose(self.program.kernels, request, table(), tuned)
                if self.override is not None:
                    schedule = override(choice.schedule, self.program.kernels, thaw(self.override))
                    check_specialised(schedule, dims, dtype, target)
                    choice = with_asked(choice, self.program.kernels, request, schedule)
                self.choices[request] = choice
            return self.choices[request]

    def settled(
        self, dims: Mapping[str, int], dtype: str, target: targets.Target, lengths: tuple[int, int] | None = None, wide: Sequence[str] = ()
    ) -> ModuleSchedule:
        """The schedule that kernels run with: the choice where it rests on measurements, else what a real compile made of it.

        Compiles at most each unmeasured kernel once and each rejected leader's successor once; the result is kept in the cache. A user's
        tile is compiled if it may not fit, and has no successor. In strict mode a class of lengths for which nothing is stored takes what
        is stored for long ones.

        Raises:
            CompileFailed: no tile of a kernel compiles and fits, or a user's does not. MissingKernel: strict mode, and nothing is stored.
        """
        choice = self.choice(dims, dtype, target, lengths)
        if not choice.unsettled:
            return choice.schedule
        length = "long" if lengths is None else length_class(*lengths)
        request = Request(tuple(dims.items()), dtype, target, length, tuple(wide))
        gradients = ",".join(gradient.target for gradient in self.program.backward.gradients) if self.program.backward is not None else ""
        without, required = (",".join(sorted(names)) for names in (self.program.without, self.program.asked))
        asked = {"dims": str(request.dims), "dtype": dtype, "length": length, "gradients": gradients, "delta": self.program.delta}
        asked |= {"without": without, "asked": required, "choice": str(choice.schedule)}
        asked |= {"float32": ",".join(wide)} if wide else {}
        key = request_key(str(self.program.cascade), target.name, asked, toolchain(self.knobs))
        with self.lock:
            if key not in self.schedules:
                self.schedules[key] = self._settle(key, choice, request)
            return self.schedules[key]

    def _settle(self, key: str, choice: Choice, request: Request) -> ModuleSchedule:
        from attngen.runtime.measure import Emitted, settle

        entry = store(self.knobs).try_load(key)
        if entry is None:
            if self.knobs.strict and request.length != "long":
                return self.settled(request.extents, request.dtype, request.target)
            if self.knobs.strict:
                raise self.missing(request.extents, request.dtype, request.target)
            _log.info("attngen: compiling %s for %s to settle its tiles", self.name, request.target.name)
            source = self._source(request.extents, choice.schedule.specialised)
            module = self._module(source, False, request.target, request.extents, request.dtype)
            text = str(settle(Emitted(source, module), choice, request).schedule)
            entry = store(self.knobs).build(key, lambda: Artefacts({"schedule.txt": text.encode()}, {"kind": "schedule"}))
        return parse_schedule(entry.content("schedule.txt").decode())

    def get(self, dims: Mapping[str, int], tensor: Tensor, lengths: tuple[int, int], singles: tuple[str, ...] = ()) -> Loaded:
        """The module and tiles for a call with operands like `tensor`; `singles` are the other arguments that are fp32."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        target = self.target(tensor.device)
        interpret = tensor.device.type == "cpu" or self.knobs.interpret
        wanted = (dims, dtype, target, lengths)
        schedule = self.choice(*wanted).schedule if interpret else self.settled(*wanted, singles)
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
        from attngen.runtime.interpreter import interpreted

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
def _device_target(device: torch.device) -> targets.Target:
    if torch.version.hip is not None:
        return targets.get(torch.cuda.get_device_properties(device).gcnArchName.split(":")[0])
    return targets.from_capability(*torch.cuda.get_device_capability(device))


@cache
def _notice() -> None:
    _log.warning("attngen: CPU tensors run in Triton's interpreter: slow, for checking only.")


def contiguous_features(names: Sequence[str | None], tensors: Sequence[object], notice: set[str] | None) -> list[object]:
    """Copies of tensors that have a name here and whose last dimension is strided; everything else as it is. `notice` collects the
    names it was said of."""
    result: list[object] = []
    for name, tensor in zip(names, tensors, strict=True):
        if name is not None and isinstance(tensor, Tensor) and tensor.dim() > 0 and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
            if notice is not None and name not in notice:
                notice.add(name)
                _log.warning("attngen: %s is not contiguous in its last dimension and is copied at each call.", name)
            tensor = tensor.contiguous()
        result.append(tensor)
    return result
