"""Pairs of position and head as rows compute what positions and heads do."""

from __future__ import annotations

import pytest
from torch import Tensor

from attngen.interpreter.torch_reference import reference
from attngen.ir.parser import parse
from attngen.ir.verify import CanonicalForm, verify
from attngen.transform.canonicalize import canonicalize
from attngen.transform.layout.pack_gqa import pack, packed_axes
from tests import variants
from tests.kernel.computed import close, drawn
from tests.transform import more_variants

BIASES = {
    "bias of pairs": variants.SOFTMAX.replace("v[b,g,n,e])", "v[b,g,n,e], bias[b,g,r,m,n])").replace("* 0.25", "* 0.25 + bias[b,g,r,m,n]"),
    "bias of rows": variants.SOFTMAX.replace("v[b,g,n,e])", "v[b,g,n,e], bias[r,m])").replace("* 0.25", "* 0.25 + bias[r,m]"),
    "length of queries": variants.SOFTMAX.replace("* 0.25", "* 0.25  if m + extent(n) >= n + extent(m)"),
    "number of heads": variants.SOFTMAX.replace("* 0.25", "* 0.25 * to_float(r + extent(r))"),
}
TEXTS = {
    **variants.ALL,
    **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)},
    **BIASES,
}
PACKED = sorted(name for name, text in TEXTS.items() if "[b,g,r,m,d]" in text and name != "per_head_argument_twice")


def rows(value: Tensor, axes: tuple[str, ...]) -> Tensor:
    """A value with pairs of position and head in place of both, as its axes say: row m is position m // heads and head m % heads."""
    kept = [axis for axis in axes if axis not in ("m", "r")]
    place = axes.index("m")
    before = sum(axis in kept for axis in axes[:place])
    order = [*kept[:before], "m", "r", *kept[before:]]
    lengths = {"m": 5, "r": 2}
    wide = value if "r" in axes else value.unsqueeze(place)
    own = axes if "r" in axes else (*axes[:place], "r", *axes[place:])
    permuted = wide.permute([own.index(axis) for axis in order])
    shape = list(permuted.shape)
    shape[before : before + 2] = [lengths["m"], lengths["r"]]
    return permuted.expand(shape).flatten(before, before + 1)


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_are_the_rows(name: str) -> None:
    cascade = canonicalize(parse(TEXTS[name]))
    found = pack(cascade)
    assert found is not None
    packed, packing = found
    assert (packing.rows, packing.heads) == ("m", "r")
    verify(packed, CanonicalForm)
    assert parse(str(packed)) == packed
    values = drawn(cascade.inputs)
    own = {item.name: item.axes for item in packed.inputs}
    moved = {
        item.name: rows(values[item.name], item.axes) if own[item.name] != item.axes and own[item.name] is not None else values[item.name]
        for item in cascade.inputs
        if item.axes is not None
    }
    captured = {item.name: values[item.name] for item in cascade.inputs if item.axes is None}
    truth, mine = reference(cascade, values), reference(packed, {**moved, **captured, packing.number: 2})
    close({o: mine[o] for o in packed.outputs}, {o: rows(truth[o], cascade.axes(o)) for o in cascade.outputs})


def test_masks_and_heads_by_the_number_of_heads() -> None:
    found = pack(canonicalize(parse(variants.CAUSAL_ALIBI)))
    assert found is not None
    assert [str(step) for step in found[0].steps[:2]] == [
        "s[b,g,m,n] = sum[d] q[b,g,m,d] * k[b,g,n,d]",
        "x[b,g,m,n] = s[b,g,m,n] * extent(d) ** -0.5 + slopes[g * heads + m % heads] * (n - m // heads)  if m // heads >= n",
    ]
    assert packed_axes(("b", "r", "m", "d"), found[1]) == ("b", "m", "d")
    assert packed_axes(("g", "r"), found[1]) == ("g", "m")
    assert packed_axes(("g", "n"), found[1]) == ("g", "n")


@pytest.mark.parametrize(
    "text",
    [
        variants.DIFFERENTIAL,
        variants.SOFTMAX.replace("k[b,g,n", "k[b,g,r,n").replace("v[b,g,n", "v[b,g,r,n"),
        variants.SOFTMAX.replace("v[b,g,n,e])", "v[b,g,n,e], bias[r,n])").replace("* 0.25", "* 0.25 + bias[r,n]"),
        variants.SOFTMAX.replace("v[b,g,n,e])", "v[b,g,n,e], bias[r,m])").replace("* 0.25", "* 0.25 + bias[r,m // 2]"),
    ],
    ids=["heads of their own", "keys of every head", "biases of keys by head", "rows read out of place"],
)
def test_heads_that_share_nothing_stay(text: str) -> None:
    assert pack(canonicalize(parse(text))) is None
