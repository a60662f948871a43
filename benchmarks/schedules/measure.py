"""Compile every kernel of plain attention and of the catalogue for every target, and record the best tile of each.

    python benchmarks/schedules/measure.py --arch sm90 --dtype bfloat16
    python benchmarks/schedules/measure.py --variant differential --dims 64 128

For each kernel the candidates are taken in the order of the cost model. The first that fits shared memory, has asynchronous wgmma and does
not spill is chosen; if none of the first few does, the one that spills least. If the warps of that one repeat dots, one without repeats and
with few spills replaces it if it is cheaper. Where a kernel has several forms, or the leader repeats dots, only SASS tells, so the first
few are all compiled and the one with the least predicted time of its loops is chosen. Rows go into `attngen/schedule/table.json` after
every target and dtype; existing rows are kept unless `--again` is given. No GPU is needed. `report.py` makes the readable tables.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from attngen import catalog
from attngen.cache.load import load_module
from attngen.errors import CompileFailed, DoesNotFit
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.pipeline import analyse, build, for_dtype, fused
from attngen.schedule import tables as measured
from attngen.schedule.backward_choice import SPILLED_BYTES
from attngen.schedule.choose import Candidate, Request, distinct, rank
from attngen.schedule.cost.shared_memory import shared_bytes
from attngen.schedule.cost.time import price
from attngen.schedule.cost.warps import repeats
from attngen.schedule.space import LengthClass
from attngen.schedule.tables import Measured
from attngen.targets import table as target
from attngen.toolchain.compile import Compiled, compile_many
from attngen.toolchain.loop_report import seen, work_of
from attngen.toolchain.settle import Emitted, Task, compile_job, fault, row_of

TABLE = Path(measured.__file__).with_name("table.json")
DTYPES = ("bfloat16", "float16", "float32")
# One extent of every kind: exact, padded, in several feature tiles, and two different ones.
DIMS = ("256", "192", "192,128", "576,512", "128", "96", "80", "64", "40", "32", "24", "16", "8")
# Spills outside of the loops that are tolerated in a kernel with several compiled forms; in a backward, if the best other tile is predicted
# to be `CLEAN_IS_TOO_SLOW` times as slow. A faultless tile may spill more if the best one is as much slower, compiled.
TOLERATED_SPILL_BYTES = 32
CLEAN_IS_TOO_SLOW = 1.25
# A tile that spills outside of its loops must be this much faster than one that does not.
SPILLING = 1.05
# The weight of an iteration of the masked loop: it decides between tiles with equal full loops.
MASKED_SHARE = 1 / 16
# A tile counts as exact if warps repeat less work than this.
REPEATED = 1.01


@dataclass
class Case:
    """One kernel to find a tile for."""

    emitted: Emitted
    role: str
    request: Request
    ranked: list[Candidate]
    tried: list[tuple[Candidate, Measured, float]]
    attempts: int
    thorough: bool

    def clean(self) -> bool:
        """Whether the last tile tried has no fault and no spills."""
        row = self.tried[-1][1] if self.tried else None
        return row is not None and not fault(row, self.request) and row.spill_bytes == 0

    def over(self) -> bool:
        """Whether the search is finished."""
        return (self.clean() and not self.thorough) or not self.ranked or len(self.tried) >= self.attempts

    def rows(self) -> Iterator[Measured]:
        """The chosen row, and the one without spills if that is another."""
        fits = [(item, row, us) for item, row, us in self.tried if row.shared_bytes <= self.request.target.shared_bytes]
        if not fits:
            return
        best = min(fits, key=lambda one: self._badness(*one))
        tolerable = [one for one in fits if self._tolerable(one[1])]
        clean = best if best[1].spill_bytes == 0 else None
        if tolerable and best[0].cost.total_us > CLEAN_IS_TOO_SLOW * tolerable[0][0].cost.total_us:
            best = tolerable[0]
        once = [one for one in fits if self._once(one[1]) and one[2] < best[2]]
        if once and not self._once(best[1]):
            best = min(once, key=lambda one: one[2])
        runnable = [one for one in fits if self.thorough and self._may_run(one[1])]
        if runnable and best[2] > CLEAN_IS_TOO_SLOW * min(one[2] for one in runnable):
            best = min(runnable, key=lambda one: one[2])
        yield best[1]
        if clean is not None and clean is not best:
            yield replace(clean[1], rank="no spill")

    def _badness(self, _item: Candidate, row: Measured, us: float) -> tuple[bool, int, int, float]:
        tolerated = TOLERATED_SPILL_BYTES if self.thorough else 0
        outside = max(0, row.spill_bytes - tolerated)
        return bool(fault(row, self.request)), row.loop_spill_bytes, outside, us * (SPILLING if row.spill_bytes else 1)

    def _may_run(self, row: Measured) -> bool:
        """Whether a tile has no fault; the fused backward has a limit of its own on spills."""
        kernel = next(kernel for kernel in self.emitted.source.program.kernels if kernel.role == self.role)
        return not fault(row, self.request) and (not kernel.atomic_adds or row.loop_spill_bytes <= SPILLED_BYTES)

    def _once(self, row: Measured) -> bool:
        """Whether a tile repeats no dots and has no fault."""
        request = self.request
        held = self.emitted.source.program.facts_of(self.role).work
        work = repeats(held, request.extents, request.dtype, row.schedule, request.target).products
        return work < REPEATED and not fault(row, request)

    def _tolerable(self, row: Measured) -> bool:
        quiet = row.loop_spill_bytes == 0 and row.spill_bytes <= TOLERATED_SPILL_BYTES
        return self.role != "forward" and quiet and not fault(row, self.request)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", nargs="+", default=[item.name for item in target.TARGETS])
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--attempts", type=int, default=8, help="tiles to try before the best so far is taken")
    parser.add_argument("--dims", nargs="+", default=list(DIMS), help='head dims, or "Dqk,Dv"')
    parser.add_argument("--length", nargs="+", default=["long"], choices=("decode", "short", "long"))
    parser.add_argument("--variant", nargs="+", default=["full", "causal"], help="names of the catalogue, or package.module:object")
    parser.add_argument("--role", nargs="+", help="only these kernels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="measure what the table has already")
    parser.add_argument("--predict", action="store_true", help="compile nothing, write the predictions of today's model into the table")
    options = parser.parse_args()
    if options.predict:
        predict(options.variant)
        return
    for arch in options.arch:
        for dtype in options.dtype:
            for length in options.length:
                began = time.monotonic()
                requests = [Request(_dims(text), dtype, target.get(arch), length) for text in options.dims]
                compiles = run(list(cases(requests, options)), options.workers)
                print(f"{arch} {dtype} {length}: {compiles} compiles in {time.monotonic() - began:.0f} s", flush=True)


def _dims(text: str) -> tuple[tuple[str, int], ...]:
    first, _, second = text.partition(",")
    return (("d", int(first)), ("e", int(second or first)))


def cases(requests: Sequence[Request], options: argparse.Namespace) -> Iterator[Case]:
    """Kernels without a row, each structure once."""
    known = {row.case for row in _read()} if not options.again else set()
    for name in options.variant:
        for request in requests:
            for emitted, kernel in ((form, facts) for form in _emit(name, request) for facts in form.source.program.facts):
                if options.role and kernel.role not in options.role:
                    continue
                held = kernel.work
                dims = ",".join(str(length) for axis, length in request.dims if axis in held.features)
                case = (request.target.name, request.dtype, request.length, held.key(request.extents), dims, *held.arithmetic)
                if case in known:
                    continue
                known.add(case)
                try:
                    ranked = distinct(rank(held, request))
                except DoesNotFit as error:
                    print(f"{name} {kernel.role}: {error.rule}", file=sys.stderr)
                    continue
                fitting = [item for item in ranked if item.cost.shared_bytes <= request.target.shared_bytes]
                # Whether forms or repeated dots pay only shows in SASS.
                leader = repeats(held, request.extents, request.dtype, fitting[0].tile, request.target).products if fitting else 1.0
                thorough = leader > REPEATED or any(item.tile.tma for item in fitting)
                yield Case(emitted, kernel.role, request, fitting, [], options.attempts, thorough)


_EMITTED: dict[tuple[str, str, Cuts], tuple[Emitted, ...]] = {}


def _emit(name: str, request: Request) -> tuple[Emitted, ...]:
    """The modules of a variant, one for each form of its backward, for a dtype and one set of feature tiles, emitted once."""
    key = (name, request.dtype, cuts(request.extents))
    if key not in _EMITTED:
        spec = catalog.load(name)
        program = for_dtype(analyse(spec.cascade), request.dtype)
        found: list[Emitted] = []
        for form in (program, fused(program)):
            if form is not None:
                source = build(form, spec.name, key[2])
                path = Path(tempfile.mkdtemp()) / "kernels.py"
                path.write_text(source.text, encoding="utf-8")
                found.append(Emitted(source, load_module(path, f"{spec.name}_{len(_EMITTED)}_{len(found)}")))
        _EMITTED[key] = tuple(found)
    return _EMITTED[key]


def run(todo: list[Case], workers: int) -> int:
    """Compile tiles until every case is settled, write the rows; returns the number of compiles."""
    compiles = 0
    while pending := [case for case in todo if not case.over()]:
        items = [case.ranked.pop(0) for case in pending]
        tasks = [Task(case.emitted, case.role, case.request, item.tile) for case, item in zip(pending, items, strict=True)]
        compiles += len(tasks)
        for case, item, task, result in zip(pending, items, tasks, compile_many(list(map(compile_job, tasks)), workers), strict=True):
            if isinstance(result, CompileFailed):
                print(result.rule, file=sys.stderr)
            else:
                case.tried.append((item, row_of(task, result), _time(case, item, result) if case.thorough else 0.0))
    found = [row for case in todo for row in case.rows()]
    replaced = {row.case for row in found}
    kept = [row for row in _read() if row.case not in replaced]
    TABLE.write_text(measured.write([*kept, *found]), encoding="utf-8")
    return compiles


def _time(case: Case, item: Candidate, compiled: Compiled) -> float:
    """The predicted time of the compiled kernel, in microseconds."""
    request, tile = case.request, item.tile
    held = case.emitted.source.program.facts_of(case.role).work
    work = work_of(held, request.extents, request.dtype, tile)
    loops = (seen(compiled, work, request.target, tile.num_warps, loop) for loop in (0, -1))
    full, masked = (price(held, request.extents, request.dtype, tile, request.target, request.length, found).total_us for found in loops)
    return full + MASKED_SHARE * (masked - full)


def predict(variants: Iterable[str]) -> None:
    """Update the predicted shared memory of every row of these variants."""
    rows = []
    for row in _read():
        first, *second = row.dims.split(",")
        request = Request(_dims(",".join((first, *second))), row.dtype, target.get(row.arch), cast("LengthClass", row.length))
        for name in variants:
            for held in (facts.work for form in _emit(name, request) for facts in form.source.program.facts):
                if (held.key(request.extents), *held.arithmetic) == (row.structure, row.special, row.simple):
                    shared = shared_bytes(held, request.extents, row.dtype, row.schedule, request.target)
                    row = replace(row, shared_bytes_predicted=shared)
        rows.append(row)
    TABLE.write_text(measured.write(rows), encoding="utf-8")


def _read() -> tuple[Measured, ...]:
    return measured.read(TABLE.read_text(encoding="utf-8")).rows


if __name__ == "__main__":
    main()
