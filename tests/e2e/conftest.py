"""What all tests of this folder hold errors to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from attngen.errors import AttngenError, InternalError

INTERNAL = re.compile(r"\b[tx]\d+\b")
"""Names that steps have where nobody chose one."""


@pytest.fixture(autouse=True)
def no_internal_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No error speaks of a step by a name that only the compiler knows."""
    texts: list[str] = []
    made = AttngenError.__init__

    def init(error: AttngenError, *args: Any, **kwargs: Any) -> None:
        made(error, *args, **kwargs)
        if not isinstance(error, InternalError):
            texts.append(f"{error.rule}\n{error.remedy}")

    monkeypatch.setattr(AttngenError, "__init__", init)
    yield
    assert not [text for text in texts if INTERNAL.search(text)]
