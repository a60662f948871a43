"""Tokens in classes of equal remainder compute what tokens do, and their masks ask for no remainder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attngen.interpreter.torch_reference import reference
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.ir.verify import CanonicalForm, verify
from attngen.transform.canonicalize import canonicalize
from attngen.transform.layout.dilation import by_remainder, number_of_classes
from tests import variants
from tests.kernel.computed import close

LENGTHS = {"b": 2, "g": 1, "r": 2, "m": 7, "n": 8, "d": 3, "e": 2}
DIVISOR = 3
MASKS = {
    "m >= n and (m - n) % 3 == 0": "m >= n",
    "abs(m - n) % 3 == 0 and abs(m - n) < 5": "abs(3 * m - 3 * n) < 5",
    "m % 3 == n % 3 and n < 6": "n * 3 + c < 6",
    "(m - n) % 3 == 0 and m - n < 6": "m - 2 < n",
    "(m - n) % 3 == 0 and doc[m] == doc[n]": "doc[m * 3 + c] == doc[n * 3 + c]",
    "(m - n) % 3 == 0 and m // 3 == n // 3": "m == n",
}
"""Of all tokens, and of those of one class."""


def text(mask: str, more: str = "") -> str:
    head = "v[b,g,n,e]; step: int, slopes: float[:], doc: int[:])"
    return variants.SOFTMAX.replace("v[b,g,n,e])", head).replace("* 0.25", f"* 0.25{more}  if {mask}")


def values() -> dict[str, Tensor | int]:
    generator = torch.Generator().manual_seed(0)
    axes = {"q": "bgrmd", "k": "bgnd", "v": "bgne"}
    drawn = {name: torch.randn([LENGTHS[axis] for axis in own], generator=generator).double() for name, own in axes.items()}
    return {**drawn, "slopes": torch.tensor([0.5, -1.0]).double(), "doc": torch.arange(9) // 4, "step": DIVISOR}


def classed(value: Tensor, at: int) -> Tensor:
    """Tokens p as class p % 3 and position p // 3, filled up."""
    length = value.shape[at]
    padding = torch.full((*value.shape[:at], -length % DIVISOR, *value.shape[at + 1 :]), 7.0).double()
    whole = torch.cat((value, padding), at)
    return whole.unflatten(at, (-1, DIVISOR)).movedim(at + 1, at)


def tokens(value: Tensor, at: int, length: int) -> Tensor:
    """The inverse, for a result, whose classes stand behind its positions."""
    return value.flatten(at, at + 1).narrow(at, 0, length)


@pytest.mark.parametrize("more", ["", " + slopes[r] * (n - m)", " + to_float(m % 3) * 0.1", " - to_float(abs(m - n) // 3)"])
@pytest.mark.parametrize("mask", MASKS)
def test_classes_compute_what_all_tokens_do(mask: str, more: str) -> None:
    """Of lengths that the number of classes does not divide, too: keys behind the end do not exist."""
    cascade = canonicalize(parse(text(mask, more)))
    found = by_remainder(cascade, {})
    assert found is not None
    moved, classes = found
    verify(moved, CanonicalForm)
    assert parse(str(moved)) == moved
    known = values()
    truth = reference(cascade, known)
    mine = reference(
        moved, {**known, "q": classed(known["q"], 3), "k": classed(known["k"], 2), "v": classed(known["v"], 2), classes.length: 8}
    )  # type: ignore[arg-type]
    close({o: tokens(mine[o], 3, LENGTHS["m"]) for o in cascade.outputs}, {o: truth[o] for o in cascade.outputs})


@pytest.mark.parametrize("mask", MASKS)
def test_nothing_is_left_of_the_remainder(mask: str) -> None:
    found = by_remainder(canonicalize(parse(text(mask))), {})
    assert found is not None
    (where,) = {step.where for step in found[0].steps if step.where is not None}
    assert where is not None
    assert print_expr(where) == f"{MASKS[mask]} and n * 3 + c < keys"


@pytest.mark.parametrize("classes", [{"step": 3}, {"step": 1}, {"step": 0}, {}])
def test_a_captured_number_counts_if_its_value_is_known(classes: dict[str, int]) -> None:
    cascade = canonicalize(parse(text("m >= n and (m - n) % step == 0")))
    assert number_of_classes(cascade) == "step"
    found = by_remainder(cascade, classes)
    assert (found is not None) == (classes.get("step", 0) > 1)
    if found is not None:
        assert (found[1].divisor, found[1].axes, found[1].axis, found[1].length) == (3, ("m", "n"), "c", "keys")


@pytest.mark.parametrize(
    "mask", ["m >= n", "(m - n) % 3 == 1", "(m - n) % 3 == 0 or m == n", "(m - n) % 3 == 0 and n < extent(n) - 1", "(m - n) % doc[m] == 0"]
)
def test_other_masks_keep_their_tokens(mask: str) -> None:
    cascade = canonicalize(parse(text(mask)))
    assert by_remainder(cascade, {"step": 3}) is None
    assert number_of_classes(cascade) == (3 if "extent" in mask else 0)
