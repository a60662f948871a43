"""A forward whose keys programs share computes what one program does: the states of parts, combined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attngen.ir.expr import Read
from attngen.ir.parser import parse
from attngen.ir.traverse import free_axes
from attngen.kernel.kernel import Kernel
from attngen.kernel.split_kv import MERGE, PARTS, split_forward
from attngen.pipeline import analyse
from tests import variants
from tests.kernel.computed import Values, close, computed, drawn, largest, within
from tests.transform import more_variants
from tests.transform.laws import SIZES

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}
SHARES = ((0, 3), (3, 3), (3, 7))
"""Of seven keys; one part is empty."""


def forward(text: str) -> Kernel:
    return analyse(parse(text), wanted=frozenset()).parts[0]


def states(parts: Kernel, values: Values) -> dict[str, Tensor]:
    """What the programs of all parts store."""
    stored = [step for step in parts.steps if step.name in parts.outputs]
    found: dict[str, list[Tensor]] = {step.name: [] for step in stored}
    for share in SHARES:
        own = within(replace(parts, steps=tuple(step for step in parts.steps if step not in stored)), "n", *share)
        maxima = largest(own, values)
        carried = tuple(s.body.tensor for s in stored if isinstance(s.body, Read) and s.body.tensor not in maxima)
        known = {**computed(replace(own, outputs=carried), values, maxima), **maxima}
        for step in stored:
            assert isinstance(step.body, Read)
            axes = [axis for axis in step.axes if axis != parts.split_axis]
            view = [SIZES[axis] if axis in free_axes(step.body) else 1 for axis in axes]
            found[step.name].append(known[step.body.tensor].reshape(view).expand([SIZES[axis] for axis in axes]))
    return {name: torch.stack(parts) for name, parts in found.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_parts_combined_are_the_whole(name: str) -> None:
    """Also where one part has no keys, and where a mask takes all keys of a part from a row."""
    whole = forward(TEXTS[name])
    parts, merge = split_forward(whole)
    values = drawn(whole.inputs)
    stored = states(parts, values)
    maxima = {gauge.name: stored[gauge.exponent].amax(0) for gauge in merge.gauges}
    close(computed(merge, {**values, **stored}, maxima), computed(whole, values), 1e-10)


def test_the_softmax_of_parts() -> None:
    parts, merge = split_forward(forward(variants.SOFTMAX))
    assert (parts.role, merge.role) == (PARTS, MERGE)
    assert parts.grid == ("part", "b", "g", "r") and merge.streamed == "part"
    assert [str(step) for step in parts.steps[-3:]] == [
        "m_i_parts[part,b,g,r,m] = m_i[b,g,r,m]",
        "l_i_parts[part,b,g,r,m] = l_i[b,g,r,m]",
        "acc_parts[part,b,g,r,m,e] = acc[b,g,r,m,e]",
    ]
    assert [str(step) for step in merge.steps] == [
        "w[b,g,r,m,part] = exp(m_i_parts[part,b,g,r,m] - m_i[b,g,r,m])",
        "l_i[b,g,r,m] = sum[part] w[b,g,r,m,part] * l_i_parts[part,b,g,r,m]",
        "acc[b,g,r,m,e] = sum[part] w[b,g,r,m,part] * acc_parts[part,b,g,r,m,e]",
        "lse[b,g,r,m] = m_i[b,g,r,m] + log(l_i[b,g,r,m])",
        "o[b,g,r,m,e] = safe_div(acc[b,g,r,m,e], l_i[b,g,r,m])",
    ]


def test_offsets_follow_by_their_power() -> None:
    """A sum with an offset to the power 1 takes in the sum without it, as far as its part is from the common gauge."""
    _, merge = split_forward(forward(variants.ENTROPY))
    (moved,) = (str(step) for step in merge.steps if step.name == "t_i")
    assert "where(m_i_parts[part,b,g,r,m] > -inf, y[b,g,r,m,part], 0.0)" in moved


def test_names_that_are_taken_stay() -> None:
    """A user's axis or step may be called like the axis or the states of parts."""
    text = variants.SOFTMAX.replace("lse", "m_i_parts").replace("[b,", "[part,")
    parts, _ = split_forward(forward(text))
    assert parts.split_axis == "part2"
    assert parts.outputs[0] == "m_i_parts2"
