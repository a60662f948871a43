"""`python -m benchmarks.static`: record the resources of kernels, or check for regressions.

No GPU is needed: kernels are compiled for sm90 and their SASS is read. Without options every case is compiled, and record.jsonl and
results.md are renewed; options select cases, and the others stay as recorded. Exit code 1: a regression.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import metadata
from typing import TYPE_CHECKING

from benchmarks.static.record import PATH, Record, read, worse

if TYPE_CHECKING:
    from benchmarks.static.cases import Case
    from benchmarks.static.record import Row

SECTIONS = {"variants": "attngen", "specialised": "specialised"}
"""Sources by what the command calls them; all others are baselines."""


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.static", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the record and write nothing")
    parser.add_argument("--section", nargs="+", choices=(*SECTIONS, "baselines"), default=(*SECTIONS, "baselines"), help="whose kernels")
    parser.add_argument("--name", nargs="+", help="variants, or masks of the baselines")
    parser.add_argument("--head-dim", nargs="+", metavar="N[,N]", help="such as 64 or 192,128")
    parser.add_argument("--role", nargs="+", help="kernels of the catalogue, such as forward")
    parser.add_argument("--tables", action="store_true", help="write results.md from the record and compile nothing")
    arguments = parser.parse_args()
    if arguments.tables:
        return _tables(read())
    chosen = _chosen(arguments)
    if not chosen:
        parser.error("no case is left")
    roles = frozenset[str](arguments.role or ())
    return _check(chosen, roles) if arguments.check else _renew(chosen, roles)


def _chosen(arguments: argparse.Namespace) -> list[Case]:
    from benchmarks.static.cases import cases

    sections = {source: section for section, source in SECTIONS.items()}
    return [
        case
        for case in cases()
        if sections.get(case.source, "baselines") in arguments.section
        and (arguments.name is None or case.name in arguments.name)
        and (arguments.head_dim is None or case.head_dim in arguments.head_dim)
        and (arguments.role is None or not case.roles or set(arguments.role) & set(case.roles))
    ]


def _measured(chosen: list[Case], roles: frozenset[str]) -> list[tuple[Case, tuple[Row, ...] | str]]:
    """The rows of each case, or why there are none; one line of progress a case."""
    from benchmarks.static.cases import refused

    found: list[tuple[Case, tuple[Row, ...] | str]] = []
    for number, case in enumerate(chosen, 1):
        start = time.perf_counter()
        rows = refused(case, roles)
        said = rows if isinstance(rows, str) else f"{len(rows)} kernels"
        print(f"[{number}/{len(chosen)}] {case}: {said}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        found.append((case, rows))
    return found


def _renew(chosen: list[Case], roles: frozenset[str]) -> int:
    from benchmarks.static.cases import cases

    before, holds_for = read(), _holds_for()
    some = len(chosen) < len(cases()) or bool(roles)
    if some and before.rows and before.holds_for != holds_for:
        print(f"The record holds for {before.holds_for}, this machine has {holds_for}: renew all of it, without options.", file=sys.stderr)
        return 1
    record = Record(holds_for, before.rows if some else {})
    for case, rows in _measured(chosen, roles):
        kept = [row for row in record.of(case.key) if roles and row.role not in roles]
        record = record.with_case(case.key, [*kept, *(() if isinstance(rows, str) else rows)])
    record.write()
    return _tables(record)


def _tables(record: Record) -> int:
    from benchmarks.static import report

    report.write(record)
    print(f"{len(record.rows)} kernels in {PATH.name} and {report.PATH.name}", file=sys.stderr)
    return 0


def _check(chosen: list[Case], roles: frozenset[str]) -> int:
    record, problems = read(), 0
    if record.holds_for != _holds_for():
        print(f"The record holds for {record.holds_for}, this machine has {_holds_for()}.", file=sys.stderr)
        return 1
    for case, rows in _measured(chosen, roles):
        now = {} if isinstance(rows, str) else {row.key: row for row in rows}
        before = {row.key: row for row in record.of(case.key) if not roles or row.role in roles}
        said = [f"{before[key]}: is gone" for key in before.keys() - now.keys()]
        said += [f"{now[key]}: is not recorded" for key in now.keys() - before.keys()]
        said += [f"{row}: {text}" for key, row in now.items() if key in before for text in worse(before[key], row)]
        problems += len(said)
        for line in said:
            print(line, flush=True)
    print(f"{problems} figures are worse" if problems else "nothing is worse", file=sys.stderr)
    return 1 if problems else 0


def _holds_for() -> dict[str, str]:
    """What figures depend on besides the code."""
    from benchmarks.static.cases import DTYPE, TARGET

    return {"target": TARGET.name, "dtype": DTYPE, "triton": metadata.version("triton").partition("+")[0]}


if __name__ == "__main__":
    sys.exit(main())
