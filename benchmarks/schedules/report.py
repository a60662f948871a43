"""Print readable tables of the measured schedules.

python benchmarks/schedules/report.py > benchmarks/schedules/results.md
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from attngen import catalog
from attngen.facts.work import Structure
from attngen.pipeline import analyse, for_dtype
from attngen.schedule.choose import Request, rank
from attngen.schedule.cost.time import price
from attngen.schedule.cost.warps import repeats
from attngen.schedule.tables import Measured, table
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as target

WIDE = ((96, 96), (192, 128), (256, 256), (576, 512))
ROLES = ("forward", "backward_rows", "backward_columns")
SHOWN = ("64,64", "128,128", "192,128", "256,256")
KIB = 1024


def main() -> None:
    rows = table().rows
    print("# Measured schedules\n")
    print("Written by `report.py` from `attngen/schedule/table.json`, which `measure.py` fills by compiling for each target.")
    print("Registers and spilled bytes are per thread; `loop` is the spill traffic of one iteration of the main loop.\n")
    print(f"## Predicted and compiled shared memory, {len(rows)} kernels\n")
    _print(("target", "kernels", "stages", "below", "most above, B", "most above, %"), _errors(rows))
    for arch in dict.fromkeys(item.name for item in target.TARGETS):
        mine = [row for row in rows if row.arch == arch and row.dims in SHOWN and row.dtype != "float16"]
        if mine:
            print(f"\n## {arch}\n")
            header = ("dtype", "head dims", "kernel", "tile", "registers", "spilled B", "loop B", "shared B", "predicted B", "")
            _print(header, _lines(mine))
    print("\n## Head dims of several feature tiles, and wide ones\n")
    print("`work` is how often the warps of a program compute each multiply-add of its products: 1.00 where each is computed once. Columns")
    print(
        "are exact: 96 is 64 + 32, 192 is 128 + 64, 576 is 512 + 64. Where `work` is more, the last column names the tile without repeated"
    )
    print("work that the model likes best, and its predicted time against the tile taken. Such a tile has fewer rows, so that all that")
    print("streams is read more often, or products of the older instruction at half of the rate, or spills more once it is compiled.\n")
    _print(("target", "head dims", "kernel", "tile", "work", "registers", "spilled B", "loop B", "shared B", "once, at best"), _wide(rows))
    poor = [row for row in rows if row.rank == "chosen" and (row.loop_spill_bytes or row.serialized)]
    print(f"\n## Chosen tiles that spill in their main loop or have serialised wgmma: {len(poor)}\n")
    _print(
        ("target", "dtype", "head dims", "kernel", "tile", "registers", "spilled B", "loop B", "serialised"), (_poor(row) for row in poor)
    )


def _errors(rows: Sequence[Measured]) -> Iterable[tuple[object, ...]]:
    for item in target.TARGETS:
        for stages, those in (("one", (1,)), ("two or more", (2, 3, 4))):
            mine = [row for row in rows if row.arch == item.name and row.schedule.streamed and row.schedule.num_stages in those]
            if mine:
                over = [row.shared_bytes_predicted - row.shared_bytes for row in mine]
                share = max(100 * excess / row.shared_bytes for excess, row in zip(over, mine, strict=True))
                yield item.name, len(mine), stages, sum(excess < 0 for excess in over), max(over), f"{share:.0f}"


def _wide(rows: Sequence[Measured]) -> Iterable[tuple[object, ...]]:
    """Plain and causal attention at the head dims in `WIDE`."""
    chosen = {row.case: row for row in rows if row.rank == "chosen"}
    programs = {name: for_dtype(analyse(catalog.load(name).cascade), "bfloat16") for name in ("full", "causal")}
    for arch, (d, e) in itertools.product(("sm80", "sm90"), WIDE):
        request = Request((("d", d), ("e", e)), "bfloat16", target.get(arch))
        for (name, program), role in itertools.product(programs.items(), ROLES):
            held = program.facts_of(role).work
            row = chosen[arch, request.dtype, request.length, held.key(request.extents), f"{d},{e}", *held.arithmetic]
            numbers = (row.registers, row.spill_bytes, row.loop_spill_bytes, row.shared_bytes)
            yield (
                arch,
                f"{d}, {e}",
                f"{role} {name}",
                row.tile,
                f"{_work(held, request, row.schedule):.2f}",
                *numbers,
                _once(held, request, row),
            )


def _work(held: Structure, request: Request, tile: TileSchedule) -> float:
    return repeats(held, request.extents, request.dtype, tile, request.target).products


def _once(held: Structure, request: Request, row: Measured) -> str:
    """The best tile without repeated work, by predicted time, where the chosen one has some."""
    if _work(held, request, row.schedule) < 1.01:
        return ""
    mine = price(held, request.extents, request.dtype, row.schedule, request.target).total_us
    found = [item for item in rank(held, request) if not item.lost.startswith("needs") and _work(held, request, item.tile) < 1.01]
    return f"{found[0].tile}: {found[0].cost.total_us / mine:.2f} times the time" if found else "none fits"


def _lines(rows: Iterable[Measured]) -> Iterable[tuple[object, ...]]:
    for row in sorted(rows, key=lambda row: (row.dtype, [int(n) for n in row.dims.split(",")], row.structure, row.rank)):
        numbers = (row.registers, row.spill_bytes, row.loop_spill_bytes, row.shared_bytes, row.shared_bytes_predicted)
        yield row.dtype, row.dims, _kernel(row), row.tile, *numbers, "" if row.rank == "chosen" else row.rank


def _poor(row: Measured) -> tuple[object, ...]:
    numbers = (row.registers, row.spill_bytes, row.loop_spill_bytes)
    return row.arch, row.dtype, row.dims, _kernel(row), row.tile, *numbers, "yes" if row.serialized else ""


def _kernel(row: Measured) -> str:
    """Role, masks and operations, which tell variants apart."""
    role, _, rest = row.structure.partition(":")
    return f"{role} {rest.rpartition(';')[2]} {row.special}+{row.simple}"


def _print(header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    print(f"| {' | '.join(header)} |")
    print(f"|{'---|' * len(header)}")
    for line in lines:
        print(f"| {' | '.join(map(str, line))} |")


if __name__ == "__main__":
    main()
