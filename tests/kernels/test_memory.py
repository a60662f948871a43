"""Where tensors lie must not matter: NaN around them, odd strides, unmapped pages behind them, garbage in fresh memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import pytest
import torch

from tests.kernels import cases, harness, memory

SIZES = cases.Sizes(b=2, g=1, r=2, m=40, n=70, d=24, e=16)
LAYOUTS: dict[str, Callable[[cases.Case], cases.Case]] = {
    "surrounded": partial(memory.stored, how=memory.surrounded),
    "positions_first": memory.positions_first,
    "expanded": partial(memory.stored, how=memory.expanded),
}
ROOT = Path(__file__).parents[2]
GROUPS = 2


@lru_cache(maxsize=4)
def plainly(variant: str, alike: bool) -> tuple[cases.Case, harness.Results]:
    """A case in contiguous memory, all of whose heads may be alike, and its results, which are those of the reference."""
    case = cases.case(variant, SIZES)
    case = memory.stored(
        memory.stored(case, memory.expanded) if alike else case, lambda value: value.clone(memory_format=torch.contiguous_format)
    )
    found = harness.run(case.cascade, case.values, case.cotangents)
    harness.exact_to(found, harness.expected(case.cascade, case.values, case.cotangents))
    return case, found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("variant", cases.ALL)
def test_layouts(variant, layout):
    """Bit for bit what contiguous copies give; nothing reads padding, and inputs stay as they were."""
    case = LAYOUTS[layout](cases.case(variant, SIZES))
    plain, results = plainly(variant, layout == "expanded")
    found = harness.run(case.cascade, case.values, case.cotangents)
    for (name, value), (_, right) in zip(found.items(), results.items(), strict=True):
        assert torch.equal(value, right), name
    for given, copy in ((case.values, plain.values), (case.cotangents, plain.cotangents)):
        for name, value in given.items():
            assert not isinstance(value, torch.Tensor) or torch.equal(value, copy[name]), name


def sevens(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None = None) -> torch.Tensor:
    return torch.full(shape, 777.0, dtype=dtype, device=device)


@pytest.mark.parametrize("variant", cases.ALL)
def test_fresh_memory_is_never_read(variant):
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=2, m=40, n=70))
    one = harness.run(case.cascade, case.values, case.cotangents)
    other = harness.run(case.cascade, case.values, case.cotangents, allocate=sevens)
    for (name, value), (_, right) in zip(one.items(), other.items(), strict=True):
        assert torch.equal(value, right), name


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_nothing_behind_the_last_byte(group):
    """In a process of its own: reading or writing past a tensor's end kills it."""
    code = f"from tests.kernels import cases, suite; suite.survive(list(cases.ALL)[{group}::{GROUPS}])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stderr[-2000:]}"


def test_a_read_behind_the_last_byte_is_noticed():
    """The fence itself works."""
    code = (
        "import torch; from tests.kernels import memory; x = memory.fenced(torch.ones(8));"
        "import ctypes; ctypes.string_at(x.data_ptr() + 28, 4); print('inside', flush=True); ctypes.string_at(x.data_ptr() + 32, 4)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode < 0
    assert result.stdout == "inside\n"
