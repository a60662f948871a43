"""Kernels to look at: handles, real compiles, the trial run."""

from __future__ import annotations

import pytest
import torch

import attngen
from attngen import catalog
from attngen.errors import ArgumentError, DtypeMismatch
from attngen.knobs import Knobs
from attngen.plan.feature_lengths import dtype_name, feature_lengths
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.report.accuracy import Deviation, extents, trial
from attngen.runtime.kernel_table import KernelTable
from attngen.schedule.choose import Request
from attngen.targets import table as target
from attngen.toolchain.compile import Compiled


def test_handles_show_source_and_a_real_compile() -> None:
    attend = attngen.compile(catalog.load("causal"), arch="sm80")
    two_walks = ["forward", "backward_prepare", "backward_rows", "backward_columns"]
    assert [kernel.role for kernel in attend.kernels] == [*two_walks, "backward_fused", "backward_finish"]
    assert "def backward_fused_kernel(" in attend.kernels[4].source
    prepare = attend.kernels[1]
    assert prepare.source.startswith("@triton.jit")
    assert f"def {prepare.name}(" in prepare.source
    assert prepare.source.count("@triton.jit") == 1
    compiled = prepare.resources(dtype=torch.bfloat16, head_dim=32)
    assert isinstance(compiled, Compiled)
    assert (compiled.arch, compiled.name) == ("sm80", "backward_prepare_kernel")
    assert prepare.resources(dtype="float16", head_dim=32, arch="sm90").arch == "sm90"


def test_explain_from_python() -> None:
    attend = attngen.compile(catalog.load("causal"), arch="sm90", deterministic=True)
    assert "backward_columns" in attend.explain(head_dim=64)
    assert "split (dq and dk, dv in separate kernels), deterministic" in attend.explain(head_dim=64)
    assert "fused, dq_sum by atomic adds" in attngen.compile(catalog.load("causal"), arch="sm90").explain(head_dim=64)
    assert len(attend.explain(head_dim=64, full=True)) > len(attend.explain(head_dim=64))


@pytest.mark.parametrize(
    ("head_dim", "lengths"), [(None, (128, 128)), (64, (64, 64)), ((192, 128), (192, 128)), ([32], (32, 32)), ((96, 64), (96, 64))]
)
def test_head_dims_name_feature_lengths(head_dim: object, lengths: tuple[int, int]) -> None:
    assert feature_lengths(("d", "e"), head_dim) == dict(zip(("d", "e"), lengths, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("head_dim", [0, -1, (), (64, 64, 64)])
def test_other_head_dims_are_refused(head_dim: object) -> None:
    with pytest.raises(ArgumentError):
        feature_lengths(("d", "e"), head_dim)  # type: ignore[arg-type]


def test_dtypes_by_name_or_as_torch_has_them() -> None:
    assert dtype_name(torch.float16) == dtype_name("float16") == dtype_name("torch.float16") == "float16"
    with pytest.raises(DtypeMismatch):
        dtype_name("int8")


def kernels_of(name: str) -> tuple[KernelTable, dict[str, object]]:
    spec = catalog.load(name)
    return KernelTable(spec.cascade, name, Options("sm90"), Knobs.from_env()), {c.name: c.value for c in spec.captures}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_trial_holds_for_what_is_right(dtype: str) -> None:
    kernels, captures = kernels_of("alibi_causal")
    found = trial(kernels, captures, {"d": 16, "e": 16}, dtype)
    assert [item.name for item in found] == ["o", "lse", "dq", "dk", "dv", "dslopes"]
    assert all(item.holds for item in found)


def test_a_trial_fails_for_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, captures = kernels_of("alibi_causal")
    request = Request((("d", 16), ("e", 16)), "float32", target.get("sm90"), "short")
    loaded = kernels.kernels(ProgramKey("float32")).loaded_for(request, "interpreted")
    forward = loaded.module.forward
    monkeypatch.setattr(loaded.module, "forward", lambda *args: tuple(value * 1.001 for value in forward(*args)))
    assert not all(item.holds for item in trial(kernels, captures, {"d": 16, "e": 16}, "float32"))


def test_a_trial_stays_inside_of_captured_tensors() -> None:
    kernels, captures = kernels_of("prefix_lm")
    assert extents(kernels.kernels(ProgramKey()), captures, {"d": 16, "e": 16})["b"] == 1


def test_nan_does_not_hold() -> None:
    assert not Deviation("o", float("nan"), 1.0).holds
