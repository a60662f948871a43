"""The one Jinja environment: strict, line statements, and nothing rendered that the emitter did not make."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from attngen.emit.identifiers import Code
from attngen.errors import TemplateError, UnsafeValue
from attngen.package_files import templates_dir


def _only_code(value: object) -> object:
    """Safety net: a plain string never reaches emitted text."""
    if isinstance(value, str) and not isinstance(value, Code) and not hasattr(value, "__html__") and value.strip():
        raise UnsafeValue(f"{value!r} was about to be rendered without a check")
    return value


def _join(items: tuple[Code, ...], separator: str) -> Code:
    return Code(separator.join(items))


@cache
def environment(folder: Path | None = None) -> jinja2.Environment:
    """The environment over a template folder (the packaged one by default)."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder or templates_dir()),
        line_statement_prefix="#%",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        finalize=_only_code,
        autoescape=False,
    )
    env.filters = {"join": _join}
    return env


def render_template(name: str, folder: Path | None = None, **context: object) -> str:
    """Render a template.

    Raises:
        TemplateError: the template is broken; shows its lines around the error.
    """
    try:
        return environment(folder).get_template(name).render(**context)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{error.name}:{error.lineno}: {error.message}\n{_around(error.source or '', error.lineno)}") from error
    except jinja2.UndefinedError as error:
        raise TemplateError(f"{name}: {error.message}") from error


def _around(source: str, line: int) -> str:
    lines = source.splitlines()
    first = max(line - 3, 0)
    return "\n".join(f"{'>' if i + 1 == line else ' '} {i + 1:4d} | {text}" for i, text in enumerate(lines[first : line + 2], first))


def library(name: str, folder: Path | None = None) -> Code:
    """The source of a helper function from templates/lib or templates/gluon, without its last line end."""
    root = folder or templates_dir()
    path = next(path for part in ("lib", "gluon") if (path := root / part / f"{name}.py").is_file())
    return Code(path.read_text(encoding="utf-8").rstrip("\n"))
