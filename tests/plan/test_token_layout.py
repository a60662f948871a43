"""Layouts of tokens: what one splits another joins, and what they do to lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen import Spec
from attngen.interpreter.torch_reference import reference
from attngen.pipeline import stream
from attngen.plan.dilated import dilated
from attngen.plan.packed_gqa import packed_gqa
from attngen.plan.token_layout import Dense, Permuted, TokenLayout, best_order
from attngen.targets import table as target
from tests.e2e.dense import normal

EXTENTS = {"b": 2, "g": 2, "r": 3, "m": 10, "n": 14, "d": 4, "e": 5}


def gaps(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= k) & ((q - k) % 4 == 0)


def layouts() -> dict[str, tuple[TokenLayout, dict[str, int]]]:
    """Each with lengths of a call."""
    plain, order = attngen.attention(), torch.randperm(10, generator=torch.Generator().manual_seed(0))
    ordered, holes = attngen.attention(order=order), attngen.attention(mask_mod=gaps)
    assert ordered.order is not None
    found: dict[str, tuple[TokenLayout | None, dict[str, int]]] = {
        "dense": (Dense(plain, canonical(plain)), EXTENTS),
        "permuted": (Permuted(ordered, canonical(ordered), ordered.order), {**EXTENTS, "n": 10}),
        "dilated by 4": (dilated(holes, canonical(holes)), EXTENTS),
        "packed GQA": (packed_gqa(plain, canonical(plain)), EXTENTS),
    }
    return {name: (layout, extents) for name, (layout, extents) in found.items() if layout is not None}


def canonical(spec: Spec) -> Any:
    return stream(spec.cascade).cascade


def stay(value: Tensor, device: torch.device) -> Tensor:
    return value


def arguments(layout: TokenLayout, extents: dict[str, int]) -> list[Tensor]:
    patterns = [[axis for dim in item.pattern for axis in dim] for item in layout.spec.arguments]
    return [normal(*(extents[axis] for axis in axes), seed=seed).detach() for seed, axes in enumerate(patterns)]


@pytest.mark.parametrize("name", ["dense", "permuted", "dilated by 4", "packed GQA"])
def test_the_cascade_of_a_layout_computes_what_the_users_does(name: str) -> None:
    """Arguments split, the cascade over the layout's axes, results joined: in plain PyTorch, without a kernel."""
    layout, extents = layouts()[name]
    tensors = arguments(layout, extents)
    captures = {capture.name: capture.value for capture in layout.spec.captures}
    names = [argument.name for argument in layout.spec.arguments]
    split = layout.split(tensors, extents, stay)
    found = reference(layout.cascade, {**dict(zip(names, split, strict=True)), **captures, **layout.lengths(extents)})
    plain = attngen.attention(mask_mod=gaps) if name.startswith("dilated") else attngen.attention()
    others = {capture.name: capture.value for capture in plain.captures}
    right = reference(plain.cascade, {**dict(zip(names, tensors, strict=True)), **others})
    for output in layout.spec.outputs:
        mine = layout.join(output.name, found[output.name], extents, stay)
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, right[output.name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["dense", "permuted", "dilated by 4", "packed GQA"])
def test_lengths_are_those_of_what_is_split(name: str) -> None:
    layout, extents = layouts()[name]
    found = layout.extents(extents)
    split = layout.split(arguments(layout, extents), extents, stay)
    for item, tensor in zip(layout.cascade.inputs, split, strict=False):
        assert tensor.shape == tuple(found[axis] for axis in item.axes or ())
    assert str(layout) == name
    assert set(layout.lengths(extents)) == set(layout.numbers)


def test_which_layouts_serve_calls_with_gradients() -> None:
    assert {name: layout.differentiable for name, (layout, _) in layouts().items()} == {
        "dense": True, "permuted": True, "dilated by 4": True, "packed GQA": False,
    }  # fmt: skip


def test_the_order_that_a_mask_suggests_is_taken_where_it_pays() -> None:
    sm90 = target.get("sm90")
    wide, small = (attngen.attention(mask_mod=attngen.grid(*lengths).neighborhood(13)) for lengths in ((256, 256), (16, 16)))
    assert best_order(wide, sm90).order is not None
    assert best_order(small, sm90) is small
    assert "which would not make up for the copies" in Dense(small, canonical(small)).describe(sm90)
