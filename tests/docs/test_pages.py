"""Limits of the README, and what pages name: files, headings, settings, folders, words."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from attngen.frontend.torch_functions.activations import ACTIVATIONS
from attngen.frontend.torch_functions.pointwise import POINTWISE
from tests.docs.pages import CHECKOUT, PAGES, fences
from tests.docs.tables import rows, with_knobs

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ALL = (*PAGES, CHECKOUT / "CONTRIBUTING.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "benchmarks").rglob("*.md")))
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: str) -> str:
    """A page without its fences."""
    for fence in reversed(fences(page)):
        page = page[: fence.start] + page[fence.end :]
    return page


def anchors(path: Path) -> set[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", prose(path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    yield from _LINK.findall(prose(path.read_text(encoding="utf-8")))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 130
    assert len(README.split()) <= 1200


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", (*PAGES, CHECKOUT / "CONTRIBUTING.md"), ids=lambda path: path.stem)
def test_files_that_are_named_exist(path: Path) -> None:
    """Paths are from the top of the checkout, from attngen/, or beside a file named before."""
    before = CHECKOUT
    for name in re.findall(r"`([\w/]+\.(?:py|md|json|toml))`", prose(path.read_text(encoding="utf-8"))):
        places = [folder / name for folder in (CHECKOUT, CHECKOUT / "attngen", before) if (folder / name).exists()]
        assert places or name in _YOURS, name
        before = places[0].parent if places else before


_YOURS = ("my_model.py",)


def test_every_page_is_linked_from_the_readme() -> None:
    assert {path.name for path in (CHECKOUT / "docs").glob("*.md")} <= {Path(link).name for link in _LINK.findall(README)}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_targets_of_make_exist(name: str) -> None:
    listing = "".join(fence.text for fence in fences((CHECKOUT / name).read_text(encoding="utf-8")) if fence.language == "console")
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", listing, re.MULTILINE)
    assert named
    assert set(named) <= set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def test_the_time_on_a_cpu_is_that_of_the_benchmark() -> None:
    page = (CHECKOUT / "benchmarks" / "cpu.md").read_text(encoding="utf-8")
    (_, _, _, forward, _, _, trained) = next(row for row in rows(page, "| N |") if row[0] == "2048")
    assert f"{forward} times SDPA for a causal forward of 8 heads and 2,048 tokens, {trained} with its backward" in README


def test_all_settings_are_listed() -> None:
    assert with_knobs(README) == README, "python -m tests.docs.update writes the table"
    assert "| `ATTNGEN_STRICT` |" in README


def named_folders(cell: str) -> list[str]:
    return [word.strip("/") for word in re.findall(r"`([\w/]+/)`", cell)]


def test_the_table_names_the_folders_that_exist_in_the_order_of_imports() -> None:
    named = [name for cell, *_ in rows(README, "| folder |") for name in named_folders(cell)]
    there = {path.parent.name for path in (CHECKOUT / "attngen").glob("*/__init__.py")}
    assert sorted(named) == sorted(there)
    contract = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"][0]
    layers = {name.strip("() "): number for number, layer in enumerate(contract["layers"]) for name in layer.split("|")}
    assert named == sorted(named, key=lambda name: layers[name])


def test_folders_inside_of_folders_are_named_beside_them() -> None:
    for cell, meaning in rows(README, "| folder |"):
        inner = {path.parent.name for name in named_folders(cell) for path in (CHECKOUT / "attngen" / name).glob("*/__init__.py")}
        assert set(named_folders(meaning)) - {"templates"} == inner


def test_the_folders_beside_the_package_are_named() -> None:
    (line,) = [line for line in README.splitlines() if line.startswith("Beside it:")]
    tracked = {path.name for path in CHECKOUT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    assert set(named_folders(line)) == tracked - {"attngen", "build", "dist"}


GLOSSARY = (CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8")
WORDS = [
    tuple(cell.strip() for cell in line.strip("| ").split(" | "))
    for line in GLOSSARY.splitlines()
    if line.startswith("| ") and not line.startswith("| word ")
]


def test_each_word_of_the_glossary_has_one_meaning_and_a_place() -> None:
    words = [word for name, _, _ in WORDS for word in name.lower().split(", ")]
    assert len(words) == len(set(words))
    for name, meaning, where in WORDS:
        assert len(meaning.split()) >= 3, name
        assert (CHECKOUT / "attngen" / where.strip("`")).exists(), f"{name}: there is no {where}"


_TORCH = {"mod": "remainder", "log_sigmoid": "logsigmoid"}
_ELSEWHERE = re.compile(r"(add|r?sub|mul|div|floordiv|neg|positive|eq|ne|l[te]|g[te]|safe_div|tanh_approx)$|logical_|bitwise_|clamp_")
"""What the page shows as symbols or as groups, and what has other names for users."""


def test_the_functions_of_mods_are_those_that_are_traced() -> None:
    page = (CHECKOUT / "docs" / "pointwise.md").read_text(encoding="utf-8")
    table = page[page.index("| arithmetic |") : page.index("Others are refused")]
    listed = {word for code in re.findall(r"`([^`]+)`", table) for word in code.split() if word.isidentifier()}
    traced = {_TORCH.get(name, name) for name in (*POINTWISE, *ACTIVATIONS)}
    assert listed <= traced
    assert {name for name in traced if not _ELSEWHERE.match(name)} <= listed
