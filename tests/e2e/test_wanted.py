"""Backward kernels compute the gradients that are asked for and no others."""

from __future__ import annotations

import itertools

import pytest
import torch

import attngen
from attngen.errors import NotDifferentiable
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from attngen.plan.programs import ProgramKey
from tests import variants


@pytest.mark.parametrize("name", variants.ALL)
def test_any_choice_of_gradients_reads_what_the_forward_saved(name: str) -> None:
    program = analyse(parse(variants.ALL[name]))
    assert program.backward is not None
    saved = {item.name for item in program.backward.saved}
    names = [item.name for item in program.cascade.inputs if item.differentiable]
    for wanted in (*((one,) for one in names), *itertools.combinations(names, len(names) - 1)):
        part = analyse(program.cascade, wanted=frozenset(wanted))
        assert part.backward is not None
        assert part.cascade == program.cascade
        assert {item.name for item in part.backward.saved} <= saved
        assert {gradient.target for gradient in part.backward.gradients} <= set(wanted)


def _biased(bias: torch.Tensor, **options: object) -> attngen.Attention:
    return attngen.compile(attngen.attention(score_mod=lambda s, b, h, q, k: s + bias[h, q, k]), **options)  # type: ignore[arg-type]


def _tensors(needed: str = "qkv") -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 2, 40, 16, dtype=torch.float64).requires_grad_(name in needed) for name in "qkv"]


def _sources(attend: attngen.Attention) -> list[str]:
    built = {id(kernels): kernels for kernels in attend._table._kernels.values() if kernels.modules}
    return [kernels.source({"d": 16, "e": 16}).text for kernels in built.values()]


