from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen import catalog
from attngen.cli import commands as cli
from attngen.deploy import Difference, Order, check, folders, generate
from attngen.deploy.order import modules, rows, surface
from attngen.emit.package import render_package
from attngen.errors import UnknownArch
from attngen.frontend.spec import Spec
from attngen.pipeline import analyse
from attngen.schedule.tile_schedule import ModuleSchedule, TileSchedule
from tests.deployed import expected, imported, small_tiles

GENERATED = Path(__file__).parents[1] / "generated"
CAPTURES: dict[str, dict[str, Any]] = {
    "sliding_window": {"window": 20},
    "alibi_causal": {"slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
    "softcap": {"softcap": torch.tensor(3.0)},
    "prefix_lm": {"prefix": torch.tensor([5, 40], dtype=torch.int32)},
    "sigmoid": {"bias": torch.tensor(-2.0)},
    "dropped": {"seed": torch.tensor(2**40 + 3)},
    "low_rank": {"phi": torch.randn(4, 37, 5), "psi": torch.randn(45, 5)},
}
ORDER = Order(("sm90",), ("bfloat16",), ((16,),))


def written(name: str, spec: Spec, out: Path, order: Order = ORDER) -> Path:
    """A folder without manifest, nothing compiled."""
    program = analyse(spec.cascade)
    tiles = ModuleSchedule(tuple((k.role, TileSchedule(32, None if k.streamed is None else 32, 4, 1)) for k in program.kernels))
    folder = out / name
    folder.mkdir(parents=True)
    mine = modules(program, spec, name, order)
    for module in mine.values():
        (folder / f"{module.name}.py").write_text(module.source.text, encoding="utf-8")
    table = rows(program, dict.fromkeys(mine, tiles), mine)
    (folder / "__init__.py").write_text(render_package(surface(program, spec, name), table), encoding="utf-8")
    return folder


def arguments(spec: Spec, dim: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Grouped heads, ragged lengths, a sequence that is not contiguous."""
    sizes = {"b": 2, "g": 2, "r": 2, "m": 37, "n": 45, "d": dim, "e": dim}
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for argument in spec.arguments:
        shape = [2 * 2 if len(axes) > 1 else sizes[axes[0]] for axes in argument.pattern]
        tensor = torch.randn(shape, generator=generator, dtype=dtype)
        found[argument.name] = (tensor.transpose(1, 2).contiguous().transpose(1, 2) if len(shape) == 4 else tensor).requires_grad_()
    return found


def agrees(package: ModuleType, spec: Spec, dim: int) -> None:
    """Forward and backward of a package against the float64 reference."""
    tensors = arguments(spec, dim)
    captures = dict(CAPTURES.get(spec.name, {}))
    for name, value in captures.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            captures[name] = value.clone().requires_grad_()
    options = {f"return_{name}": True for name in spec.on_request}
    found = package.attention(*tensors.values(), *captures.values(), tiles=small_tiles(package), **options)
    found = found if isinstance(found, tuple) else (found,)
    cotangents = [torch.randn(value.shape, generator=torch.Generator().manual_seed(2)) for value in found]
    outputs, gradients = expected(spec, tensors, captures, cotangents)
    for value, right in zip(found, outputs, strict=True):
        torch.testing.assert_close(value.double(), right, rtol=1e-4, atol=1e-4)
    sum((value * cotangent).sum() for value, cotangent in zip(found, cotangents, strict=True)).backward()  # type: ignore[union-attr]
    for name, right in gradients.items():
        torch.testing.assert_close({**tensors, **captures}[name].grad.double(), right, rtol=1e-3, atol=1e-4, msg=f"gradient of {name}")


# ---- what is emitted


@pytest.mark.parametrize("name", catalog.names())
def test_an_emitted_package_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    spec = catalog.load(name)
    agrees(imported(written(name, spec, tmp_path), "emitted"), spec, 16)


def test_seeds_and_factors_are_arguments_of_a_package(tmp_path: Path) -> None:
    """The length of a captured feature is its own, not that of the heads."""
    bias = attngen.low_rank(*CAPTURES["low_rank"].values())
    dropped = attngen.attention(dropout=0.25, name="dropped")
    low_rank = attngen.attention(lambda score, b, h, q_idx, kv_idx: score + bias(b, h, q_idx, kv_idx), name="low_rank")
    for spec in (dropped, low_rank):
        agrees(imported(written(spec.name, spec, tmp_path), "emitted"), spec, 16)


@pytest.mark.parametrize("name", catalog.names())
def test_a_shipped_folder_agrees_with_the_reference(name: str) -> None:
    agrees(imported(GENERATED / name, "shipped"), catalog.load(name), 64)


def test_shipped_folders_are_the_catalogue_and_what_the_code_emits() -> None:
    assert sorted(folder.name for folder in folders(GENERATED)) == sorted(catalog.names())
    assert [str(item) for folder in folders(GENERATED) for item in check(folder)] == []


def test_a_package_needs_torch_and_triton_only(tmp_path: Path) -> None:
    written("causal", catalog.load("causal"), tmp_path)
    program = "import sys, causal; print(any(name.split('.')[0] == 'attngen' for name in sys.modules), len(causal.TILES))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False 1\n"


def test_packages_are_formatted(tmp_path: Path) -> None:
    for name in catalog.names():
        written(name, catalog.load(name), tmp_path, Order(head_dims=((64,), (192, 128), (80,))))
    for command in (["check"], ["check", "--select", "E,F,W"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", "--line-length", "100", "."]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_package_checks_its_arguments(tmp_path: Path) -> None:
    spec = catalog.load("alibi_causal")
    package = imported(written("alibi_causal", spec, tmp_path), "checked")
    q, k, v = (tensor.detach() for tensor in arguments(spec, 16).values())
    slopes = torch.ones(4)
    wrong = [(q[0], k, v, slopes), (q, k[:1], v, slopes), (q, k, v[..., :3, :], slopes), (q, k, v.half(), slopes), (q, k, v, slopes[:3])]
    for bad in wrong:
        with pytest.raises(ValueError, match=r"must have|expected|needs"):
            package.attention(*bad, tiles=small_tiles(package))
    with pytest.raises(ValueError, match="GPU"):
        package.attention(q, k, v, slopes)


def test_a_package_takes_float32_and_integers_beside_its_operands(tmp_path: Path) -> None:
    @attngen.cascade(gate="b h m", q="b h m d", k="b h n d", v="b h n e", document="b n: int")
    def gated(gate: Any, q: Any, k: Any, v: Any, document: Any) -> Any:
        s = attngen.where(document > 0, attngen.einsum("b h m d, b h n d -> b h m n", q, k), float("-inf"))
        return gate * attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)

    package = imported(written("gated", gated, tmp_path), "mixed")
    q, k, v = (torch.randn(1, 2, 40, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    gate, document = torch.randn(1, 2, 40, requires_grad=True), torch.arange(40)[None] % 3
    found = package.attention(gate, q, k, v, document, tiles=small_tiles(package))
    s = (q.double() @ k.double().mT).masked_fill(document == 0, float("-inf"))
    right = gate.double()[..., None] * (s.softmax(-1) @ v.double())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), right, rtol=2e-2, atol=2e-2)
    (mine,), (exact,) = (torch.autograd.grad(x.double().sum(), gate) for x in (found, right))
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, exact, rtol=2e-2, atol=5e-2)
    with pytest.raises(ValueError, match=r"gate is torch\.float16"):
        package.attention(gate.half(), q, k, v, document, tiles=small_tiles(package))


def test_a_package_refuses_gradients_that_no_kernel_computes(tmp_path: Path) -> None:
    """Those of some inputs, and those through some outputs; all others it has."""
    table = torch.zeros(64)

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def clipped(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k) + table[torch.sqrt(attngen.index("n").float()).long()]
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v), attngen.max(s, over="n")

    package = imported(written("clipped", clipped, tmp_path), "refused")
    tensors, tiles = [torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3)], small_tiles(package)
    found, top = package.attention(*tensors, table, tiles=tiles)
    s = tensors[0] @ tensors[1].mT
    torch.testing.assert_close(top, s.amax(-1), rtol=1e-4, atol=1e-4)
    right = s.softmax(-1) @ tensors[2]
    for mine, exact in zip(*(torch.autograd.grad(x.square().sum(), tensors) for x in (found, right)), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-3, atol=1e-4)
    found, top = package.attention(*tensors, table, tiles=tiles)
    with pytest.raises(ValueError, match="no kernel computes gradients through o2"):
        torch.autograd.grad(top.sum(), tensors)
    with pytest.raises(ValueError, match="table requires a gradient"):
        package.attention(*tensors, table.clone().requires_grad_(), tiles=tiles)


def test_a_package_takes_numbers_for_scalars(tmp_path: Path) -> None:
    spec = catalog.load("softcap")
    package = imported(written("softcap", spec, tmp_path), "numbers")
    tensors = [tensor.detach() for tensor in arguments(spec, 16).values()]
    tiles = small_tiles(package)
    torch.testing.assert_close(package.attention(*tensors, 3.0, tiles=tiles), package.attention(*tensors, torch.tensor(3.0), tiles=tiles))


def test_results_in_a_dict_and_padded_features(tmp_path: Path) -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
    def named(q: Any, k: Any, v: Any) -> Any:
        x = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * 0.25
        p = attngen.softmax(x, "n")
        return {"out": attngen.einsum("b h m n, b h n e -> b h m e", p, v), "top": attngen.logsumexp(x, "n")}

    package = imported(written("named", named, tmp_path, Order(("sm90",), ("bfloat16",), ((24, 40),))), "dict")
    q, k, v = torch.randn(1, 2, 20, 24), torch.randn(1, 2, 30, 24), torch.randn(1, 2, 30, 40)
    found = package.attention(q, k, v, tiles=small_tiles(package))
    assert list(found) == ["out", "top"]
    torch.testing.assert_close(found["out"], torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found["top"], torch.logsumexp(q @ k.mT * 0.25, -1), rtol=1e-4, atol=1e-4)


def test_lengths_that_are_cut_differently_have_modules_of_their_own(tmp_path: Path) -> None:
    spec = catalog.load("causal")
    order = Order(("sm90",), ("bfloat16",), ((16,), (48,), (24,), (80,)))
    package = imported(written("causal", spec, tmp_path, order), "several")
    assert len({id(module) for module in package.MODULES.values()}) == 3, "48 and 80 are two tiles each"
    for dim in (16, 48, 24):
        agrees(package, spec, dim)
    with pytest.raises(ValueError, match="no kernels for"):
        agrees(package, spec, 32)


def test_dtypes_that_allow_other_rewrites_have_modules_of_their_own(tmp_path: Path) -> None:
    order = Order(("sm90",), ("bfloat16", "float32"), ((16,), (32,)))
    for name, count in (("causal", 1), ("alibi_causal", 2)):
        spec = catalog.load(name)
        found = modules(analyse(spec.cascade), spec, name, order)
        assert len({module.name for module in found.values()}) == count
    spec = catalog.load("alibi_causal")
    package = imported(written("alibi_causal", spec, tmp_path, order), "dtypes")
    assert package.find_module(torch.empty(0, dtype=torch.bfloat16), 16, 16) is package.kernels
    assert package.find_module(torch.empty(0), 16, 16) is package.kernels_2


# ---- what is written


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A really compiled folder."""
    return generate(catalog.load("full"), "full", ORDER, tmp_path_factory.mktemp("built"), named="full")


def test_the_manifest_tells_what_was_compiled(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert list(manifest["files"]) == ["__init__.py", "kernels.py"]
    assert {row["role"] for row in manifest["resources"]} == {"forward", "backward_prepare", "backward_rows", "backward_columns"}
    assert all(row["registers"] > 0 and row["shared_bytes"] <= row["shared_bytes_predicted"] for row in manifest["resources"])
    assert str(built.parent) not in (built / "manifest.json").read_text()
    assert check(built) == ()


def test_the_same_order_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    again = generate(catalog.load("full"), "full", ORDER, tmp_path, named="full", progress=lines.append)
    assert [path.name for path in sorted(again.iterdir())] == ["__init__.py", "kernels.py", "manifest.json"]
    assert all((again / name).read_bytes() == (built / name).read_bytes() for name in ("__init__.py", "kernels.py", "manifest.json"))
    assert len(lines) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "full"))


def problems(folder: Path) -> list[tuple[str, str]]:
    return [(item.file, item.problem.partition(":")[0]) for item in check(folder)]


def test_a_changed_file_is_found(copied: Path) -> None:
    text = (copied / "kernels.py").read_text()
    (copied / "kernels.py").write_text(text.replace("tl.zeros", "tl.ones", 1))
    assert problems(copied) == [("kernels.py", "was changed"), ("kernels.py", "is not what the code emits now")]
    assert any("tl.ones" in line for item in check(copied) for line in item.lines)


def test_missing_and_foreign_files_are_found(copied: Path) -> None:
    (copied / "__init__.py").unlink()
    (copied / "notes.txt").write_text("mine")
    assert problems(copied) == [("__init__.py", "is missing"), ("notes.txt", "is not in the manifest")]


_OTHER_SCHEMA = '{"schema": 7, "files": {}, "order": {"arch": [], "dtype": [], "head_dim": [], "cubins": 0}}'


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', _OTHER_SCHEMA])
def test_a_bad_manifest_is_a_difference(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    assert [item.file for item in check(copied)] == ["manifest.json"]


def test_check_as_a_command(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied.parent / "README.md").write_text("About these folders.")
    assert cli.main(["generate", "--check", "--out", str(copied.parent)]) == 0
    (copied / "kernels.py").write_text("pass\n")
    assert cli.main(["generate", "full", "--check", "--out", str(copied.parent), "--json"]) == 1
    found = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert not found["clean"]
    assert found["folders"]["full"][0]["file"] == "kernels.py"


def test_an_unknown_arch_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnknownArch):
        generate(catalog.load("full"), "full", Order(("sm1",)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_generate_from_python_and_binaries_on_request(tmp_path: Path) -> None:
    folder = attngen.generate(catalog.load("sigmoid"), arch="sm80", head_dim=16, out=tmp_path)
    assert check(folder) == ()
    assert json.loads((folder / "manifest.json").read_text())["spec"] is None
    with_binaries = generate(catalog.load("sigmoid"), "sigmoid", Order(("sm80",), ("bfloat16",), ((16,),), cubins=True), tmp_path)
    binaries = {path.name: path.read_bytes() for path in with_binaries.glob("*.cubin")}
    assert sorted(binaries) == [f"sm80.bfloat16.d16.e16.{role}.cubin" for role in ("backward_columns", "backward_rows", "forward")]
    assert not any(b"kernels.py" in content for content in binaries.values())
    assert check(with_binaries) == ()


def test_a_difference_is_readable() -> None:
    assert str(Difference("full", "kernels.py", "is missing", ("-a", "+b"))) == "full/kernels.py: is missing\n-a\n+b"
