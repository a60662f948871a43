"""Turn the table of measured schedules into tables that people read.

python benchmarks/schedules/report.py > benchmarks/schedules/results.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attngen import target
from attngen.schedule.measured import Measured, table

SHOWN = ("64,64", "128,128", "192,128", "256,256")
KIB = 1024


def main() -> None:
    rows = table().rows
    print("# Measured schedules\n")
    print("Written by `report.py` from `attngen/schedule/table.json`, which `measure.py` fills by compiling for each target.")
    print("Registers and spilled bytes are per thread; `loop` is what one turn of the main loop moves.\n")
    print(f"## Model of shared memory against the compiler, {len(rows)} kernels\n")
    _print(("target", "kernels", "stages", "below", "most above, B", "most above, %"), _errors(rows))
    for arch in dict.fromkeys(item.name for item in target.TARGETS):
        mine = [row for row in rows if row.arch == arch and row.dims in SHOWN and row.dtype != "float16"]
        if mine:
            print(f"\n## {arch}\n")
            header = ("dtype", "head dims", "kernel", "tile", "registers", "spilled B", "loop B", "shared B", "predicted B", "")
            _print(header, _lines(mine))
    poor = [row for row in rows if row.rank == "chosen" and (row.loop_spill_bytes or row.serialized)]
    print(f"\n## Chosen tiles that spill in their main loop or run wgmma one after the other: {len(poor)}\n")
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
