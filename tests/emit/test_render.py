"""Emitted modules: what every one of them satisfies."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from attngen.emit.render import check
from attngen.errors import InternalError, NotAContraction, UnsafeValue
from attngen.ir.parser import parse
from attngen.pipeline import analyse, build
from tests.variants import ALL, CAUSAL_ALIBI, SOFTMAX


@pytest.mark.parametrize("name", ALL)
def test_modules_parse_and_stay_within_the_line(name: str) -> None:
    text = build(analyse(parse(ALL[name])), name).text
    ast.parse(text)
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    imports = [node.names[0].name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import)]
    assert set(imports) == {"torch", "triton", "triton.language"}


def test_every_load_and_store_of_a_tile_is_masked() -> None:
    text = build(analyse(parse(CAUSAL_ALIBI)), "causal_alibi").text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.store":
            assert "mask" in {keyword.arg for keyword in node.keywords}


def test_full_tiles_run_no_mask() -> None:
    """The predicate and its limits are computed under the condition that the segment is not the full one, nowhere else."""
    text = build(analyse(parse(CAUSAL_ALIBI)), "causal_alibi").text
    lines = [line.strip() for line in text.splitlines()]
    masks = [i for i, line in enumerate(lines) if line.startswith(("valid = ", "until_n = ", "from_"))]
    assert len(masks) == 5, "two kernels of rows limit what one of columns compares with its own position"
    for i in masks:
        assert lines[i - 1].startswith("if segment != ") or i - 1 in masks


@pytest.mark.slow
def test_text_is_the_same_in_every_process() -> None:
    code = (
        "import hashlib; from attngen.ir.parser import parse; from attngen.pipeline import analyse, build; from tests.variants import ALL;"
        "print(hashlib.sha256(''.join(build(analyse(parse(t)), n).text for n, t in ALL.items()).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout


@pytest.mark.parametrize("text", ["import os", "from os import path", "x.__class__", "eval('1')", "open('f')", "getattr(x, 'y')"])
def test_suspicious_modules_are_refused(text: str) -> None:
    with pytest.raises(UnsafeValue):
        check(text)


def test_unparsable_text_is_our_fault() -> None:
    with pytest.raises(InternalError):
        check("def broken(:")


def test_a_factor_that_fits_neither_side_is_named() -> None:
    mixed = SOFTMAX.replace("q[b,g,r,m,d] * k[b,g,n,d]", "tanh(q[b,g,r,m,d] + k[b,g,n,d])")
    with pytest.raises(NotAContraction, match="tanh"):
        build(analyse(parse(mixed)), "mixed")


def test_lengths_do_not_specialise() -> None:
    text = build(analyse(parse(SOFTMAX)), "softmax").text
    decorators = [part.partition("]")[0] for part in text.split("do_not_specialize=[")[1:]]
    assert decorators
    for names in decorators:
        assert '"len_m"' in names
