"""Masks that hold for equal remainders only: tokens in classes give the same results, with fewer tiles and nothing to prepare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.pipeline import stream
from attngen.plan.dilated import Dilated, dilated
from attngen.plan.programs import ProgramKey
from attngen.targets import table as target

Mask = Callable[..., Any]
SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}
WINDOW, GAP, TENSOR = 9, 3, torch.tensor(4)
MASKS: dict[str, Mask] = {
    "dilated": lambda b, h, q, k: ((q - k).abs() <= WINDOW) & ((q - k).abs() % GAP == 0),
    "causal": lambda b, h, q, k: (q >= k) & ((q - k) % 4 == 0),
    "neighbours": attngen.grid(37).neighborhood(5, dilation=3),
    "causal neighbours": attngen.grid(37).neighborhood(3, dilation=2, causal=True),
    "equal remainders": lambda b, h, q, k: (q % 3 == k % 3) & (k < 20),
}


def spec_of(mask: Mask, score: Any = None) -> attngen.Spec:
    return attngen.attention(score, mask, name="classes")


def layout_of(spec: attngen.Spec) -> Dilated | None:
    return dilated(spec, stream(spec.cascade).cascade)


def gradients(run: Any, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    o, lse = run(*leaves, return_lse=True)
    loss = (o * cotangent).sum() + torch.where(lse.isfinite(), lse, 0.0).sum()
    return [o, lse, *torch.autograd.grad(loss, leaves)]


@pytest.mark.kernels
@pytest.mark.parametrize("lengths", [(37, 37), (36, 48)])
@pytest.mark.parametrize("name", MASKS)
def test_results_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch, name: str, lengths: tuple[int, int]) -> None:
    """Lengths that the number of classes divides and others, padded rows and keys included."""
    monkeypatch.setattr(Dilated, "pays", lambda *_: True)
    attend = attngen.compile(spec_of(MASKS[name], lambda s, b, h, q, k: s + 0.1 * (q - k)), schedule=SMALL)
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, lengths[0], 16), (2, 2, lengths[1], 16), (2, 2, lengths[1], 32), (2, 4, lengths[0], 32)]
    *leaves, cotangent = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert attend.plan(*leaves).layout.startswith("dilated by ")
    for mine, right in zip(gradients(attend, leaves, cotangent), gradients(attend.reference, leaves, cotangent), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-11, atol=1e-12)


@pytest.mark.kernels
def test_nothing_is_listed_and_results_are_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dilated, "pays", lambda *_: True)
    attend = attngen.compile(spec_of(MASKS["dilated"]), schedule=SMALL, arch="sm90")
    _, table = attend._first.whole.dilated({capture.name: capture.value for capture in attend.spec.captures}) or (None, None)
    assert table is not None
    assert not any(kernel.tile_list_of for kernel, _ in table.kernels(ProgramKey("bfloat16")).source({"d": 16, "e": 16}).lowered)
    for length in (48, 50):
        assert attend(*(torch.randn(1, 1, length, 16) for _ in range(3))).is_contiguous()


@pytest.mark.kernels
def test_fewer_tiles_are_visited() -> None:
    spec = spec_of(lambda b, h, q, k: ((q - k) % 4 == 0) & (q - k < 256) & (k - q < 256))
    found = attngen.compile(spec, arch="sm90").mask_tiles(q_len=4096, kv_len=4096, head_dim=64)[0]
    plain = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: (q - k < 256) & (k - q < 256)), arch="sm90")
    as_they_come = plain.mask_tiles(q_len=4096, kv_len=4096, head_dim=64)[0]
    assert found.divisor == 4 and as_they_come.divisor == 1
    assert found.setup_bytes == 0
    assert found.executed_pairs < as_they_come.executed_pairs / 2


class TestTheChoice:
    def test_it_depends_on_the_lengths(self) -> None:
        layout = layout_of(spec_of(MASKS["causal"]))
        assert layout is not None
        choose = [layout.pays({"m": n, "n": n}, target.get("sm90")) for n in (64, 100, 1024, 65537)]
        assert choose == [False, False, True, True]

    def test_explain_says_so(self) -> None:
        text = attngen.compile(spec_of(MASKS["causal"]), arch="sm90").explain()
        assert "in 4 classes of equal remainder, each read by strides of 4 tokens" in text
        assert "s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]" in text

    @pytest.mark.parametrize(
        "spec",
        [
            spec_of(lambda b, h, q, k: (q - k) % 4 < 2),
            spec_of(lambda b, h, q, k: ((q - k) % 4 == 0) | (k < 8)),
            spec_of(lambda b, h, q, k: (q - k) % TENSOR == 0),
            attngen.attention(mask_mod=MASKS["causal"], order=torch.randperm(64)),
        ],
    )
    def test_other_masks_have_none(self, spec: attngen.Spec) -> None:
        assert layout_of(spec) is None

    def test_gaps_that_differ_have_none(self) -> None:
        @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
        def two(q: Any, k: Any, v: Any) -> Any:
            m, n = attngen.index("m"), attngen.index("n")
            scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k)
            first = attngen.softmax(attngen.where((m - n) % 2 == 0, scores, -torch.inf), over="n")
            second = attngen.softmax(attngen.where((m - n) % 4 == 0, scores, -torch.inf), over="n")
            return [attngen.einsum("b h m n, b h n e -> b h m e", p, v) for p in (first, second)]

        assert layout_of(two) is None


@pytest.mark.kernels
def test_a_captured_number_of_classes_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dilated, "pays", lambda *_: True)
    step = 2
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: ((q - k) % step == 0) & (q - k < 16)))
    given = [torch.randn(1, 2, 24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for step in (2, 3, 1, 2):  # noqa: B007
        torch.testing.assert_close(attend(*given), attend.reference(*given), rtol=1e-12, atol=1e-12)


@pytest.mark.kernels
@pytest.mark.parametrize("read", ["keys", "pairs", "distances"])
def test_gradients_of_a_bias_by_position(monkeypatch: pytest.MonkeyPatch, read: str) -> None:
    """Also those of a tensor whose name emitted modules use themselves."""
    monkeypatch.setattr(Dilated, "pays", lambda *_: True)
    size = 37
    dense = torch.randn(size, 2 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    mods = {
        "keys": lambda s, b, h, q, k: s + dense[h, k],
        "pairs": lambda s, b, h, q, k: s + dense[q, k],
        "distances": lambda s, b, h, q, k: s + dense[h, q - k + size],
    }
    attend = attngen.compile(spec_of(MASKS["causal"], mods[read]))
    q, k, v = (torch.randn(2, 2, size, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3))
    assert attend.plan(q, k, v).layout == "dilated by 4"
    found, expected = (torch.autograd.grad(run(q, k, v).square().sum(), dense)[0] for run in (attend, attend.reference))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
