"""Output of the command line: tables, progress and errors."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from attngen.errors import AttngenError


class Progress:
    """One line for each step on stderr; on a terminal each replaces the previous one."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.done()

    def line(self, text: str) -> None:
        """Print a step."""
        if self.terminal:
            print(f"\r{text:<{self.width}}", end="", file=sys.stderr, flush=True)
            self.width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def done(self) -> None:
        """End the line."""
        if self.terminal and self.width:
            print(file=sys.stderr)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of equal keys as aligned columns, numbers right-aligned."""
    if not rows:
        return []
    cells = [[key for key in rows[0]], *([("-" if value is None else str(value)) for value in row.values()] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    right = [isinstance(value, int | float) or value is None for value in rows[0].values()]
    columns = list(zip(widths, right, strict=True))
    lines = [[f"{text:>{width}}" if end else f"{text:<{width}}" for text, (width, end) in zip(row, columns, strict=True)] for row in cells]
    return ["  ".join(line).rstrip() for line in lines]


def failed(error: AttngenError, debug: bool, as_json: bool) -> None:
    """Report an error: on stderr, with the traceback for --debug, and on stdout for --json."""
    if debug:
        traceback.print_exception(error)
    if as_json:
        print(json.dumps({"error": {"class": type(error).__name__, "rule": error.rule, "remedy": error.remedy}}, indent=1))
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
