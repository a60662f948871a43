"""The template environment refuses what a lax one would swallow."""

from __future__ import annotations

from pathlib import Path

import pytest

from attngen.emit.environment import render_template
from attngen.emit.identifiers import Code
from attngen.errors import TemplateError, UnsafeValue


def write(folder: Path, text: str) -> Path:
    (folder / "sample.j2").write_text(text, encoding="utf-8")
    return folder


def test_checked_text_is_rendered(tmp_path: Path) -> None:
    folder = write(tmp_path, "#% for line in lines\n    {{ line }}\n#% endfor\n")
    assert render_template("sample.j2", folder, lines=(Code("a = 1"), Code("b = 2"))) == "    a = 1\n    b = 2\n"


def test_plain_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeValue):
        render_template("sample.j2", write(tmp_path, "{{ value }}\n"), value="import os")


def test_undefined_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TemplateError):
        render_template("sample.j2", write(tmp_path, "x = {{ nope }}\n"))


def test_broken_templates_show_their_lines(tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        render_template("sample.j2", write(tmp_path, "fine\n#% for x in\nmore\n"))
    assert "> " in str(caught.value) and "for x in" in str(caught.value)
