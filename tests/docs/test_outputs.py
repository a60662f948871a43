"""What README.md and docs/ show is what their code prints. `python -m tests.docs.update` writes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from attngen.cli.commands import parser
from tests.docs.pages import PAGES, fences, is_listing, rewritten, workplace

TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in PAGES}
LISTED = [line for page in TEXTS.values() for fence in fences(page) if is_listing(fence) for line in fence.text.splitlines()]
COMMANDS = [line.partition(" # ")[0].split()[1:] for line in LISTED if line.startswith("attngen ")]


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path) -> Iterator[None]:
    """Pages run in a folder of their own, and are not told that the interpreter is slow."""
    log = logging.getLogger("attngen")
    level = log.level
    log.setLevel(logging.ERROR)
    with workplace(tmp_path):
        yield
    log.setLevel(level)


@pytest.mark.kernels
@pytest.mark.parametrize("name", [name for name, page in TEXTS.items() if any(fence.flag != "slow" for fence in fences(page))])
def test_outputs(name: str) -> None:
    assert rewritten(TEXTS[name], name) == TEXTS[name], "python -m tests.docs.update writes what is printed now"


@pytest.mark.kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in TEXTS.items() if any(fence.flag == "slow" for fence in fences(page))])
def test_outputs_of_real_compiles(name: str) -> None:
    assert rewritten(TEXTS[name], name, slow=True) == TEXTS[name], "python -m tests.docs.update --slow writes what is printed now"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_that_are_only_listed_exist(arguments: list[str]) -> None:
    parser().parse_args(arguments)
