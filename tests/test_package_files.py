"""The templates are found in a checkout and in a package, and in no other place."""

from __future__ import annotations

from pathlib import Path

import pytest

from attngen import package_files
from attngen.errors import TemplateError

CHECKOUT = Path(__file__).resolve().parents[1]


def place(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Pretends that attngen is installed in `root`."""
    package = root / "attngen"
    package.mkdir()
    monkeypatch.setattr(package_files, "_PACKAGE", package)
    monkeypatch.setattr(package_files, "_CHECKOUT", root)
    return package


def test_the_checkout_is_found() -> None:
    assert package_files.templates_dir() == CHECKOUT / "templates"


def test_the_packaged_copy_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = place(monkeypatch, tmp_path)
    for folder in (package / "templates", tmp_path / "templates"):
        folder.mkdir()
    assert package_files.templates_dir() == package / "templates"


def test_folders_of_others_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place(monkeypatch, tmp_path)
    (tmp_path / "templates").mkdir()
    with pytest.raises(TemplateError):
        package_files.templates_dir()
