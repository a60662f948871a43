"""Lines and columns of the user's code."""

from __future__ import annotations

import sys

import torch

from attngen.frontend.tracing.user_frames import assigned, definition, is_internal, locate, place_of, user_place
from attngen.ir import build


def test_the_running_line_is_found_with_its_columns() -> None:
    loc = locate(user_place())
    assert loc is not None and loc.filename == __file__
    assert loc.text()[loc.column : loc.end_column] == "user_place()"


def test_columns_count_characters_not_bytes() -> None:
    é = locate(user_place())
    assert é is not None and é.text()[é.column : é.end_column] == "user_place()"


def test_frames_of_torch_are_skipped() -> None:
    try:
        torch.nn.functional.relu("text")  # type: ignore[arg-type]
    except TypeError as error:
        loc = locate(place_of(error.__traceback__))
        assert loc is not None and "relu" in loc.text()
        assert not is_internal(error.__traceback__)


def test_an_error_inside_the_package_is_internal() -> None:
    try:
        build.add(None, None)  # type: ignore[arg-type]
    except Exception as error:
        assert is_internal(error.__traceback__)


def test_the_definition_of_a_function() -> None:
    code = test_the_definition_of_a_function.__code__
    assert definition(code).text() == "def test_the_definition_of_a_function() -> None:"
    assert locate(None) is None


def of_caller() -> str:
    frame = sys._getframe(1)
    return assigned((frame.f_code, frame.f_lasti))


kept = of_caller()


def test_the_variable_that_a_running_call_is_for() -> None:
    plain = of_caller()
    shared = of_caller()
    listed = [of_caller()]
    sys.kept = of_caller()  # type: ignore[attr-defined]
    assert (lambda: shared)() == "shared", "a variable that an inner function reads"
    assert (plain, listed, sys.__dict__.pop("kept")) == ("plain", [""], "")
    assert kept == "kept", "of a module"
    assert assigned(None) == ""
