"""Source locations of the user's code: file, line and function, and how to print them.

At the bottom of the import order: both the IR (every step has a `SourceLoc`) and the errors (which print one) need it.
"""

from __future__ import annotations

import linecache
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SourceLoc:
    """One place in the user's code. `column` and `end_column` are 0-based; `end_column` 0 means the whole line.

    `called` names the value computed there in messages: the user's variable, or the function call, as in "softmax(...)".
    """

    filename: str
    line: int
    function: str
    column: int = 0
    end_column: int = 0
    called: str = ""

    def text(self) -> str:
        """The source line without its line end, or '' when the file cannot be read."""
        return linecache.getline(self.filename, self.line).rstrip()


def naming(loc: SourceLoc | None, called: str) -> SourceLoc | None:
    """The place with a name for the value computed there."""
    return None if loc is None else replace(loc, called=called)


def excerpt(loc: SourceLoc) -> str:
    """The line with a gutter and a caret below it:

    --> my_model.py:14 in alibi
    14 |     if q_idx > kv_idx:
       |        ^^^^^^^^^^^^^^
    """
    head = f"--> {loc.filename}:{loc.line} in {loc.function}"
    line = loc.text()
    if not line:
        return head
    indent = len(line) - len(line.lstrip())
    start = max(loc.column, indent)
    end = loc.end_column if loc.end_column > start else len(line)
    number = str(loc.line)
    gutter = " " * len(number)
    return f"{head}\n{number} | {line}\n{gutter} | {' ' * start}{'^' * max(end - start, 1)}"
