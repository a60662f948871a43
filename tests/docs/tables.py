"""Tables of the pages that repeat what the code says."""

from __future__ import annotations

import re
from collections.abc import Iterator

from attngen.knobs import TABLE

_KNOBS = re.compile(r"^\| variable \| .*\n\|[-|]+\n(?:\|.*\n)*", re.MULTILINE)


def knob_table() -> str:
    """Every setting of the environment, as the README shows it."""
    rows = "".join(f"| `{knob.variable}` | {knob.values} | {knob.meaning} |\n" for knob in TABLE)
    return f"| variable | values | meaning |\n|---|---|---|\n{rows}"


def with_knobs(page: str) -> str:
    """A page with its table of settings, if it has one, as `knob_table` gives it."""
    return _KNOBS.sub(lambda _: knob_table(), page)


def rows(page: str, heading: str) -> Iterator[tuple[str, ...]]:
    """The cells of the rows of the table whose header line begins with `heading`."""
    lines = iter(page.splitlines())
    for line in lines:
        if line.startswith(heading):
            break
    next(lines, "")
    for line in lines:
        if not line.startswith("|"):
            return
        yield tuple(cell.strip() for cell in line.strip("|").split(" | "))
