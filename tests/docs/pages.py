"""Pages of Markdown whose code is run and whose outputs are compared.

A page is README.md or a file of docs/. Its fences have these languages, and each may be followed by a flag:

    python    is run, in one namespace a page. What it prints is shown in the `text` fence that follows; a block that raises
              an error shows it there as well.
    text      the output of the `python` fence above it.
    console   lines that begin with "$ " are commands, the lines below each are its output. Commands of attngen are run in this process;
              others have no output here. Without any "$ ", every line is a command that is only parsed.

The flag `slow` leaves a fence to the slow test; `gpu` is for code that needs one, which is compiled only. Other languages are pictures and
formulas.
"""

from __future__ import annotations

import contextlib
import io
import linecache
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attngen.cli.commands import main
from attngen.errors import AttngenError

CHECKOUT = Path(__file__).parents[2]
PAGES = (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md")))
_FENCE = re.compile(r"^```([a-z]*)(?: ([a-z]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block. `start` and `end` are where its text lies in the page, `line` is the number of its first line."""

    language: str
    flag: str
    text: str
    start: int
    end: int
    line: int


@dataclass(frozen=True, slots=True)
class Command:
    """A line after "$ " and what is shown below it."""

    line: str
    shown: str


def fences(page: str) -> list[Fence]:
    """The fenced blocks of a page, in order."""
    return [
        Fence(found[1], found[2] or "", found[3], found.start(3), found.end(3), page.count("\n", 0, found.start(3)) + 1)
        for found in _FENCE.finditer(page)
    ]


def commands(fence: Fence) -> list[Command]:
    """The commands of a console fence with outputs."""
    found: list[Command] = []
    for line in fence.text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Command(line[2:].rstrip("\n"), ""))
        elif found:
            found[-1] = replace(found[-1], shown=found[-1].shown + line)
    return found


def is_listing(fence: Fence) -> bool:
    """Whether a console fence only lists commands."""
    return fence.language == "console" and not any(line.startswith("$ ") for line in fence.text.splitlines())


def rewritten(page: str, name: str, *, slow: bool = False) -> str:
    """The page with the outputs that its code has now.

    Args:
        page: its text.
        name: its file's, without ending.
        slow: whether fences that are marked as slow are run, or those that are not.
    """
    namespace: dict[str, Any] = {"__name__": f"page_{name}"}
    printed: str | None = None
    lines: list[str] = []
    edits: list[tuple[int, int, str]] = []
    for number, fence in enumerate(fences(page)):
        if fence.language == "python":
            printed = None
            lines += fence.text.splitlines(keepends=True)
            code = _code(fence, lines)
            if fence.flag != "gpu" and (slow or fence.flag != "slow"):
                printed = _printed(code, namespace, name, fence)
                following = fences(page)[number + 1 : number + 2]
                if printed and not (following and following[0].language == "text"):
                    raise AssertionError(f"{name}, line {fence.line}: the code prints what is not shown:\n{printed}")
        elif fence.language == "text" and printed is not None:
            edits.append((fence.start, fence.end, printed))
        elif fence.language == "console" and not is_listing(fence) and slow == (fence.flag == "slow"):
            edits.append((fence.start, fence.end, "".join(f"$ {item.line}\n{output(item.line)}" for item in commands(fence))))
    for start, end, text in reversed(edits):
        page = page[:start] + text + page[end:]
    return page


def _code(fence: Fence, lines: list[str]) -> Any:
    """The last of the blocks that make up `lines`; messages of errors quote it as lines of example.py."""
    linecache.cache["example.py"] = (0, None, list(lines), "example.py")
    return compile("\n" * (len(lines) - fence.text.count("\n")) + fence.text, "example.py", "exec")


def _printed(code: Any, namespace: dict[str, Any], name: str, fence: Fence) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            exec(code, namespace)  # the point of a page is its code
        except AttngenError as error:
            print(f"{type(error).__name__}: {error}")
        except Exception as error:
            raise AssertionError(f"{name}, line {fence.line}: {type(error).__name__}: {error}") from error
    return _tidy(out.getvalue())


def output(line: str) -> str:
    """What a command line prints: of attngen, with settings before it, `| head -N` or `| grep TEXT` behind it; "" for other programs."""
    command, *filters = (part.strip() for part in line.split(" | "))
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if re.match(r"ATTNGEN_\w+=", word))
    arguments = [word for word in words if word not in {f"{key}={value}" for key, value in settings.items()}]
    if arguments[0] != "attngen":
        return ""
    out, err = io.StringIO(), io.StringIO()
    with _environment(settings), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(arguments[1:]) == 0, f"{line}: {err.getvalue()}"
    # Progress is for terminals, what settings make it print for the reader.
    text = out.getvalue() + (err.getvalue() if settings else "")
    for item in filters:
        text = _filtered(text, shlex.split(item))
    return _tidy(text)


def _filtered(text: str, words: list[str]) -> str:
    lines = text.splitlines(keepends=True)
    match words:
        case ["head", count]:
            return "".join(lines[: -int(count)])
        case ["tail", count]:
            return "".join(lines[int(count) :])
        case ["grep", wanted]:
            return "".join(line for line in lines if re.search(wanted, line))
        case ["grep", "-A", count, wanted]:
            first = next((number for number, line in enumerate(lines) if re.search(wanted, line)), len(lines))
            return "".join(lines[first : first + int(count) + 1])
        case _:
            raise AssertionError(f"no filter {words}")


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _tidy(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[None]:
    """An empty folder, with what pages name of the checkout, as the working directory."""
    for name in ("examples", "generated"):
        (folder / name).symlink_to(CHECKOUT / name)
    with contextlib.chdir(folder):
        yield
