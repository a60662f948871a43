"""The static gate: a sample of the record is compiled anew, and nothing in it may have got worse."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from attngen.interpreter import interpreter
from benchmarks.static import cases, flex, one_loop, one_pass, record

RECORD = record.read()
ROW = RECORD.rows["attngen", "causal", "128", "forward"]


@pytest.mark.parametrize("name", ["causal", "alibi_causal"])
def test_forward_kernels_are_as_recorded(name: str):
    if RECORD.holds_for["triton"] != metadata.version("triton").partition("+")[0]:
        pytest.skip(f"figures are recorded for Triton {RECORD.holds_for['triton']}")
    (now,) = cases.measure(cases.Case("attngen", name, "128"), ("forward",))
    assert not record.worse(RECORD.rows[now.key], now), "see `python -m benchmarks.static --check`; a loss that is meant is recorded anew"


def test_every_case_is_recorded():
    assert {row.case for row in RECORD.rows.values()} == {case.key for case in cases.cases()}


# ---- what counts as worse


def changed(**changes: object) -> record.Row:
    return replace(ROW, loops=tuple({**loop, **changes} for loop in ROW.loops))


def test_nothing_is_worse_than_itself():
    assert record.worse(ROW, ROW) == []


@pytest.mark.parametrize(
    ("field", "before", "after", "count"),
    [
        ("spill_bytes", 8, 8, 0),
        ("spill_bytes", 8, 12, 2),
        ("serialized", True, True, 0),
        ("serialized", False, True, 1),
        ("exp2_overlap", 0.9, 0.86, 0),
        ("exp2_overlap", 0.9, 0.84, 2),
        ("instructions", 1000, 1029, 0),
        ("instructions", 1000, 1031, 2),
        ("instructions", 1000, 500, 0),
    ],
)
def test_what_is_worse(field: str, before: object, after: object, count: int):
    assert len(record.worse(changed(**{field: before}), changed(**{field: after}))) == count


def test_tiles_of_other_sizes_compare_by_pairs():
    wide, narrow = replace(ROW, tile="128x128,w8,s2"), replace(ROW, tile="64x128,w4,s2")
    assert record.worse(wide, narrow) == []
    assert len(record.worse(wide, replace(ROW, tile="128x64,w8,s2"))) == 2


def test_a_lost_loop_is_worse():
    assert record.worse(ROW, replace(ROW, loops=())) == ["no main loop is left"]


def test_rows_come_back_from_a_file(tmp_path: Path):
    path = tmp_path / "record.jsonl"
    RECORD.write(path)
    assert record.read(path) == RECORD
    assert record.read(tmp_path / "none") == record.Record({})


# ---- the kernels it is held against


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    scores = q.double() @ k.double().mT * q.shape[-1] ** -0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    return scores.softmax(-1) @ v.double(), scores.logsumexp(-1)


@pytest.mark.parametrize("mask", ["full", "causal"])
@pytest.mark.parametrize("module", [one_pass, one_loop])
def test_the_loops_written_by_hand_are_attention(mask: str, module: ModuleType):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 64, 16)
    out, lse = torch.empty_like(q), torch.empty(2, 64)
    kernel = getattr(interpreter.interpreted(module), f"{module.__name__.rpartition('.')[2]}_kernel")
    tile = {"DIM": 16, "BLOCK_M": 32, "BLOCK_N": 16, "CAUSAL": mask == "causal"}
    kernel[(2, 2)](q, k, v, out, lse, 64, 16**-0.5 / math.log(2), **tile)
    wanted, wanted_lse = reference(q, k, v, mask == "causal")
    assert (out - wanted).abs().max() < 2e-6
    assert (lse * math.log(2) - wanted_lse).abs().max() < 2e-6


@pytest.mark.filterwarnings("ignore")
def test_the_rendered_flex_attention_is_attention(tmp_path: Path):
    torch.manual_seed(0)
    length, head_dim = 256, 64
    rendered = flex.render("causal", head_dim, length=length)
    kernel = getattr(interpreter.interpreted(rendered.load(tmp_path)), flex.NAME)
    q, k, v = torch.randn(3, flex.BATCH, flex.HEADS, length, head_dim)
    out, lse, unused = torch.empty_like(q), torch.empty(q.shape[:3]), torch.empty(1)
    partial, full = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [0, 1]])
    lists = (torch.tensor([1, 1]), partial, torch.tensor([0, 1]), full)
    kernel[(length // rendered.tile.resident, 1, 1)](q, k, v, lse, unused, *(item.int() for item in lists), out)
    wanted, wanted_lse = reference(q[0, 0], k[0, 0], v[0, 0], True)
    assert (out[0, 0] - wanted).abs().max() < 2e-6
    assert (lse[0, 0] * math.log(2) - wanted_lse).abs().max() < 2e-6


def test_help_comes_at_once():
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "benchmarks.static", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, "--check" in done.stdout) == (0, True)
    assert time.perf_counter() - start < 1
