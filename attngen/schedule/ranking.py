"""Candidates for a kernel in the order in which they are worth trying: by price, without what does not fit and what does not compile.

Takes the facts of a kernel and what it is for, gives `Candidate`s, each with why it lost against the first.
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
"""Why a compiler failed on a tile of a kernel, "" where it is not known to."""
# A tile without a second stage has to be this much faster than one with it: how long its copies are waited for is a guess.
UNSTAGED = 1.15
# So many tiles that do not compile mean that none does.
_TRIES = 6
# A compiler that fails on two tiles of a form is thought to fail on the form.
_TRIES_OF_A_FORM = 2


@dataclass(frozen=True, slots=True)
class Request:
    """What kernels are scheduled for: extents of the feature axes, dtype of the tensors, target, class of lengths; `singles` are the
    arguments without features that are fp32 beside others."""

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
    """A tile with its price, and why it lost; "" for the one taken."""

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
    # Without a second stage every copy is waited for: only a tile that has no room for one goes without.
    roomy = {replace(item.tile, num_stages=1) for item in fits if item.tile.num_stages > 1}
    fits = [item for item in fits if item.tile not in roomy]
    # Behind the maximum a product of scores may feed the next of its accumulator, which warps beside each other would form each for itself.
    fits = [item for item in fits if not _repeats_behind(kernel, request, item.tile)]
    # Sorting is stable: at equal price the first in the order of the candidates wins.
    fits.sort(key=lambda item: (_expected_us(item), item.tile.num_stages))
    best = fits[0].cost.total_us or 1.0
    slower = [Candidate(item.tile, item.cost, _slower(item, best)) for item in fits[1:]]
    others.sort(key=lambda item: item.cost.total_us)
    return (fits[0], *slower, *others)


def _repeats_behind(kernel: Structure, request: Request, tile: TileSchedule) -> bool:
    """Whether warps repeat more of each other's work behind the maximum than before it."""
    before, behind = (repeats(kernel, request.extents, request.dtype, form, request.target) for form in (replace(tile, late=False), tile))
    return behind.products > before.products


def _expected_us(item: Candidate) -> float:
    """The price of a tile for comparisons: what waits for its copies has to be clearly better to be tried first."""
    return item.cost.total_us * (UNSTAGED if _waits(item) else 1)


def _waits(item: Candidate) -> bool:
    return item.tile.num_stages == 1 and item.tile.streamed is not None


def _slower(item: Candidate, best_us: float) -> str:
    return f"{item.cost.total_us / best_us:.2f} times the predicted time{', without room for a second stage' * _waits(item)}"


def passed_over(
    ranked: tuple[Candidate, ...], known: tuple[TileSchedule | None, ...], kernel: Structure, request: Request, refused: Refused
) -> tuple[tuple[Candidate, ...], tuple[Candidate, ...]]:
    """Candidates with the first that may compile in front, and those that a compiler failed on.

    Raises:
        CompileFailed: it failed on too many.
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
        f"no tile of the kernel {kernel.role} compiles for {request.target.name}; of {len(failed)}, {failed[0].tile} {failed[0].lost}",
        remedy="Name another tile with schedule=, another form of the variant, or another version of Triton.",
    )


def _form(tile: TileSchedule) -> set[str]:
    return {flag for flag in FLAGS if getattr(tile, flag)}


def distinct(ranked: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """The first of each tile, number of warps and form; other stages change neither arithmetic nor registers."""
    first = {replace(item.tile, num_stages=1): item for item in reversed(ranked)}
    return tuple(item for item in ranked if first[replace(item.tile, num_stages=1)] is item)


def _lost(cost: Cost, request: Request) -> str:
    # Kernels in float64 run in the interpreter, which knows no limits.
    return "" if request.dtype == "float64" else _misfit(cost, request.target)


def _misfit(cost: Cost, target: Target) -> str:
    if cost.shared_bytes > target.shared_bytes:
        return f"needs {cost.shared_bytes} B of shared memory, {target.name} has {target.shared_bytes}"
    return ""


def does_not_fit(kernel: Structure, request: Request) -> DoesNotFit:
    """The error for a kernel whose smallest tile is too large: which bytes, and which head dim would fit."""
    target, item = request.target, DTYPE_BYTES[request.dtype]
    tiles = candidates(kernel, request.dtype, target, request.length)
    smallest = min(tiles, key=lambda tile: shared_bytes(kernel, request.extents, request.dtype, tile, target))
    total = shared_bytes(kernel, request.extents, request.dtype, smallest, target)
    names = {axis: columns(request.extents[axis]) for axis in kernel.features}
    kept = sum(smallest.resident * names[axis] * item for axis in kernel.resident_tiles)
    fitting = _largest_extent(kernel, request, smallest)
    extents = ", ".join(f"{axis} = {length}" for axis, length in request.dims if axis in names)
    return DoesNotFit(
        f"the kernel {kernel.role} does not fit {target.name} at {extents} in {request.dtype}: its smallest tile "
        f"({smallest}) needs {total} bytes of shared memory, {kept} for what it keeps and {total - kept} for what it streams; "
        f"a program may have {target.shared_bytes}",
        remedy=f"Feature extents up to {fitting} fit" + (", and a 2-byte dtype halves the need." if item > 2 else "."),
    )


def _largest_extent(kernel: Structure, request: Request, tile: TileSchedule) -> int:
    def need(extent: int) -> int:
        return shared_bytes(kernel, dict.fromkeys(kernel.features, extent), request.dtype, tile, request.target)

    extent = 16
    while need(2 * extent) <= request.target.shared_bytes:
        extent *= 2
    return extent
