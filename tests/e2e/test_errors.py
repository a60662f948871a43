"""Whatever a user can do wrong gets an error of its own class, which states the rule and the remedy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen import errors
from attngen.cache.store import CacheWarning
from tests.e2e.dense import FEW

ROOT = Path(__file__).parents[2]
PLAIN = attngen.attention()


@contextmanager
def refused(error: type[errors.AttngenError]) -> Iterator[None]:
    """Exactly this class, with a rule and a remedy."""
    with pytest.raises(errors.AttngenError) as caught:
        yield
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    assert caught.value.rule
    assert caught.value.remedy, f"{caught.value} has no remedy"


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def call(q: Any, k: Any, v: Any, spec: attngen.Spec = PLAIN) -> Any:
    return attngen.compile(spec, schedule=FEW)(q, k, v)


# ---- arguments

Q, K = (1, 4, 8, 16), (1, 2, 9, 16)
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "three dimensions": ((4, 8, 16), K, K),
    "another feature length": ((1, 4, 8, 32), K, K),
    "other numbers of keys": (Q, K, (1, 2, 10, 16)),
    "other key heads": (Q, K, (1, 4, 9, 16)),
    "no multiple of the key heads": ((1, 3, 8, 16), K, K),
    "another batch": ((2, 4, 8, 16), (3, 2, 9, 16), (3, 2, 9, 16)),
    "no feature": ((1, 4, 8, 0), (1, 2, 9, 0), (1, 2, 9, 16)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    with refused(errors.ShapeMismatch):
        call(*(tensor(*shape) for shape in SHAPES[name]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_types_that_are_no_numbers_to_attend_with(dtype: torch.dtype) -> None:
    with refused(errors.DtypeMismatch):
        call(*(torch.zeros(shape).to(dtype) for shape in (Q, K, K)))


def test_mixed_types() -> None:
    with refused(errors.DtypeMismatch):
        call(tensor(*Q), tensor(*K), tensor(*K, dtype=torch.float64))


def test_integer_arguments_are_integers() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", place="b n: int")
    def placed(q: Any, k: Any, v: Any, place: Any) -> Any:
        s = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        s = attngen.where(place <= attngen.index("m"), s, float("-inf"))
        return attngen.einsum("b h m n, b h n e -> b h m e", attngen.softmax(s, over="n"), v)

    attend = attngen.compile(placed, schedule=FEW)
    q, k = torch.randn(1, 2, 8, 16, dtype=torch.float64), torch.randn(1, 2, 9, 16, dtype=torch.float64)
    place = torch.arange(9, dtype=torch.int32).view(1, 9)
    torch.testing.assert_close(attend(q, k, k, place), attend.reference(q, k, k, place))
    with refused(errors.DtypeMismatch):
        attend(q, k, k, place.double())


def test_other_devices() -> None:
    with refused(errors.DeviceMismatch):
        call(tensor(*Q), tensor(*K, device="meta"), tensor(*K))


def test_things_that_are_no_tensors() -> None:
    with refused(errors.ArgumentError):
        call([[1.0]], tensor(*K), tensor(*K))
    with refused(errors.ArgumentError):
        call(tensor(*Q).numpy(), tensor(*K), tensor(*K))


@pytest.mark.parametrize(
    "run",
    [
        lambda attend, q, k: attend(q, k),
        lambda attend, q, k: attend(q, k, k, k),
        lambda attend, q, k: attend(q, k, k, mask=k),
        lambda attend, q, k: attend(q, k, k, q=q),
    ],
    ids=["missing", "too many", "unknown", "twice"],
)
def test_arguments(run: Callable[..., Any]) -> None:
    with refused(errors.ArgumentError):
        run(attngen.compile(PLAIN, schedule=FEW), tensor(*Q), tensor(*K))


# ---- captured tensors


def biased(bias: Tensor) -> attngen.Spec:
    return attngen.attention(lambda score, b, h, q_idx, kv_idx: score + bias[h, q_idx, kv_idx])


def test_a_captured_tensor_elsewhere() -> None:
    with refused(errors.DeviceMismatch):
        call(tensor(*Q), tensor(*K), tensor(*K), biased(tensor(4, 8, 9, device="meta")))


@pytest.mark.parametrize("shape", [(3, 8, 9), (4, 7, 9), (4, 8, 8)])
def test_a_captured_tensor_that_is_too_short(shape: tuple[int, ...]) -> None:
    with refused(errors.ShapeMismatch):
        call(tensor(*Q), tensor(*K), tensor(*K), biased(tensor(*shape)))


def test_captured_tensors_may_be_longer() -> None:
    assert call(tensor(*Q), tensor(*K), tensor(*K), biased(tensor(5, 20, 30))).shape == Q


def test_a_captured_tensor_with_too_few_indices() -> None:
    bias = tensor(4, 8, 9)
    with refused(errors.ModReturn):
        attngen.attention(lambda score, b, h, q_idx, kv_idx: score + bias[h, q_idx])


# ---- mods

TRUTH = torch.ones(4, dtype=torch.bool)
COUNT = torch.zeros(4)
MODS: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None, type[errors.AttngenError]]] = {
    "returns nothing": (lambda s, b, h, q, k: None, None, errors.ModReturn),
    "returns a truth value": (lambda s, b, h, q, k: s > 0, None, errors.ModReturn),
    "returns text": (lambda s, b, h, q, k: "score", None, errors.ModReturn),
    "returns a row": (lambda s, b, h, q, k: s + COUNT, None, errors.ModReturn),
    "is NaN": (lambda s, b, h, q, k: s + float("nan"), None, errors.NaNConstant),
    "branches": (lambda s, b, h, q, k: s if q > k else -s, None, errors.DataDependentBranch),
    "converts": (lambda s, b, h, q, k: s * float(q), None, errors.TracedConversion),
    "draws random numbers": (lambda s, b, h, q, k: s + torch.rand(()), None, errors.RandomInMod),
    "reduces": (lambda s, b, h, q, k: s - s.amax(-1), None, errors.ReductionInMod),
    "writes": (lambda s, b, h, q, k: COUNT.add_(1)[0] + s, None, errors.TracedMutation),
    "has another signature": (lambda s, h: s, None, errors.ModSignature),
}
MASKS: dict[str, tuple[Callable[..., Any], type[errors.AttngenError]]] = {
    "returns a score": (lambda b, h, q, k: q - k + 0.5, errors.ModReturn),
    "returns an integer": (lambda b, h, q, k: q - k, errors.ModReturn),
    "uses `and`": (lambda b, h, q, k: q >= k and k > 3, errors.DataDependentBranch),
    "returns a row": (lambda b, h, q, k: TRUTH, errors.ModReturn),
}


@pytest.mark.parametrize("name", MODS)
def test_score_mods(name: str) -> None:
    mod, _, error = MODS[name]
    with refused(error):
        attngen.attention(mod)


@pytest.mark.parametrize("name", MASKS)
def test_mask_mods(name: str) -> None:
    mod, error = MASKS[name]
    with refused(error):
        attngen.attention(mask_mod=mod)


def test_the_message_shows_the_line() -> None:
    with pytest.raises(errors.DataDependentBranch) as caught:
        attngen.attention(mask_mod=lambda b, h, q, k: q >= k and k > 17)
    assert "k > 17" in str(caught.value)


# ---- compiling


def test_no_spec() -> None:
    with refused(errors.ArgumentError):
        attngen.compile(lambda q, k, v: q)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("arch", ["sm37", "h100", ""])
def test_unknown_targets(arch: str) -> None:
    with refused(errors.UnknownArch):
        attngen.compile(PLAIN, arch)


def test_features_that_do_not_fit() -> None:
    """The message says how many bytes are missing, and what would fit."""
    with refused(errors.DoesNotFit):
        attngen.compile(PLAIN, "sm86", dtype="bfloat16", head_dim=4096)


@pytest.mark.parametrize("dtype", ["int32", "floaty", torch.int64])
def test_unknown_types_ahead_of_time(dtype: Any) -> None:
    with refused(errors.DtypeMismatch):
        attngen.compile(PLAIN, "sm90", dtype=dtype, head_dim=64)


@pytest.mark.parametrize("head_dim", [0, -64, (64, 64, 64), "64"])
def test_impossible_features_ahead_of_time(head_dim: Any) -> None:
    with refused(errors.ArgumentError):
        attngen.compile(PLAIN, "sm90", dtype="bfloat16", head_dim=head_dim)


@pytest.mark.parametrize("schedule", [{"BLOCK_M": 63}, {"BLOCK": 64}, {"sideways": {"BLOCK_M": 64}}, {"forward": 3}])
def test_schedules(schedule: dict[str, Any]) -> None:
    with refused(errors.ScheduleError):
        attngen.compile(PLAIN, "sm90", dtype="bfloat16", head_dim=64, schedule=schedule)


# ---- the cache


def in_a_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with torch on one thread."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=variables, capture_output=True, text=True, timeout=120)


RUN = """
import torch, attngen
q = torch.ones(1, 1, 4, 16)
"""
ATTEND = "assert attngen.compile(attngen.attention())(q, q, q).shape == q.shape\n"


def test_strict_mode_never_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    with refused(errors.MissingKernel):
        call(tensor(*Q), tensor(*K), tensor(*K))
    monkeypatch.delenv("ATTNGEN_STRICT")
    call(tensor(*Q), tensor(*K), tensor(*K))
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    assert call(tensor(*Q), tensor(*K), tensor(*K)).shape == Q


def test_a_folder_that_others_may_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(folder))
    with refused(errors.UnsafeCacheDirectory):
        call(tensor(*Q), tensor(*K), tensor(*K))


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels then live as long as the process."""
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "readonly"))

    def read_only(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if str(path).startswith(str(tmp_path)):
            raise OSError(30, "Read-only file system", str(path))
        real(path, mode)

    real = os.mkdir
    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.warns(CacheWarning):
        assert call(tensor(*Q), tensor(*K), tensor(*K)).shape == Q
    assert not (tmp_path / "readonly").exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Both compile the same spec into one empty cache, and both get their kernels."""
    tmp_path.chmod(0o700)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ATTNGEN_CACHE_DIR": str(tmp_path / "cache")}
    runs = [subprocess.Popen([sys.executable, "-c", RUN + ATTEND], env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for run in runs:
        _, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stderr


# ---- without Triton

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")

sys.meta_path.insert(0, Hidden())
"""


def test_without_triton(tmp_path: Path) -> None:
    """Importing, tracing, the algebra and the reference work; running a kernel says what is missing."""
    tmp_path.chmod(0o700)
    code = """
    spec = attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx)
    attend = attngen.compile(spec, "sm90")
    assert attend.reference(q, q, q).shape == q.shape
    try:
        attend(q, q, q)
    except attngen.errors.MissingTriton as error:
        assert error.remedy
    else:
        raise SystemExit("no error")
    assert "triton" not in sys.modules
    """
    run = in_a_process(HIDE + RUN + textwrap.dedent(code), ATTNGEN_CACHE_DIR=str(tmp_path / "cache"))
    assert run.returncode == 0, run.stderr


@pytest.mark.skipif(not (ROOT / "attngen" / "cli").is_dir(), reason="no command line")
def test_the_list_of_variants_without_triton() -> None:
    run = in_a_process(HIDE + "sys.argv = ['attngen', 'list']\nfrom attngen.cli import main\nsys.exit(main())")
    assert run.returncode == 0, run.stderr
    assert "causal" in run.stdout
