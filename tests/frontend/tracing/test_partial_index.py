"""Captured tensors that are only partly indexed: their elements are those that torch gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from attngen.errors import CaptureError, ReductionInMod, TracedIteration
from attngen.frontend.tracing.partial_index import LONGEST_UNROLLED, PartialIndex, broadcast, index, length, squeeze, unroll, unsqueeze
from attngen.frontend.tracing.trace import substitute
from attngen.ir.cascade import Cascade, Einsum, Input
from attngen.ir.eval.interpret import interpret
from attngen.ir.expr import Const, Index, Read
from attngen.ir.printer import print_expr

TENSORS = {"t": torch.arange(24.0).reshape(2, 3, 4), "row": torch.arange(4.0) * 100, "one": torch.full((3, 1), 7.0)}


def whole(name: str) -> PartialIndex:
    """A captured tensor before anything is indexed."""
    dims = tuple((f"{name}.{i}", size) for i, size in enumerate(TENSORS[name].shape))
    return PartialIndex(Read(name, tuple(Index(axis) for axis, _ in dims)), dims)


def position(item: Any) -> PartialIndex:
    return item if isinstance(item, PartialIndex) else PartialIndex(Const(item, "int") if isinstance(item, int) else item)


def elements(value: PartialIndex) -> np.ndarray:
    """Its values, over its dimensions, by the interpreter."""
    axes = {axis: f"x{i}" for i, (axis, _) in enumerate(value.dims)}
    names = tuple(axes.values())
    body = substitute(value.expr, {axis: Index(name) for axis, name in axes.items() if axis})
    inputs = (Input("shape", names, len(names)), *(Input(name, None, tensor.dim()) for name, tensor in TENSORS.items()))
    cascade = Cascade(inputs, (Einsum("y", names, body),), ("y",))
    values = {name: tensor.double().numpy() for name, tensor in TENSORS.items()}
    return np.asarray(interpret(cascade, {**values, "shape": np.zeros([size for _, size in value.dims])})["y"])


def seen() -> tuple[list[str], Callable[[str], None]]:
    found: list[str] = []
    return found, found.append


@pytest.mark.parametrize(
    "items",
    [
        (0,), (-1,), (1, 2), (1, 2, 3), (slice(None),), (slice(1, 3),), (0, slice(None, None, 2)), (slice(None), 1, slice(1, -1)),
        (Ellipsis, 2), (1, Ellipsis), (Ellipsis,), (None, 1), (slice(None), None, 2), (Ellipsis, None), (0, slice(2, 0, -1)), (),
    ],
)  # fmt: skip
def test_indices_are_those_of_torch(items: tuple[Any, ...]) -> None:
    if any(isinstance(item, slice) and (item.step or 1) < 0 for item in items):
        expected = TENSORS["t"].numpy()[items]
    else:
        expected = TENSORS["t"][items].numpy()
    found = index(whole("t"), items, position, lambda axis: None)
    assert [size for _, size in found.dims] == list(expected.shape)
    np.testing.assert_array_equal(elements(found), expected)


def test_what_depends_on_a_length_is_observed() -> None:
    """A slice and a literal: another length would have given another trace."""
    for items, axes in (((0,), ["t.0"]), ((slice(None), slice(0, 2)), ["t.1"]), ((Index("m"), slice(None)), []), ((), [])):
        found, observe = seen()
        index(whole("t"), items, position, observe)
        assert found == axes


def test_traced_positions_stay() -> None:
    found = index(whole("t"), (Index("h"), Index("m")), position, lambda axis: None)
    assert print_expr(found.expr) == "t[h,m,t.2]" and found.dims == (("t.2", 4),)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ((0, 0, 0, 0), "4 indices for 3 dimensions"),
        ((2,), "index 2 is out of range for a dimension of length 2"),
        ((-3,), "index -3 is out of range"),
        ((Const(1.0, "float"),), "indexed with a float"),
    ],
)
def test_wrong_indices(items: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        index(whole("t"), items, position, lambda axis: None)


def test_values_broadcast_as_in_torch() -> None:
    values = [index(whole("t"), (0,), position, lambda axis: None), whole("one"), whole("row")]
    exprs, dims = broadcast(values)
    assert [size for _, size in dims] == [3, 4]
    for expr, tensor in zip(exprs, (TENSORS["t"][0], TENSORS["one"], TENSORS["row"]), strict=True):
        np.testing.assert_array_equal(elements(PartialIndex(expr, dims)), tensor.expand(3, 4).numpy())
    with pytest.raises(CaptureError, match="do not broadcast"):
        broadcast([whole("t"), index(whole("t"), (0, slice(0, 2)), position, lambda axis: None)])
    assert broadcast([PartialIndex(Index("m"))]) == ([Index("m")], ())


def test_dimensions_of_one() -> None:
    wide = unsqueeze(whole("row"), -1)
    assert [size for _, size in wide.dims] == [4, 1]
    assert [size for _, size in unsqueeze(whole("row"), 0).dims] == [1, 4]
    assert squeeze(wide, None) == squeeze(wide, -1) == whole("row")
    assert squeeze(wide, 0) == wide
    np.testing.assert_array_equal(elements(squeeze(whole("one"), 1)), TENSORS["one"][:, 0].numpy())


def test_short_dimensions_unroll() -> None:
    found = unroll(whole("t"), 1, "sum")
    np.testing.assert_array_equal(np.stack([elements(item) for item in found], 1), TENSORS["t"].numpy())
    long = PartialIndex(Read("long", (Index("long.0"),)), (("long.0", LONGEST_UNROLLED + 1),))
    with pytest.raises(ReductionInMod, match="`sum` over 17 captured elements"):
        unroll(long, 0, "sum")


def test_lengths() -> None:
    assert length(whole("t")) == 2
    with pytest.raises(TracedIteration):
        length(PartialIndex(Index("m")))
