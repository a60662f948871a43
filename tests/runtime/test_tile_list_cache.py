"""Lists of tiles that outlive a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.plan.programs import ProgramKey
from attngen.runtime import tile_list_cache as kept

pytestmark = pytest.mark.usefixtures("triton_interpreter")

SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}


def inputs(rows: int = 40) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(1, 1, rows, 16, generator=generator, dtype=torch.float64, requires_grad=True) for _ in "qkv"]


class Counted:
    """A variant with an opaque mask, and the roles whose tiles were listed."""

    def __init__(self, keep: bool) -> None:
        self.flag = torch.rand(64, generator=torch.Generator().manual_seed(0)) < 0.3
        self.every = 3
        self.slope = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
        self.listed: list[str] = []
        self.keep = keep

    def run(self, rows: int = 40) -> None:
        """One training step, held to the reference."""
        flag, every, slope = self.flag, self.every, self.slope
        spec = attngen.attention(
            lambda s, b, h, q, k: s + slope * (q - k), lambda b, h, q, k: (flag[q] | flag[k]) & ((q - k) % every != 1), name="patchy"
        )
        attend = attngen.compile(spec, schedule=SMALL, keep_lists=self.keep)
        q, k, v = inputs(rows)
        leaves = (q, k, v, slope)
        attend(q, k, v)
        self.watch(attend)
        found = torch.autograd.grad(attend(q, k, v).square().sum(), leaves)
        right = torch.autograd.grad(attend.reference(q, k, v).square().sum(), leaves)
        for mine, expected in zip(found, right, strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-12)

    def watch(self, attend: attngen.Attention) -> None:
        (module,) = attend._table.kernels(ProgramKey("float64")).modules.values()
        original: Any = getattr(module, "original_launch", module.launch)

        def launch(kernel: Any, *args: Any) -> None:
            name = getattr(kernel, "__name__", "") or kernel.fn.__name__
            if name.endswith("_list_kernel"):
                self.listed.append(name.removesuffix("_list_kernel"))
            original(kernel, *args)

        module.original_launch = original  # type: ignore[attr-defined]
        module.launch = launch  # type: ignore[attr-defined]


@pytest.fixture
def steps() -> list[str]:
    return ["forward", "backward_rows", "backward_columns"]


def test_without_being_asked_for_they_are_made_each_time(steps: list[str]) -> None:
    case = Counted(keep=False)
    case.run()
    assert case.listed == steps


def test_the_same_mask_is_listed_once(steps: list[str]) -> None:
    case = Counted(keep=True)
    case.run()
    assert case.listed == steps[1:], "the first call, before counting, listed the forward"
    case.listed.clear()
    case.run()
    assert case.listed == []
    with torch.no_grad():
        case.slope += 1.0
    case.run()
    assert case.listed == [], "the mask does not read the slope"


@pytest.mark.parametrize("change", ["in place", "another tensor", "a number", "a length"])
def test_another_mask_is_listed_anew(change: str, steps: list[str]) -> None:
    case = Counted(keep=True)
    case.run()
    case.listed.clear()
    if change == "in place":
        case.flag.logical_not_()
    elif change == "another tensor":
        case.flag = ~case.flag
    elif change == "a number":
        case.every = 4
    case.run(rows=33 if change == "a length" else 40)
    assert case.listed == steps


def test_a_graph_that_is_recorded_has_lists_of_its_own(steps: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Counted(keep=True)
    case.run()
    case.listed.clear()
    monkeypatch.setattr(kept, "_captured", lambda: True)
    case.run()
    assert set(case.listed) == set(steps)


def test_a_mask_in_an_argument_is_listed_each_time() -> None:
    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", keep="b n")
    def padded(q, k, v, keep):  # type: ignore[no-untyped-def]
        scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
        p = attngen.softmax(attngen.where(keep > 0, scores, -torch.inf), over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    attend = attngen.compile(padded, schedule=SMALL, keep_lists=True)
    q, k, v = (x.detach() for x in inputs())
    for seed in (0, 1):
        keep = (torch.rand(1, 40, generator=torch.Generator().manual_seed(seed)) - 0.3).double()
        torch.testing.assert_close(attend(q, k, v, keep), attend.reference(q, k, v, keep), rtol=1e-11, atol=1e-12)
