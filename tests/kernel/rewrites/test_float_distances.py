"""Distances that are formed from floats: which are, and that they stay the numbers they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import attngen
from attngen.pipeline import analyse
from tests.kernel.rewrites.test_bias_separation import case, slopes
from tests.kernels import harness

offset = 3
FLOATED: dict[str, Callable[..., Any]] = {
    "slopes": lambda s, b, h, q, k: s + slopes[h] * (k - q),
    "the other way": lambda s, b, h, q, k: s + (q - k) * slopes[h],
    "absolute": lambda s, b, h, q, k: s - slopes[h] * torch.abs(q - k),
    "by a captured number": lambda s, b, h, q, k: s - slopes[h] * (q + offset - k),
    "multiples": lambda s, b, h, q, k: s * 0.5 + (2 * q - 3 * k + 1) / 16.0,
}
KEPT: dict[str, Callable[..., Any]] = {
    "remainder": lambda s, b, h, q, k: s + slopes[h] * ((q - k) % 5),
    "position of a key": lambda s, b, h, q, k: s + slopes[h] * k,
}


def floated(spec: attngen.Spec) -> set[str]:
    """Roles of the kernels in which a conversion was saved."""
    return {note.role for note in dict(analyse(spec.cascade).rewrites)["float_distances"]}


@pytest.mark.kernels
@pytest.mark.parametrize("name", FLOATED)
def test_distances_are_floats(name: str) -> None:
    spec = attngen.attention(FLOATED[name], lambda b, h, q, k: q + 5 >= k, name="distant")
    assert floated(spec) == {"forward", "backward_rows", "backward_columns"}
    values, cotangents = case(spec, torch.float64)
    found = harness.run(spec, values, cotangents, harness.tiles(32, 16))
    harness.exact_to(found, harness.expected(spec, values, cotangents))


@pytest.mark.parametrize("name", KEPT)
def test_others_stay(name: str) -> None:
    assert floated(attngen.attention(KEPT[name], name="near")) == set()


@pytest.mark.kernels
def test_far_from_the_start_distances_are_exact() -> None:
    """Float32 holds every whole number below 2**24."""
    spec = attngen.attention(FLOATED["slopes"], lambda b, h, q, k: q + 5 >= k, name="distant")
    values, cotangents = case(spec, torch.float32)
    found = harness.run(spec, values, cotangents)
    harness.contract(found, harness.expected(spec, values, cotangents), harness.yardstick(spec, values, cotangents, torch.float32))
