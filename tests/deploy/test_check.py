"""A check sees what was done to a folder, runs nothing of it, and says of each what is wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attngen import catalog
from attngen.cli import commands as cli
from attngen.deploy import Difference, Order, check, generate

ORDER = Order(("sm90",), ("bfloat16",), ((16,),))
Json = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(catalog.load("full"), "full", ORDER, tmp_path_factory.mktemp("built"), named="full")


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "full"))


def manifest_of(folder: Path) -> Json:
    return json.loads((folder / "manifest.json").read_text())


def say(folder: Path, manifest: object) -> None:
    (folder / "manifest.json").write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))


def sealed(folder: Path, **changes: object) -> None:
    """A manifest with the hashes of what lies in the folder now, and these changes."""
    manifest = manifest_of(folder) | changes
    for file in manifest["files"]:
        content = (folder / file).read_bytes()
        manifest["files"][file] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    say(folder, manifest)


# ---- files


def edited(folder: Path) -> None:
    text = (folder / "kernels.py").read_text()
    (folder / "kernels.py").write_text(text.replace("tl.zeros", "tl.ones", 1))


def edited_and_sealed(folder: Path) -> None:
    edited(folder)
    sealed(folder)


def edited_without_a_spec(folder: Path) -> None:
    edited(folder)
    sealed(folder, spec=None)


def edited_under_another_name(folder: Path) -> None:
    """Nothing says what it is of, so nothing says that it is well."""
    edited(folder)
    sealed(folder, spec=None, name="mine")
    folder.rename(folder.with_name("mine"))


def of_another_variant(folder: Path) -> None:
    sealed(folder, spec="sigmoid")


def of_a_file(folder: Path) -> None:
    path = folder.parent / "other.py"
    path.write_text(f"open({str(folder.parent / 'ran')!r}, 'w').close()\nimport attngen\nspec = attngen.attention()\n")
    sealed(folder, spec=f"{path}:spec")


def of_a_module(folder: Path) -> None:
    of_a_file(folder)
    sealed(folder, spec="other:spec", name="mine")
    folder.rename(folder.with_name("mine"))


def linked_module(folder: Path) -> None:
    (folder / "kernels.py").rename(folder.parent / "kernels.py")
    (folder / "kernels.py").symlink_to("../kernels.py")


def linked_package(folder: Path) -> None:
    (folder / "__init__.py").rename(folder.parent / "init.py")
    (folder / "__init__.py").symlink_to(folder.parent / "init.py")


def linked_manifest(folder: Path) -> None:
    (folder / "manifest.json").rename(folder.parent / "manifest.json")
    (folder / "manifest.json").symlink_to("../manifest.json")


def linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "deep")
    (folder.parent / ".hidden").mkdir()
    (folder.parent / "deep").rename(folder.parent / ".hidden" / "full")
    folder.symlink_to(".hidden/full")


def module_is_a_folder(folder: Path) -> None:
    (folder / "kernels.py").unlink()
    (folder / "kernels.py").mkdir()


def module_is_a_pipe(folder: Path) -> None:
    (folder / "kernels.py").unlink()
    os.mkfifo(folder / "kernels.py")


def manifest_is_a_pipe(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def no_module(folder: Path) -> None:
    (folder / "kernels.py").unlink()


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def another_file(folder: Path) -> None:
    (folder / "triton.py").write_text("print('hello')")


def another_file_that_is_listed(folder: Path) -> None:
    another_file(folder)
    manifest = manifest_of(folder)
    say(folder, {**manifest, "files": {**manifest["files"], "triton.py": {"sha256": "", "size": 0}}})
    sealed(folder)


def another_folder(folder: Path) -> None:
    (folder / ".hidden").mkdir()


# ---- byte code


def byte_code(folder: Path, module: str, source: str) -> None:
    (folder.parent / "source.py").write_text(source)
    (folder / "__pycache__").mkdir()
    py_compile.compile(str(folder.parent / "source.py"), cfile=str(folder / "__pycache__" / f"{module}.{cache_tag()}.pyc"), doraise=True)


def cache_tag() -> str:
    import sys

    return str(sys.implementation.cache_tag)


def planted_byte_code(folder: Path) -> None:
    byte_code(folder, "kernels", "print('hello')")


def byte_code_of_no_module(folder: Path) -> None:
    byte_code(folder, "triton", "print('hello')")


def damaged_byte_code(folder: Path) -> None:
    byte_code(folder, "kernels", (folder / "kernels.py").read_text())
    next((folder / "__pycache__").iterdir()).write_bytes(b"\0" * 40)


def byte_code_of_another_python(folder: Path) -> None:
    byte_code(folder, "kernels", (folder / "kernels.py").read_text())
    next((folder / "__pycache__").iterdir()).rename(folder / "__pycache__" / "kernels.cpython-36.pyc")


def byte_code_is_a_link(folder: Path) -> None:
    byte_code(folder, "kernels", (folder / "kernels.py").read_text())
    path = next((folder / "__pycache__").iterdir())
    path.rename(folder.parent / "code.pyc")
    path.symlink_to(folder.parent / "code.pyc")


def byte_code_folder_is_a_link(folder: Path) -> None:
    byte_code(folder, "kernels", (folder / "kernels.py").read_text())
    (folder / "__pycache__").rename(folder.parent / ".code")
    (folder / "__pycache__").symlink_to("../.code")


FILES = {
    edited: "kernels.py: was changed",
    edited_and_sealed: "kernels.py: is not what the code emits now",
    edited_without_a_spec: "kernels.py: is not what the code emits now",
    edited_under_another_name: "names no spec of the catalogue",
    of_another_variant: "made of 'sigmoid', which is not the full of the catalogue",
    of_a_file: "other.py:spec', which is not the full of the catalogue",
    of_a_module: "made of 'other:spec', which is not in the catalogue",
    linked_module: "kernels.py: is a link",
    linked_package: "__init__.py: is a link",
    linked_manifest: "manifest.json: cannot be read",
    linked_folder: "manifest.json: is not in a folder, or in a link to one",
    module_is_a_folder: "kernels.py: is a folder",
    module_is_a_pipe: "kernels.py: is something special",
    manifest_is_a_pipe: "manifest.json: cannot be read",
    no_module: "kernels.py: is missing",
    no_manifest: "manifest.json: cannot be read",
    another_file: "triton.py: is not in the manifest",
    another_file_that_is_listed: "lists triton.py, unlike what the code writes",
    another_folder: ".hidden: is not in the manifest",
    planted_byte_code: "is not the byte code of its module",
    byte_code_of_no_module: "is not byte code of a module of the folder",
    damaged_byte_code: "is byte code of another Python",
    byte_code_of_another_python: "is byte code of another Python",
    byte_code_is_a_link: "is not byte code of a module of the folder",
    byte_code_folder_is_a_link: "__pycache__: is not in the manifest",
}


@pytest.mark.parametrize("change", FILES, ids=lambda change: change.__name__)
def test_what_was_done_to_a_folder_is_seen(copied: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]) -> None:
    change(copied)
    assert cli.main(["generate", "--check", "--out", str(copied.parent)]) == 1
    said = capsys.readouterr()
    assert FILES[change] in said.out and "Error" not in said.err
    assert not (copied.parent / "ran").exists()


def test_byte_code_of_its_own_modules_is_well(copied: Path) -> None:
    for name in ("kernels", "__init__"):
        path = py_compile.compile(str(copied / f"{name}.py"), doraise=True)
        py_compile.compile(str(copied / f"{name}.py"), doraise=True, optimize=2)
    assert path is not None and Path(path).parent == copied / "__pycache__"
    assert len(list((copied / "__pycache__").iterdir())) == 4
    assert check(copied) == ()


# ---- the spec


def test_a_spec_of_ones_own_comes_from_the_command_line(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = copied.parent / "own.py", str(copied.parent)
    path.write_text("import attngen\nfull = attngen.attention(name='full')\n")
    sealed(copied, spec="own.py:full")
    assert cli.main(["generate", "--check", "--out", out]) == 1
    assert "attngen generate --check SPEC --name full" in capsys.readouterr().out
    for argv in (["causal", "--name", "full"], [f"{path}:full"], [f"{path}:full", "--name", "full"], ["full", "--name", "full"]):
        status = cli.main(["generate", "--check", *argv, "--out", out])
        assert status == (argv[0] == "causal"), capsys.readouterr().out
    for argv in ([f"{path}:full", "--name", "other"], ["other"]):
        assert cli.main(["generate", "--check", *argv, "--out", out]) == 1
        assert "SpecError" in capsys.readouterr().err
    for argv in (["full", "causal", "--name", "full"], ["--name", "full"]):
        with pytest.raises(SystemExit):
            cli.main(["generate", "--check", *argv, "--out", out])


def test_a_folder_of_the_catalogue_may_have_a_name_of_its_own(copied: Path) -> None:
    """The name in a manifest is looked up where it is one of the catalogue: no code comes with it."""
    mine = copied.rename(copied.with_name("mine"))
    sealed(mine, name="mine")
    assert sorted(item.file for item in check(mine)) == ["__init__.py", "kernels.py"], "the name stands in both"
    assert all("emits now" in item.problem for item in check(mine))


# ---- manifests


def changed(manifest: Json, place: tuple[str | int, ...], value: object) -> Json:
    """A manifest with another value at a place; `...` takes it away."""
    found = copy.deepcopy(manifest)
    at: Any = found
    for key in place[:-1]:
        at = at[key]
    if value is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    return found


FIELDS = ["cascade", "files", "name", "order", "resources", "schedules", "schema", "spec", "versions"]
ODD: list[tuple[tuple[str | int, ...], object, str]] = [
    *(((name,), ..., f"lacks {name}") for name in FIELDS),
    *(((name,), 1.5, f"has a number as {name}") for name in FIELDS),
    (("note",), "mine", "has fields that attngen does not write: 'note'"),
    (("schema",), 2, "has schema 2"),
    (("schema",), True, "has a truth value as schema"),
    (("schema",), "1", "has text as schema"),
    (("name",), "other", "is of a folder called 'other'"),
    (("name",), "x" * 300, "is of a folder called"),
    (("versions", "triton"), ..., "lacks triton in versions"),
    (("versions", "cuda"), "13", "does not write in versions"),
    (("cascade",), [], "has an empty list as cascade"),
    (("cascade", 0), "cascade(q[b,m])", "was made of another cascade"),
    (("order", "cubins"), ..., "lacks cubins in order"),
    (("order", "cubins"), 0, "has a number as order.cubins"),
    (("order", "cubins"), True, "does not list sm90.bfloat16.d16.e16.forward.cubin"),
    (("order", "arch"), ["sm1"], "cannot be emitted"),
    (("order", "arch"), [], "has an empty list as order.arch"),
    (("order", "arch"), "sm90", "has text as order.arch"),
    (("order", "dtype"), ["int3"], "cannot be emitted"),
    (("order", "head_dim"), [["16"]], "has text as order.head_dim"),
    (("order", "head_dim"), [[True]], "has a truth value as order.head_dim"),
    (("order", "head_dim"), [16], "has a number as order.head_dim"),
    (("order", "head_dim"), [[]], "has an empty list as order.head_dim"),
    (("order", "head_dim"), [[0]], "has a length of 0"),
    (("order", "head_dim"), [[10**9]], "has a length of 1000000000"),
    (("order", "head_dim"), [[16], [32]], "has other schedules than its order"),
    (("order", "head_dim"), [[16, 16, 16]], "cannot be emitted"),
    (("schedules",), [], "has an empty list as schedules"),
    (("schedules", 0), None, "has null as schedules[0]"),
    (("schedules", 0, "tiles"), "", "has a schedule of other kernels"),
    (("schedules", 0, "tiles"), "forward=big", "cannot be emitted"),
    (("schedules", 0, "tiles"), ["forward"], "has a list as schedules[0].tiles"),
    (("schedules", 0, "lengths"), {"d": 16}, "has other schedules"),
    (("schedules", 0, "lengths", "z"), 16, "has other schedules"),
    (("schedules", 0, "lengths", "d"), -16, "has a length of -16"),
    (("schedules", 0, "arch"), "sm80", "has other schedules"),
    (("resources", 0, "role"), "backward", "has resources of other kernels"),
    (("resources", 0, "tile"), "16x16,w4,s1", "has resources of other kernels"),
    (("resources", 0, "registers"), "many", "has text as resources[0].registers"),
    (("resources", 0, "block_m"), [64], "has a list as resources[0].block_m"),
    (("resources", 0), ..., "has resources of other kernels"),
    (("files", "kernels.py"), ..., "lists no kernels.py"),
    (("files", "kernels.py"), None, "has null as files['kernels.py']"),
    (("files", "kernels.py", "size"), True, "has a truth value as files['kernels.py'].size"),
    (("files", "kernels.py", "size"), -1, "was changed"),
    (("files", "kernels.py", "sha256"), "0" * 63, "has no sha256"),
    (("files", "kernels.py", "mode"), 420, "does not write in files"),
    (("files", "../other.py"), {"sha256": "0" * 64, "size": 1}, "lists '../other.py'"),
    (("files", "/etc/passwd"), {"sha256": "0" * 64, "size": 1}, "lists '/etc/passwd'"),
    (("files", "x" * 300), {"sha256": "0" * 64, "size": 1}, "not a legal file name"),
    (("files", "__pycache__"), {"sha256": "0" * 64, "size": 1}, "not a legal file name"),
    (("files", "more.py"), {"sha256": "0" * 64, "size": 1}, "more.py: is missing"),
]


@pytest.mark.parametrize(("place", "value", "said"), ODD, ids=str)
def test_an_odd_manifest_is_told_what_is_wrong(copied: Path, place: tuple[str | int, ...], value: object, said: str) -> None:
    say(copied, changed(manifest_of(copied), place, value))
    assert said in "\n".join(map(str, check(copied)))


TEXTS = ["", "{", "null", "[]", '"full"', "NaN", "[" * 100_000, '{"a": ' * 50_000, "9" * 10_000, '{"schema": 1, "schema": 1}', "\ufeff{}"]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:8]))
def test_what_is_no_manifest_is_told_what_is_wrong(copied: Path, text: str) -> None:
    say(copied, text)
    (found,) = check(copied)
    assert found.file == "manifest.json"


def test_a_manifest_that_is_no_text_or_too_long(copied: Path) -> None:
    for content in (b"\xff\xfe{}", b" " * 17_000_000 + b"{}"):
        (copied / "manifest.json").write_bytes(content)
        (found,) = check(copied)
        assert "cannot be read" in found.problem


KINDS = {"null": None, "number": 7, "fraction": 0.5, "text": "x", "truth": True, "list": ["x"], "object": {"x": "y"}}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_value_of_another_kind_goes_unseen(built: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Wherever in a manifest: no error, and never well."""
    folder, manifest = tmp_path / "full", manifest_of(built)
    shutil.copytree(built, folder, dirs_exist_ok=True)
    at, place = manifest, []
    while isinstance(at, dict | list) and (not place or data.draw(st.booleans())):
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        place.append(key)
        at = at[key]
    value = data.draw(st.sampled_from([value for value in KINDS.values() if type(value) is not type(at)]))
    say(folder, changed(manifest, tuple(place), value))
    both = {type(value), type(at)}
    if place == ["spec"] and value is None or place[-1] in ("block_m", "block_n") and both == {int, type(None)}:  # noqa: RUF021
        return
    assert check(folder)


def test_a_difference_is_readable() -> None:
    assert str(Difference("full", "kernels.py", "is missing", ("-a", "+b"))) == "full/kernels.py: is missing\n-a\n+b"
