"""A folder takes the place of what attngen wrote, and of nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attngen import catalog
from attngen.deploy import Order, generate
from attngen.deploy import write as writing
from attngen.errors import ArgumentError, CacheError, ForeignFolder
from attngen.schedule.tile_schedule import ModuleSchedule
from tests.deployed import not_compiled

ORDER = Order(("sm90",), ("bfloat16",), ((16,),))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(catalog.load("sigmoid"), "sigmoid", ORDER, tmp_path_factory.mktemp("built"), named="sigmoid")


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "sigmoid"))


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled; folders list no resources."""
    monkeypatch.setattr(writing, "compile_settled", not_compiled)


def again(out: Path, name: str = "sigmoid") -> Path:
    return generate(catalog.load("sigmoid"), name, ORDER, out, named="sigmoid")


def everything(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def foreign(copied: Path) -> None:
    shutil.rmtree(copied)
    copied.mkdir()
    (copied / "manifest.json").write_text(json.dumps({"name": "app", "version": "2.1", "files": {}}))
    (copied / "main.js").write_text("work of weeks")


def emptied(copied: Path) -> None:
    shutil.rmtree(copied)
    copied.mkdir()


def a_file(copied: Path) -> None:
    shutil.rmtree(copied)
    copied.write_text("mine")


def linked(copied: Path) -> None:
    copied.rename(copied.with_name("elsewhere"))
    copied.symlink_to("elsewhere")


def dangling(copied: Path) -> None:
    shutil.rmtree(copied)
    copied.symlink_to("nowhere")


def with_notes(copied: Path) -> None:
    (copied / "notes.txt").write_text("mine")


def with_hidden(copied: Path) -> None:
    (copied / ".git").mkdir()
    (copied / ".git" / "HEAD").write_text("mine")


def edited(copied: Path) -> None:
    with (copied / "kernels.py").open("a") as stream:
        stream.write("# a note of mine\n")


def module_is_a_link(copied: Path) -> None:
    (copied / "kernels.py").rename(copied.parent / "kernels.py")
    (copied / "kernels.py").symlink_to("../kernels.py")


def byte_code_of_others(copied: Path) -> None:
    (copied / "__pycache__").mkdir()
    (copied / "__pycache__" / "notes.cpython-311.pyc").write_text("mine")


def renamed(copied: Path) -> None:
    """A folder that was copied is its owner's."""
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))


def outside(copied: Path) -> None:
    (copied.parent / "precious").write_text("mine")
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["../precious"] = {"sha256": "0" * 64, "size": 4}
    (copied / "manifest.json").write_text(json.dumps(manifest))


FOREIGN = {
    foreign: "version",
    emptied: "no manifest.json",
    a_file: "no manifest.json",
    linked: "link",
    dangling: "no manifest.json",
    with_notes: "notes.txt",
    with_hidden: ".git",
    edited: "kernels.py",
    module_is_a_link: "kernels.py",
    byte_code_of_others: "notes.cpython-311.pyc",
    renamed: "other",
    outside: "../precious",
}


@pytest.mark.parametrize("change", FOREIGN, ids=lambda change: change.__name__)
def test_what_attngen_did_not_write_is_refused_and_stays(copied: Path, change: Callable[[Path], None]) -> None:
    change(copied)
    before = everything(copied.parent)
    with pytest.raises(ForeignFolder) as refused:
        again(copied.parent)
    assert everything(copied.parent) == before
    assert FOREIGN[change] in str(refused.value)
    assert str(copied) in str(refused.value)


@pytest.mark.usefixtures("uncompiled")
def test_an_older_folder_is_replaced_with_the_byte_code_of_its_modules(copied: Path) -> None:
    (copied / "__pycache__").mkdir()
    for name in ("__init__.cpython-311.pyc", "kernels.cpython-312.opt-1.pyc"):
        (copied / "__pycache__" / name).touch()
    (copied / "kernels.py").unlink()
    again(copied.parent)
    assert sorted(path.name for path in copied.iterdir()) == ["__init__.py", "kernels.py", "manifest.json"]
    assert [path.name for path in copied.parent.iterdir()] == ["sigmoid"]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("named", ["sigmoid", "mine.py:full"])
def test_that_another_variant_had_the_name_is_said(copied: Path, named: str) -> None:
    said: list[str] = []
    generate(catalog.load("full"), "sigmoid", ORDER, copied.parent, named=named, progress=said.append)
    assert ("sigmoid: replaces kernels of sigmoid" in said) == (named != "sigmoid")


@pytest.mark.usefixtures("uncompiled")
def test_a_file_that_appears_while_kernels_are_compiled_stays(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*args: Any) -> tuple[ModuleSchedule, tuple[()]]:
        (copied / "notes.txt").write_text("mine")
        return not_compiled(*args)

    monkeypatch.setattr(writing, "compile_settled", meanwhile)
    before = everything(copied)
    with pytest.raises(ForeignFolder, match=r"notes\.txt"):
        again(copied.parent)
    assert everything(copied) == {**before, "notes.txt": b"mine"}
    assert [path.name for path in copied.parent.iterdir()] == ["sigmoid"]


@pytest.mark.usefixtures("uncompiled")
def test_a_folder_that_cannot_be_moved_into_place_leaves_the_older_one(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, before = Path.rename, everything(copied)

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp-"):
            raise PermissionError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CacheError):
        again(copied.parent)
    assert everything(copied) == before
    assert [path.name for path in copied.parent.iterdir()] == ["sigmoid"]


def test_a_file_in_the_place_of_the_folder_above_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CacheError, match="--out"):
        again(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


NAMES = ["a-b", "../up", "", "1st", "é", "x" * 101, "x" * 300, "torch", "triton", "attngen", "numpy", "math", "json", "class", "None"]
NAMES += ["__init__", "__pycache__", "sys", "_thread", "a.b", "a b", "a\n"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_must_be_importable_and_hide_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--name") as refused:
        again(tmp_path, name)
    assert len(str(refused.value)) < 300
    assert list(tmp_path.iterdir()) == []
