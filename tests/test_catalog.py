from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attngen import catalog
from attngen.errors import ArgumentError, SpecError
from attngen.frontend.spec import Spec


@pytest.mark.parametrize("name", catalog.names())
def test_every_name_gives_a_spec_of_that_name(name: str) -> None:
    spec = catalog.load(name)
    assert spec.name == name
    variant = next(variant for variant in catalog.VARIANTS if variant.name == name)
    assert tuple(capture.name for capture in spec.captures) == variant.captures


def test_the_catalogue_holds_the_eight_variants() -> None:
    assert catalog.names() == ("full", "causal", "sliding_window", "alibi_causal", "softcap", "prefix_lm", "sigmoid", "differential")


def test_listing_the_names_imports_no_torch() -> None:
    program = "import sys, attngen.catalog as c; c.names(); print({'torch', 'triton', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "set()"


_FILE = """import attngen

spec = attngen.attention(name="mine")
number = 3


def make():
    return attngen.attention(name="made")


def refuse():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_variants.py").write_text(_FILE)
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "__init__.py").write_text("")
    (tmp_path / "own_package" / "variants.py").write_text(_FILE)
    (tmp_path / "own_broken.py").write_text("import no_such_module_at_all\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"), [("own_variants.py:spec", "mine"), ("own_variants.py:make", "made"), ("own_package.variants:spec", "mine")]
)
def test_a_spec_of_the_users_own(folder: Path, text: str, name: str) -> None:
    spec = catalog.load(text)
    assert isinstance(spec, Spec)
    assert spec.name == name


@pytest.mark.parametrize(
    "text", ["cause", "own_variants.py:nothing", "no_file.py:spec", "no.such.module:spec", "own_package.absent:spec", "x.py:"]
)
def test_what_is_not_there_is_an_argument_error(folder: Path, text: str) -> None:
    with pytest.raises(ArgumentError):
        catalog.load(text)


@pytest.mark.parametrize("text", ["own_variants.py:number", "own_variants.py:refuse"])
def test_what_is_no_spec_is_a_spec_error(folder: Path, text: str) -> None:
    with pytest.raises(SpecError):
        catalog.load(text)


def test_an_error_inside_of_the_users_module_is_not_hidden(folder: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        catalog.load("own_broken.py:spec")


def test_captures_are_values_that_a_call_can_change() -> None:
    window = next(capture for capture in catalog.load("sliding_window").captures if capture.name == "window")
    softcap = next(capture for capture in catalog.load("softcap").captures if capture.name == "softcap")
    assert window.value == 1024
    assert isinstance(softcap.value, torch.Tensor)
