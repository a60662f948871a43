"""Emitted text is formatted as the usual formatter would: ruff itself is the judge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attngen import catalog
from attngen.emit.format import WIDTH, break_lines, broken, split_items
from attngen.frontend.attention import attention
from attngen.frontend.spec import Spec
from attngen.ir.parser import parse
from attngen.kernel.feature_tiles import cuts
from attngen.pipeline import analyse, build, for_dtype, fused
from tests.kernel.rewrites.test_bias_separation import MODS
from tests.kernels import cases
from tests.variants import ALL


def ruff(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "ruff", *arguments, "--isolated", "--no-cache", "--line-length", "100", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


def judged(folder: Path) -> str:
    return ruff("check", folder=folder) + ruff("check", "--select", "E,F,W", folder=folder) + ruff("format", "--diff", folder=folder)


@pytest.mark.slow
def test_every_emitted_module_is_formatted(tmp_path: Path) -> None:
    cascades = {name: parse(text) for name, text in (*ALL.items(), ("multiples", cases.ALL["multiples"]))}
    cascades |= {name.replace(" ", "_"): attention(mod).cascade for name, (mod, _) in MODS.items()}
    cascades |= {name: spec.cascade for name in catalog.names() if isinstance(spec := catalog.load(name), Spec)}
    for name, cascade in cascades.items():
        program = analyse(cascade)
        half = for_dtype(program, "bfloat16")
        for mine, length in ((program, 64), (half, 64), (half, 8), (half, 96), (half, 72), (program, 240), (fused(half), 96)):
            if mine is not None:
                text = build(mine, name, cuts(dict.fromkeys(program.features, length))).text
                (tmp_path / f"{name}_{mine.dtype}_{length}_{len(mine.kernels)}.py").write_text(text, encoding="utf-8")
    assert judged(tmp_path) == ""


def calls(count: int) -> str:
    names = ", ".join(f"name_{i}" for i in range(count))
    return (
        "def function():\n"
        f"    found = call({names})\n"
        f"    other = call([{names}], more={count})\n"
        "    return found, other\n\n\n"
        f"def another({names}):\n"
        "    return None\n"
    )


def test_calls_and_signatures_break_as_the_formatter_breaks_them(tmp_path: Path) -> None:
    for count in range(1, 40):
        (tmp_path / f"text_{count}.py").write_text(break_lines(calls(count)), encoding="utf-8")
    assert ruff("format", "--diff", folder=tmp_path) == ""


def test_docstrings_and_comments_stay() -> None:
    text = f'"""A title.\n\n{"word " * 40}\n"""\n# {"word " * 40}\n'
    assert break_lines(text) == text


def test_items_are_split_outside_of_brackets() -> None:
    assert split_items("a, f(b, c), [d, e],") == ["a", "f(b, c)", "[d, e]"]
    assert split_items("") == []


def test_what_fits_stays_on_its_line() -> None:
    assert broken("f(a, b)", 4) == ["    f(a, b)"]
    assert all(len(line) <= WIDTH for line in broken(f"f({', '.join(['argument'] * 30)})", 8))


def test_names_of_parts_keep_clear_of_captured_numbers() -> None:
    total = 3

    def shifted(score, b, h, q_idx, kv_idx):
        return score + 0.5 * ((q_idx + total) * 2 - kv_idx)

    program = analyse(attention(score_mod=shifted).cascade)
    text = build(program, "numbers").text
    assert "total" in {item.name for item in program.cascade.inputs}
    assert "    total = " not in text
