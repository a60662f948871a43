"""Where the templates are: inside the package in a wheel, at the top level of a checkout, editable installs included."""

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
    packaged, checkout = _PACKAGE / "templates", _CHECKOUT / "templates"
    if packaged.is_dir():
        return packaged
    # A stray `site-packages/templates` of another project is not ours.
    if (_CHECKOUT / "pyproject.toml").is_file() and checkout.is_dir():
        return checkout
    raise TemplateError("this installation of attngen has no templates", remedy="Install attngen again from its wheel.")
