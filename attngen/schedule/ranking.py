"""Ranks the candidates of a kernel by predicted time, those that do not fit or do not compile apart.

Takes a `Structure` and a `Request`, gives `Candidate`s, each with why it lost against the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from attngen.errors import CompileFailed, DoesNotFit
from attngen.facts.work import Structure
from attngen.kernel.feature_tiles import columns
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.cost.time import Cost, price
from attngen.schedule.cost.warps import repeats
from attngen.schedule.space import LengthClass, candidates
from attngen.schedule.tile_schedule import DTYPE_BYTES, FLAGS, TileSchedule
from attngen.targets.table import Target

Refused = Callable[[str, TileSchedule], str]
"""Why the compiler failed on a tile of a kernel, "" where no failure is known."""
# A single-stage tile must be predicted this much faster than a multi-stage one, for the latency of its loads is a guess.
SINGLE_STAGE_PENALTY = 1.15
# After this many failures no tile is expected to compile.
_TRIES = 6
# After this many failures in one form the form is expected to fail.
_TRIES_OF_A_FORM = 2


@dataclass(frozen=True, slots=True)
class Request:
    """Extents of the feature axes, dtype of the tensors, target and length class; `singles` are the fp32 arguments without feature axes
    among tensors of another dtype."""

    dims: tuple[tuple[str, int], ...]
    dtype: str
    target: Target
    length: LengthClass = "long"
    singles: tuple[str, ...] = ()

    @property
    def extents(self) -> dict[str, int]:
        """`dims` as a dict."""
        return dict(self.dims)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A tile with its cost and why it lost, "" for the one chosen."""

    tile: TileSchedule
    cost: Cost
    lost: str

    def __str__(self) -> str:
        return f"{self.tile}: {self.lost or 'taken'}; {self.cost}"


def rank(kernel: Structure, request: Request) -> tuple[Candidate, ...]:
    """All candidates: those that fit by price, then those that do not, each with why it lost against the first.

    Raises:
        DoesNotFit: none fits.
    """
    fits: list[Candidate] = []
    others: list[Candidate] = []
    for tile in candidates(kernel, request.dtype, request.target, request.length):
        cost = price(kernel, request.extents, request.dtype, tile, request.target, request.length)
        lost = _lost(cost, request)
        (others if lost else fits).append(Candidate(tile, cost, lost))
    if not fits:
        raise does_not_fit(kernel, request)
    # A single stage exposes the latency of every load: only where a second stage does not fit.
    staged = {replace(item.tile, num_stages=1) for item in fits if item.tile.num_stages > 1}
    fits = [item for item in fits if item.tile not in staged]
    # Issued after the maximum, a score dot may feed the next of its accumulation chain, which repeats work across warps that share rows.
    fits = [item for item in fits if not _repeats_more_late(kernel, request, item.tile)]
    # Sorting is stable: ties go to the earlier candidate.
    fits.sort(key=lambda item: (_expected_us(item), item.tile.num_stages))
    best = fits[0].cost.total_us or 1.0
    slower = [Candidate(item.tile, item.cost, _slower(item, best)) for item in fits[1:]]
    others.sort(key=lambda item: item.cost.total_us)
    return (fits[0], *slower, *others)


def _repeats_more_late(kernel: Structure, request: Request, tile: TileSchedule) -> bool:
    """Whether warps repeat more of each other's work with dots issued after the maximum than before it."""
    before, after = (repeats(kernel, request.extents, request.dtype, form, request.target) for form in (replace(tile, late=False), tile))
    return after.products > before.products


def _expected_us(item: Candidate) -> float:
    """The predicted time for comparisons, with a penalty on a single stage."""
    return item.cost.total_us * (SINGLE_STAGE_PENALTY if _single_stage(item) else 1)


def _single_stage(item: Candidate) -> bool:
    return item.tile.num_stages == 1 and item.tile.streamed is not None


def _slower(item: Candidate, best_us: float) -> str:
    return f"{item.cost.total_us / best_us:.2f} times the predicted time{', without room for a second stage' * _single_stage(item)}"


