"""Strict mode: the command that an error names is run as it stands there, and the same call runs."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen import catalog
from attngen.api import Attention
from attngen.cli import commands as cli
from attngen.deploy import write as writing
from attngen.errors import MissingKernel
from attngen.knobs import Knobs
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.kernels import Kernels
from attngen.runtime.strict import Beforehand
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import ModuleSchedule
from attngen.targets import table as targets
from tests.deployed import not_compiled

VARIANTS = """
import torch
import attngen

near = attngen.attention(mask_mod=lambda b, h, i, j: (i >= j) & (i - j < 7))
lines = attngen.attention(mask_mod=lambda b, h, i, j: (i - j) % 4 == 0, name="lines")
dropped = attngen.attention(dropout=0.25, name="dropped")
bias = attngen.low_rank(torch.randn(2, 20, 5), torch.randn(27, 5))
factored = attngen.attention(lambda s, b, h, i, j: s + bias(b, h, i, j), name="factored")
def random(b, h, i, j):
    return i >= j
shadowing = attngen.attention(mask_mod=random)

@attngen.cascade(q="b h m d", k="b h n d", z="b h n f", v="b h n e")
def wide(q, k, z, v):
    x = attngen.einsum("b h m d, b h n d -> b h m n", q, k) + attngen.sum(z, "f")
    return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(x, "n"), v)

def make():
    return attngen.attention(mask_mod=lambda b, h, i, j: i >= j, name="inner")
"""


@pytest.fixture
def mine(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the user's in the folder where commands run, and an empty cache."""
    (own_folder / "own variants.py").write_text(VARIANTS)
    (own_folder / "own_variants.py").write_text(VARIANTS)
    (own_folder / "own_package").mkdir()
    (own_folder / "own_package" / "__init__.py").write_text("")
    (own_folder / "own_package" / "inner.py").write_text(VARIANTS)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(own_folder / "cache"))
    return importlib.import_module("own_variants")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are those of the model; on CPU tensors these run."""

    def chosen(self: Kernels, *args: Any) -> ModuleSchedule:
        return self.choice(*args).schedule

    monkeypatch.setattr(Kernels, "settled", chosen)
    monkeypatch.setattr(writing, "compile_settled", not_compiled)


def command(error: MissingKernel) -> list[str]:
    """The arguments of the command in a message."""
    match = re.search(r"attngen (generate .*)$", str(error))
    assert match is not None, str(error)
    return shlex.split(match[1])


def run(argv: list[str]) -> None:
    assert cli.main([*argv, "--out", "folders"]) == 0


def tensors(*sizes: tuple[int, int], heads: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, heads, length, dim, generator=generator).to(dtype).requires_grad_() for length, dim in sizes]


QKV = ((20, 16), (27, 16), (27, 16))
CALLS: dict[str, tuple[tuple[tuple[int, int], ...], dict[str, Any], str]] = {
    "near": (QKV, {}, "own_variants.py:near --arch sm90 --dtype float32 --head-dim 16"),
    "lines": (((64, 16), (64, 16), (64, 16)), {}, "own_variants.py:lines --arch sm90 --dtype float32 --head-dim 16"),
    "dropped": (QKV, {"training": False}, "own_variants.py:dropped --arch sm90 --dtype float32 --head-dim 16"),
    "factored": (QKV, {"return_lse": True}, "own_variants.py:factored --arch sm90 --dtype float32 --head-dim 16"),
    "shadowing": (
        ((20, 16), (27, 16), (27, 24)),
        {},
        "own_variants.py:shadowing --arch sm90 --dtype float32 --head-dim 16,24 --name random_kernels",
    ),
    "wide": (
        ((20, 16), (27, 16), (27, 8), (27, 32)),
        {"return_lse": True},
        "own_variants.py:wide --arch sm90 --dtype float32 --head-dim 16,8,32",
    ),
}


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", CALLS)
def test_the_command_of_the_message_is_enough(mine: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is run as it stands there, in the very environment of the call."""
    sizes, options, said = CALLS[name]
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    attend, given = attngen.compile(getattr(mine, name)), tensors(*sizes)
    with pytest.raises(MissingKernel) as missing:
        attend(*given, **options)
    assert command(missing.value) == ["generate", *said.split()]
    run(command(missing.value))
    found = attend(*given, **options)
    exact = attend.reference(*given, **options)
    for value, right in zip(*((item if isinstance(item, tuple) else (item,)) for item in (found, exact)), strict=True):
        torch.testing.assert_close(value.double(), right, rtol=1e-3, atol=1e-4)
    (found[0] if isinstance(found, tuple) else found).sum().backward()
    assert all(tensor.grad is not None for tensor in given)
    again = attngen.compile(getattr(mine, name))
    again(*given, **options)


