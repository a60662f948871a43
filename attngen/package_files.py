"""Locates the templates and the pregenerated kernels.

A wheel has both inside the package; a checkout, editable installs included, has them at its top level. All callers ask here. Nothing is
written, and nothing is imported from these folders.
"""

from __future__ import annotations

from pathlib import Path

from attngen.errors import TemplateError

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent


def templates_dir() -> Path:
    """The folder of the Jinja templates.

    Raises:
        TemplateError: the installation is incomplete.
    """
    found = _first_folder(_PACKAGE / "templates", _CHECKOUT / "templates")
    if found is None:
        raise TemplateError("this installation of attngen has no templates", remedy="Install attngen again from its wheel.")
    return found


def generated_dir() -> Path | None:
    """The folder of the kernels that ship with attngen, or None where none were installed. Never written at run time."""
    return _first_folder(_PACKAGE / "pregenerated", _CHECKOUT / "generated")


def _first_folder(packaged: Path, checkout: Path) -> Path | None:
    """`packaged`, else `checkout` if it is one: a stray `site-packages/templates` belongs to another project."""
    if packaged.is_dir():
        return packaged
    if (_CHECKOUT / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    return None
