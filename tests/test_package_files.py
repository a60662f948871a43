"""The folders beside the code are found in a checkout and in a package, and in no other place."""

from __future__ import annotations

from pathlib import Path

import pytest

from attngen import package_files as resources
from attngen.errors import TemplateError

CHECKOUT = Path(__file__).resolve().parents[1]


def place(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """Pretends that attngen is installed in `root`."""
    package = root / "attngen"
    package.mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    monkeypatch.setattr(resources, "_CHECKOUT", root)
    return package


def test_the_checkout_is_found() -> None:
    assert resources.templates_dir() == CHECKOUT / "templates"
    assert resources.generated_dir() == CHECKOUT / "generated"


def test_the_packaged_copy_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = place(monkeypatch, tmp_path)
    for folder in (package / "templates", package / "pregenerated", tmp_path / "templates", tmp_path / "generated"):
        folder.mkdir()
    assert resources.templates_dir() == package / "templates"
    assert resources.generated_dir() == package / "pregenerated"


def test_folders_of_others_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place(monkeypatch, tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "generated").mkdir()
    assert resources.generated_dir() is None
    with pytest.raises(TemplateError):
        resources.templates_dir()
