"""Every field reaches the key, nothing else does, and no two values share an encoding."""

from __future__ import annotations

import dataclasses
import math
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from attngen.cache import key as key_module
from attngen.cache.key import Toolchain, encode, folder_hash, kernel_key, request_key, source_hash
from attngen.errors import InternalError

TOOLS = Toolchain(attngen="0.1.0", triton="3.6.0", ptxas="12.8", torch="2.13.0", templates="aa", source="bb", code_knobs=(("fast", True),))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def exact(value: object) -> object:
    """Tells apart what Python calls equal (1, 1.0, True; 0.0, -0.0) and calls one NaN equal to another."""
    match value:
        case float():
            return ("float", "nan" if math.isnan(value) else struct.pack("d", value))
        case tuple():
            return ("tuple", tuple(exact(item) for item in value))
        case Mapping():
            return ("mapping", frozenset((name, exact(item)) for name, item in value.items()))
        case _:
            return (type(value).__name__, value)


@given(VALUES, VALUES)
@example(("ab", "c"), ("a", "bc"))
@example(("a", ("b",)), (("a", "b"),))
@example(1, True)
@example(0.0, -0.0)
@example(1, 1.0)
@example(0.1, 0.1 + 2**-56)
@example("1", b"1")
@example((), {})
def test_two_values_share_an_encoding_only_if_they_are_one(left: object, right: object) -> None:
    assert (encode(left) == encode(right)) == (exact(left) == exact(right))


@given(st.dictionaries(st.text(max_size=3), SCALARS, max_size=5))
def test_the_order_of_names_is_nothing(fields: dict[str, object]) -> None:
    assert encode(fields) == encode(dict(reversed(fields.items())))


@pytest.mark.parametrize("value", [object(), {1, 2}, [1], lambda: None, Path("x"), 1j])
def test_what_has_no_exact_text_is_refused(value: object) -> None:
    with pytest.raises(InternalError):
        encode((value,))


@given(st.sampled_from(["cascade", "schedule", "target"]), st.text(), st.text())
def test_every_argument_of_a_kernel_reaches_its_key(field: str, one: str, other: str) -> None:
    assume(one != other)
    given_arguments = {"cascade": "c", "schedule": "s", "target": "sm90"}
    assert kernel_key(**{**given_arguments, field: one}, toolchain=TOOLS) != kernel_key(
        **{**given_arguments, field: other}, toolchain=TOOLS
    )


@given(st.sampled_from([field.name for field in dataclasses.fields(Toolchain)]), st.text(min_size=1))
def test_every_tool_reaches_both_keys(field: str, text: str) -> None:
    change: object = (("fast", text),) if field == "code_knobs" else text
    assume(change != getattr(TOOLS, field))
    other = dataclasses.replace(TOOLS, **{field: change})
    assert kernel_key("c", "s", "sm90", TOOLS) != kernel_key("c", "s", "sm90", other)
    assert request_key("c", "sm90", {}, TOOLS) != request_key("c", "sm90", {}, other)


@given(st.dictionaries(st.text(max_size=3), SCALARS, max_size=3), st.dictionaries(st.text(max_size=3), SCALARS, max_size=3))
def test_every_option_reaches_the_request(one: dict[str, object], other: dict[str, object]) -> None:
    assume(exact(one) != exact(other))
    assert request_key("c", "sm90", one, TOOLS) != request_key("c", "sm90", other, TOOLS)


def test_text_does_not_flow_from_one_field_into_the_next() -> None:
    keys = {
        kernel_key("ab", "c", "sm90", TOOLS),
        kernel_key("a", "bc", "sm90", TOOLS),
        kernel_key("c", "ab", "sm90", TOOLS),
        request_key("ab", "c", {}, TOOLS),
        request_key("a", "bc", {}, TOOLS),
    }
    assert len(keys) == 5


def test_the_format_version_reaches_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_key("c", "s", "sm90", TOOLS)
    monkeypatch.setattr(key_module, "FORMAT_VERSION", key_module.FORMAT_VERSION + 1)
    assert kernel_key("c", "s", "sm90", TOOLS) != before


def test_a_key_is_the_same_in_every_process() -> None:
    assert kernel_key("c", "s", "sm90", TOOLS) == "1d74b31d950b38c20840d2cabe2bbd2be426aae8d366d4539ee95fc6e5fe9f0b"


class TestFolderHash:
    def fill(self, folder: Path) -> Path:
        (folder / "lib").mkdir(parents=True)
        (folder / "stream.py.j2").write_text("one")
        (folder / "lib" / "tiles.py.j2").write_text("two")
        return folder

    def test_contents_and_names_count_and_the_place_does_not(self, tmp_path: Path) -> None:
        one, other = self.fill(tmp_path / "one"), self.fill(tmp_path / "other")
        assert folder_hash(one) == folder_hash(other)
        (other / "lib" / "tiles.py.j2").write_text("twO")
        changed = folder_hash(other)
        (other / "lib" / "tiles.py.j2").write_text("two")
        (other / "stream.py.j2").rename(other / "Stream.py.j2")
        assert len({folder_hash(one), changed, folder_hash(other)}) == 3

    def test_moving_text_between_files_changes_it(self, tmp_path: Path) -> None:
        one, other = self.fill(tmp_path / "one"), self.fill(tmp_path / "other")
        (other / "stream.py.j2").write_text("onetwo")
        (other / "lib" / "tiles.py.j2").write_text("")
        assert folder_hash(one) != folder_hash(other)

    def test_byte_code_and_skipped_folders_do_not_count(self, tmp_path: Path) -> None:
        folder = self.fill(tmp_path / "one")
        before = folder_hash(folder, (".j2",), ("generated",))
        for name in ("__pycache__/x.j2", "generated/kernel.j2", "notes.txt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("new")
        assert folder_hash(folder, (".j2",), ("generated",)) == before

    def test_the_source_of_a_wheel_hashes_like_its_checkout(self, tmp_path: Path) -> None:
        package = Path(key_module.__file__).parents[1]
        wheel = tmp_path / "attngen"
        shutil.copytree(package, wheel, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("templates", "pregenerated"):
            (wheel / folder).mkdir()
            (wheel / folder / "kernel.py").write_text("generated")
        assert folder_hash(wheel, (".py",), ("templates", "pregenerated")) == source_hash()
