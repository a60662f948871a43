from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attngen import catalog
from attngen.errors import ArgumentError, AttngenError, InternalError, SpecError
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
def folder(own_folder: Path) -> Path:
    (own_folder / "own_variants.py").write_text(_FILE)
    (own_folder / "own_package").mkdir()
    (own_folder / "own_package" / "__init__.py").write_text("")
    (own_folder / "own_package" / "variants.py").write_text(_FILE)
    (own_folder / "own_broken.py").write_text("import no_such_module_at_all\n")
    return own_folder


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
    with pytest.raises(SpecError, match="ModuleNotFoundError") as refused:
        catalog.load("own_broken.py:spec")
    assert f"{folder / 'own_broken.py'}:1" in str(refused.value)
    assert "own_broken" not in sys.modules


BROKEN = {
    "def broken(:": (5, "SyntaxError"),
    "  spec = 3": (5, "IndentationError"),
    "import json\njson.loads('{')": (6, "JSONDecodeError"),
    "import torch\ntorch.zeros(2) + torch.zeros(3)": (6, "RuntimeError"),
    "raise SystemExit('bye')": (5, "SystemExit: bye"),
    "late = attngen.attention(score_mod=lambda s, b, h, i, j: s + missing)": (5, "missing"),
    "late = attngen.attention(mask_mod=3)": (5, ""),
    "import own_syntax": (1, "own_syntax.py:1"),
}


@pytest.mark.parametrize("line", BROKEN)
def test_an_error_in_the_users_file_shows_its_line(folder: Path, line: str) -> None:
    """Whatever it is, and however deep in a library."""
    (folder / "own_syntax.py").write_text("x = = 3\n")
    (folder / "broken.py").write_text(f"import attngen\nspec = attngen.attention()\n\n\n{line}\n")
    with pytest.raises(AttngenError) as refused:
        catalog.load("broken.py:spec")
    number, word = BROKEN[line]
    assert not isinstance(refused.value, InternalError)
    assert refused.value.loc is not None and refused.value.loc.line == number
    assert Path(refused.value.loc.filename).name == ("own_syntax.py" if "own_syntax" in line else "broken.py")
    assert word in str(refused.value)


def test_a_file_alone_is_refused_with_its_specs(folder: Path) -> None:
    (folder / "two.py").write_text("import attngen\nnear = attngen.attention(name='a')\nfull = attngen.attention(name='b')\n")
    for text in ("two.py", "two.py:absent", str(folder / "two.py")):
        with pytest.raises(ArgumentError, match=r"two\.py:near, .*two\.py:full"):
            catalog.load(text)
    (folder / "none.py").write_text("import math\nnumber = 3\n")
    with pytest.raises(ArgumentError, match="no spec, only number"):
        catalog.load("none.py")
    with pytest.raises(ArgumentError, match="there is no file"):
        catalog.load("absent.py")


def test_a_function_that_is_no_maker_of_specs_is_named(folder: Path) -> None:
    (folder / "mods.py").write_text("import attngen\ndef near(b, h, i, j):\n    return i >= j\nspec = attngen.attention(mask_mod=near)\n")
    with pytest.raises(SpecError, match=r"function of b, h, i, j, not a spec[^$]*mods.py:spec"):
        catalog.load("mods.py:near")


def test_captures_are_values_that_a_call_can_change() -> None:
    window = next(capture for capture in catalog.load("sliding_window").captures if capture.name == "window")
    softcap = next(capture for capture in catalog.load("softcap").captures if capture.name == "softcap")
    assert window.value == 1024
    assert isinstance(softcap.value, torch.Tensor)