def skip_refused(
    ranked: tuple[Candidate, ...], known: tuple[TileSchedule | None, ...], kernel: Structure, request: Request, refused: Refused
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Candidates led by the first without a known compile failure, and those that failed.

    Raises:
        CompileFailed: too many failed.
    """
    failed: list[Candidate] = []
    for tile in dict.fromkeys(tile for tile in known if tile is not None):
        if not (why := refused(kernel.role, tile)):
            return ranked, tuple(failed)
        cost = price(kernel, request.extents, request.dtype, tile, request.target, request.length)
        failed.append(Candidate(tile, cost, f"does not compile: {why}"))
    while len(failed) < _TRIES:
        gone = {item.tile for item in failed}
        forms = Counter(flag for item in failed for flag in _form(item.tile))
        suspect = {flag for flag, count in forms.items() if count >= _TRIES_OF_A_FORM}
        rest = [item for item in ranked if item.tile not in gone and not _lost(item.cost, request)]
        rest = [item for item in distinct(tuple(rest)) if not suspect & _form(item.tile)] or rest
        if not rest:
            break
        if not (why := refused(kernel.role, rest[0].tile)):
            first = replace(rest[0], lost="")
            return (first, *(item for item in ranked if item.tile not in {*gone, first.tile})), tuple(failed)
        failed.append(replace(rest[0], lost=f"does not compile: {why}"))
    raise CompileFailed(
        f"no tile of {kernel.role} compiles for {request.target.name}; of {len(failed)} tried, {failed[0].tile} {failed[0].lost}",
        remedy="Set another tile with schedule=, rewrite the variant, or use another version of Triton.",
    )


def _form(tile: TileSchedule) -> set[str]:
    return {flag for flag in FLAGS if getattr(tile, flag)}


def distinct(ranked: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """The first candidate for each tile, number of warps and form; the number of stages changes neither arithmetic nor registers."""
    first = {replace(item.tile, num_stages=1): item for item in reversed(ranked)}
    return tuple(item for item in ranked if first[replace(item.tile, num_stages=1)] is item)


def _lost(cost: Cost, request: Request) -> str:
    # float64 kernels run in the interpreter, which has no limits.
    return "" if request.dtype == "float64" else _excess(cost, request.target)


def _excess(cost: Cost, target: Target) -> str:
    if cost.shared_bytes > target.shared_bytes:
        return f"needs {cost.shared_bytes} B of shared memory, {target.name} has {target.shared_bytes}"
    return ""


def does_not_fit(kernel: Structure, request: Request) -> DoesNotFit:
    """The error for a kernel whose smallest tile exceeds the shared memory, with the head dim that would fit."""
    target, item = request.target, DTYPE_BYTES[request.dtype]
    tiles = candidates(kernel, request.dtype, target, request.length)
    smallest = min(tiles, key=lambda tile: shared_bytes(kernel, request.extents, request.dtype, tile, target))
    total = shared_bytes(kernel, request.extents, request.dtype, smallest, target)
    names = {axis: columns(request.extents[axis]) for axis in kernel.features}
    resident = sum(smallest.resident * names[axis] * item for axis in kernel.resident_tiles)
    fitting = _largest_extent(kernel, request, smallest)
    extents = ", ".join(f"{axis} = {length}" for axis, length in request.dims if axis in names)
    return DoesNotFit(
        f"{kernel.role} does not fit {target.name} at {extents} in {request.dtype}: its smallest tile ({smallest}) needs {total} bytes "
        f"of shared memory, {resident} for resident and {total - resident} for streamed tiles; a program may have {target.shared_bytes}",
        remedy=f"Head dims up to {fitting} fit" + (", and a 2-byte dtype halves the need." if item > 2 else "."),
    )


def _largest_extent(kernel: Structure, request: Request, tile: TileSchedule) -> int:
    def need(extent: int) -> int:
        return shared_bytes(kernel, dict.fromkeys(kernel.features, extent), request.dtype, tile, request.target)

    extent = 16
    while need(2 * extent) <= request.target.shared_bytes:
        extent *= 2
    return extent