class TestABiasThatNobodyTrains:
    def test_its_gradient_is_not_computed(self) -> None:
        bias = torch.randn(2, 40, 40, dtype=torch.float64)
        attend = _biased(bias)
        q, k, v = _tensors()
        attend(q, k, v).square().sum().backward()
        full, narrow = _sources(attend)
        assert "dbias" in full and "dbias" not in narrow
        assert bias.grad is None

    def test_the_other_gradients_are_the_same(self) -> None:
        found = []
        for trained in (False, True):
            bias = torch.randn(2, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_(trained)
            q, k, v = _tensors()
            _biased(bias)(q, k, v).square().sum().backward()
            found.append((q.grad, k.grad, v.grad))
        for narrow, full in zip(*found, strict=True):
            assert narrow is not None and torch.equal(narrow, full)

    def test_training_it_later_computes_it(self) -> None:
        bias = torch.randn(2, 40, 40, dtype=torch.float64)
        attend = _biased(bias)
        q, k, v = _tensors()
        attend(q, k, v).sum().backward()
        bias.requires_grad_()
        attend(q, k, v).square().sum().backward()
        given = bias.grad
        bias.grad = None
        attend.reference(q, k, v).square().sum().backward()
        torch.testing.assert_close(given, bias.grad, rtol=1e-12, atol=1e-12)


class TestAGradientThatNoKernelComputes:
    """It refuses the calls that ask for it, and nothing else."""

    def _attend(self) -> tuple[attngen.Attention, torch.Tensor]:
        table = torch.randn(64, dtype=torch.float64)
        return attngen.compile(attngen.attention(lambda s, b, h, q, k: s + table[torch.sqrt(k.float()).long()])), table

    def test_other_gradients_are_there(self) -> None:
        attend, _ = self._attend()
        tensors = _tensors()
        loss, right = attend(*tensors).square().sum(), attend.reference(*tensors).square().sum()
        for found, expected in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(right, tensors), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    def test_the_call_that_asks_for_it_is_refused_by_name(self) -> None:
        attend, table = self._attend()
        table.requires_grad_()
        with pytest.raises(NotDifferentiable, match=r"table requires a gradient(.|\n)*table\[torch.sqrt(.|\n)*table\.detach\(\)"):
            attend(*_tensors())
        with torch.no_grad():
            torch.testing.assert_close(attend(*_tensors()), attend.reference(*_tensors()))

    def test_it_is_told(self) -> None:
        attend, _ = self._attend()
        assert [name for name, _ in attend.program.refused] == ["table"]
        assert "gradients that no kernel computes:\n  table: " in attend.explain()


def test_tiles_given_for_kernels_that_are_not_needed_are_no_error() -> None:
    tiles = {"backward_rows": {"BLOCK_M": 32, "BLOCK_N": 16}, "backward_columns": {"BLOCK_N": 16}}
    q, k, v = _tensors("v")
    attend = attngen.compile(attngen.attention(), schedule=tiles)
    attend(q, k, v).square().sum().backward()
    assert q.grad is None and k.grad is None and v.grad is not None
    narrow = attend._table.program(ProgramKey("float64", frozenset({"v"})))
    assert "backward_rows" not in {kernel.role for kernel in narrow.kernels}
    given, v.grad = v.grad, None
    attend.reference(q, k, v).square().sum().backward()
    torch.testing.assert_close(given, v.grad, rtol=1e-12, atol=1e-12)


def test_strict_mode_takes_the_kernels_that_were_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = _tensors("q")
    spec = attngen.attention(score_mod=lambda s, b, h, q, k: s + (q - k))
    attngen.compile(spec)(q, k, v).sum().backward()
    monkeypatch.setenv("ATTNGEN_STRICT", "1")
    attend = attngen.compile(spec)
    attend(q, k, v).square().sum().backward()
    assert attend._table.gradients(frozenset({"q"})) is None


def test_a_conversion_to_whole_numbers_has_no_gradient() -> None:
    """A comparison has one, of zeros, as in PyTorch."""
    table, level = torch.randn(9, dtype=torch.float64), torch.rand(40, dtype=torch.float64).requires_grad_()
    tensors = _tensors()
    with pytest.raises(NotDifferentiable, match="level requires a gradient"):
        attngen.compile(attngen.attention(lambda s, b, h, q, k: s + table[(8 * level[k]).long()]))(*tensors)
    kept = attngen.compile(attngen.attention(lambda s, b, h, q, k: torch.where(level[k] > 0.5, s, 0.5 * s)))
    (found,) = torch.autograd.grad(kept(*tensors).sum(), level)
    assert torch.equal(found, torch.zeros_like(level))


class TestDeltaOverTheKeys:
    """Calls whose backward has a kernel more, `backward_statistics`, and may read less of the forward."""

    @pytest.mark.parametrize("schedule", [None, {"backward_statistics": {"BLOCK_M": 32, "BLOCK_N": 32}}])
    def test_on_request(self, schedule: dict[str, dict[str, int]] | None) -> None:
        attend = attngen.compile(attngen.attention(), precise_delta=True, schedule=schedule)
        q, k, v = _tensors()
        found = torch.autograd.grad(attend(q, k, v).square().sum(), (q, k, v))
        right = torch.autograd.grad(attend.reference(q, k, v).square().sum(), (q, k, v))
        for mine, theirs in zip(found, right, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        assert "backward_statistics" in attend.explain()

    @pytest.mark.parametrize("trained", [True, False])
    def test_a_bias_of_rows(self, trained: bool) -> None:
        """Its own gradient cancels and asks for the sweep; the others read what the same forward has saved."""
        bias = torch.randn(2, 40, dtype=torch.float64).requires_grad_(trained)
        attend = attngen.compile(attngen.attention(score_mod=lambda s, b, h, q, k: s + bias[h, q]))
        wanted = [*_tensors(), *([bias] if trained else [])]
        found = torch.autograd.grad(attend(*wanted[:3]).square().sum(), wanted)
        right = torch.autograd.grad(attend.reference(*wanted[:3]).square().sum(), wanted)
        for mine, theirs in zip(found, right, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
