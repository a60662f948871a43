"""The toys of docs/extending.md, taken from the page: each one is plugged in where the page says, and works."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attngen
from attngen import pipeline
from attngen.cache.load import load_module
from attngen.calls.spec_form import SpecForm
from attngen.interpreter.interpreter import interpreted
from attngen.kernel.feature_tiles import cuts
from attngen.targets import table as targets
from tests.docs.pages import CHECKOUT, fences
from tests.kernels import harness

PAGE = (CHECKOUT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def toys() -> dict[str, Any]:
    """The names that the code of the page defines."""
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for fence in fences(PAGE):
            if fence.language == "python":
                # The user's lines are looked up by errors only.
                exec(compile(fence.text, "extending.py", "exec"), namespace)
    return namespace


def trained(attend: attngen.Attention) -> list[torch.Tensor]:
    """An output and the gradients of its arguments."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 40, 16, requires_grad=True) for _ in range(3))
    out = attend(q, k, v)
    return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]


@pytest.mark.kernels
def test_a_rewrite_is_a_row_of_the_table(toys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    without = attngen.compile(toys["spec"], arch="sm90")
    before = trained(without)
    monkeypatch.setitem(pipeline.REWRITES, "exact_reciprocals", pipeline.Rewrite(toys["exact_reciprocals"]))
    with_it = attngen.compile(toys["spec"], arch="sm90", require=["exact_reciprocals"])
    lines = [line for line in with_it.explained().rewrites if "a division is a product" in line]
    assert lines[0].startswith("exact_reciprocals: x in forward")
    assert all(torch.equal(new, old) for new, old in zip(trained(with_it), before, strict=True)), "it is exact"
    left_out = attngen.compile(toys["spec"], arch="sm90", without=["exact_reciprocals"])
    assert "exact_reciprocals" not in left_out.explain()


def test_a_target_is_a_row_of_the_table(toys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "TARGETS", (*targets.TARGETS, toys["orin"]))
    tiles = attngen.compile(toys["spec"], arch="sm87").explained(head_dim=64).tiles
    assert len(tiles) >= 3
    assert all("(model)" in line for line in tiles), tiles


@pytest.mark.kernels
def test_a_loop_structure_is_a_choice_of_outputs(toys: dict[str, Any], tmp_path: Path) -> None:
    program = toys["program"]
    assert [kernel.role for kernel in program.kernels if "columns" in kernel.role] == ["backward_columns", "backward_columns_2"]
    usual = pipeline.analyse(toys["spec"].cascade)
    torch.manual_seed(0)
    values = {"q": torch.randn(1, 2, 1, 40, 16), "k": torch.randn(1, 2, 40, 16), "v": torch.randn(1, 2, 40, 16)}
    found = [gradients(item, values, tmp_path / f"toy_{number}.py") for number, item in enumerate((usual, program))]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def gradients(program: pipeline.Program, values: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Of the sum of the outputs, by the module that is emitted for a program, in the interpreter."""
    path.write_text(pipeline.build(program, "toy", cuts({"d": 16, "e": 16})).text, encoding="utf-8")
    kernels = replace(harness.prepare(program.cascade, values), module=interpreted(load_module(path, path.stem)))
    known = harness.forward(kernels, values, harness.tiles())
    cotangents = {name: torch.ones_like(known[name]) for name in program.cascade.outputs}
    return harness.backward(kernels, values, known, cotangents, harness.tiles())


@pytest.mark.kernels
def test_a_token_layout_is_one_more_of_a_variant(toys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = trained(attngen.compile(toys["spec"], arch="sm90"))

    def layouts(form: SpecForm, captures: Any) -> list[Any]:
        return [(toys["Padded"](form.spec, form.cascade), form.table), (form.layout, form.table)]

    monkeypatch.setattr(SpecForm, "layouts", layouts)
    attend = attngen.compile(toys["spec"], arch="sm90")
    assert str(attend.plan(q=(1, 2, 40, 16), k=(1, 2, 40, 16), v=(1, 2, 40, 16))).startswith("padded")
    for new, old in zip(trained(attend), before, strict=True):
        torch.testing.assert_close(new, old)