@pytest.mark.usefixtures("uncompiled", "mine")
@pytest.mark.parametrize("name", ["full", "alibi_causal", "differential"])
def test_variants_of_the_catalogue_go_by_their_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    attend = attngen.compile(catalog.load(name), arch="sm80")
    sizes = {argument.name: [16 if axes[0] in "de" else 3 for axes in argument.pattern] for argument in attend.spec.arguments}
    given = {name: torch.randn(size).to(torch.bfloat16) for name, size in sizes.items()}
    with pytest.raises(MissingKernel) as missing:
        attend(**given)
    assert command(missing.value) == ["generate", name, *["--arch", "sm80", "--dtype", "bfloat16", "--head-dim", "16"]]
    run(command(missing.value))
    attend(**given)


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("length", [1, 16, 20])
def test_lengths_of_all_classes_run(mine: ModuleType, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    run(["generate", "own_variants.py:near", "--arch", "sm90", "--dtype", "float32", "--head-dim", "16"])
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    q, k, v = (tensor.detach() for tensor in tensors((length, 16), (300, 16), (300, 16)))
    attend = attngen.compile(mine.near)
    torch.testing.assert_close(attend(q, k[:, :1], v[:, :1]).double(), attend.reference(q, k[:, :1], v[:, :1]), rtol=1e-4, atol=1e-4)


def anonymous(mine: ModuleType) -> Attention:
    return attngen.compile(mine.make())


def left_out(mine: ModuleType) -> Attention:
    return attngen.compile(mine.near, without=["join_dots"])


def with_tiles(mine: ModuleType) -> Attention:
    return attngen.compile(mine.near, schedule={"forward": {"BLOCK_M": 32}})


def ordered(mine: ModuleType) -> Attention:
    return attngen.compile(attngen.attention(order=torch.arange(20).flip(0)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (anonymous, "Give it a name at the top level of a module"),
        (left_out, "run this call once without ATTNGEN_STRICT"),
        (with_tiles, "run this call once without ATTNGEN_STRICT"),
        (ordered, "No command builds with an order of tokens"),
    ],
)
def test_where_no_command_builds_it_the_message_says_what_does(
    mine: ModuleType, monkeypatch: pytest.MonkeyPatch, make: Callable[[ModuleType], Attention], said: str
) -> None:
    given = tensors((20, 16), (20, 16), (20, 16))
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    attend = make(mine)
    with pytest.raises(MissingKernel, match=said):
        attend(*given)
    if "once" in said:
        monkeypatch.delenv("ATTNGEN_STRICT")
        make(mine)(*given)
        monkeypatch.setenv("ATTNGEN_STRICT", "1")
        make(mine)(*given)


@pytest.mark.usefixtures("uncompiled", "mine")
def test_a_script_that_calls_what_is_not_stored_is_its_own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command loads it once more, in strict mode as it is, up to the call."""
    script = (
        "import attngen, torch\nspec = attngen.attention(name='scripted')\nx = torch.ones(1, 1, 16, 16)\nattngen.compile(spec)(x, x, x)\n"
    )
    (tmp_path / "script.py").write_text(script)
    run_script = [sys.executable, "script.py"]
    environment = {**os.environ, "ATTNGEN_STRICT": "1", "PYTHONPATH": str(Path(attngen.__file__).parents[1])}
    done = subprocess.run(run_script, env=environment, capture_output=True, text=True, check=False)
    assert "attngen generate script.py:spec --arch sm90 --dtype float32 --head-dim 16" in done.stderr
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    run(["generate", "script.py:spec", "--arch", "sm90", "--dtype", "float32", "--head-dim", "16"])
    subprocess.run(run_script, env=environment, check=True)


def test_specs_are_found_where_a_command_finds_them(mine: ModuleType, tmp_path: Path) -> None:
    inner = importlib.import_module("own_package.inner")
    loaded = importlib.util.spec_from_file_location("spaced", tmp_path / "own variants.py")
    assert loaded is not None and loaded.loader is not None
    spaced = importlib.util.module_from_spec(loaded)
    spaced.only = attngen.attention(name="only_here")
    loaded.loader.exec_module(spaced)
    sys.modules["spaced"] = spaced
    inner.only = attngen.attention(name="only_inside")
    found = [catalog.spelling(spec) for spec in (mine.near, spaced.only, inner.only, attngen.attention(name="nowhere"))]
    assert found == ["own_variants.py:near", "own variants.py:only", "own_package.inner:only", None]
    assert catalog.load("own_variants.py:near").cascade == mine.near.cascade


def test_classes_of_lengths_take_the_tiles_of_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a call on a GPU asks for them, with real compiles beforehand."""
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    spec, target, dims = catalog.load("full"), targets.get("sm90"), {"d": 16, "e": 48}
    knobs = Knobs.from_env()
    table = KernelTable(spec.cascade, spec.name, Options("sm90"), Knobs(knobs.cache_dir, strict=True))
    strict, wide = table.kernels(ProgramKey("float16")), Request(tuple(dims.items()), "float16", target)
    with pytest.raises(MissingKernel):
        strict.settled(replace(wide, length="short"))
    Beforehand.of(spec, target, knobs).store(dims, "float16")
    assert len({str(strict.settled(replace(wide, length=length))) for length in ("long", "short", "decode")}) == 1
    with pytest.raises(MissingKernel):
        strict.settled(Request((("d", 48), ("e", 16)), "float16", target, "short"))


def test_a_folder_that_others_may_write_keeps_nothing_for_strict_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of kernels is written all the same."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(writing, "compile_settled", not_compiled)
    with pytest.warns(UserWarning, match="nothing is stored for ATTNGEN_STRICT"):
        attngen.generate(catalog.load("full"), arch="sm90", head_dim=64, out=tmp_path / "folders")
    assert (tmp_path / "folders" / "full" / "kernels.py").is_file()
