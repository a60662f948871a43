"""Which products go ahead, which tensors descriptors may fetch, and that kernels of every form compute the same."""

from __future__ import annotations

import pytest
import torch

from attngen.ir.parser import parse
from attngen.kernel.dense_rows import streamed_rows
from attngen.kernel.partition import Kernel
from attngen.kernel.prefetched_dots import issue_order, prefetchable_dots
from attngen.pipeline import analyse, build
from tests import variants
from tests.kernels import cases, harness

FORMS = {"PIPE": True, "TMA": True}
LATE = {**FORMS, "LATE": True}
SHARED = variants.SOFTMAX.replace(", v[b,g,n,e]", "").replace("v[b,g,n,e]", "k[b,g,n,d]").replace("o[b,g,r,m,e]", "o[b,g,r,m,d]")
GATED = variants.SOFTMAX.replace("* 0.25", "* sum_of_n[b,g,n]").replace(
    "  x[", "  sum_of_n[b,g,n] = sum[d] k[b,g,n,d]\n  x[", 1
)  # a value of the keys that only the scores read


def kernels(text: str) -> dict[str, Kernel]:
    return {kernel.role: kernel for kernel in analyse(parse(text)).kernels}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (variants.SOFTMAX, ("s",)),
        (variants.CAUSAL_ALIBI, ("s",)),
        (variants.SIGMOID, ("s",)),
        (variants.RELU, ("s",)),
        (SHARED, ()),
        (GATED, ()),
    ],
    ids=["softmax", "alibi", "sigmoid", "relu", "the tile serves twice", "rows serve twice"],
)
def test_what_goes_ahead(text: str, found: tuple[str, ...]) -> None:
    assert prefetchable_dots(kernels(text)["forward"]) == found


def test_the_backward_has_products_beside_its_exponentials() -> None:
    found = kernels(variants.SOFTMAX)
    for role in ("backward_rows", "backward_columns"):
        assert prefetchable_dots(found[role]) == ()
        names = [step.name for step in issue_order(found[role])]
        first = [name for name in names if name in ("s", "w", "dw_part")]
        assert first == ["s", "dw_part", "w"]


def test_what_descriptors_fetch() -> None:
    found = kernels(variants.SOFTMAX)
    assert streamed_rows(found["forward"]) == ("k", "v")
    assert streamed_rows(found["backward_columns"]) == ("q", "do"), "stacks of matrices, by head"
    assert streamed_rows(kernels(variants.SOFTMAX.replace("k[b,g,n,d]\n", "k[b,g,n // 2,d]\n"))["forward"]) == ("v",)


FORMED = ("causal_alibi", "window", "first_and_last", "dilated", "differential", "softcap", "documents")


@pytest.mark.kernels
@pytest.mark.parametrize(("variant", "d"), [*((variant, 16) for variant in FORMED), ("window", 48)])
def test_forms_agree_to_the_bit(variant: str, d: int) -> None:
    """One walk, two that jump, pieces, lists of tiles, two products, masks that are loaded, features in two tiles; rows without keys,
    lengths that no tile divides."""
    case = cases.case(variant, cases.Sizes(b=1, g=1, r=1, m=70, n=90, d=d, e=16))
    values = {**case.values, **({"width": 40} if "width" in case.values else {})}
    plain = harness.prepare(case.cascade, values)
    tiles = harness.tiles(16, 16)
    known = harness.forward(plain, values, tiles)
    for form in (FORMS, LATE):
        formed = harness.forward(plain, values, {**tiles, "forward": {**tiles["forward"], **form}})
        for name, value in known.items():
            assert torch.equal(formed[name], value), name


@pytest.mark.kernels
@pytest.mark.parametrize("variant", ["documents", "scattered_documents"])
def test_documents_by_descriptors(variant: str) -> None:
    """From 128 keys a tile on their places come by descriptors, for which rows of an odd number of them are padded."""
    case = cases.case(variant, cases.Sizes(b=2, g=1, r=1, m=130, n=150, d=16, e=16))
    plain = harness.prepare(case.cascade, case.values)
    document = next(value for name, value in case.values.items() if name in ("document", "scattered"))
    places = plain.module.runs(document, document)
    assert [(tuple(found.shape), found.stride(0) % 4, found.data_ptr() % 16) for found in places] == [((2, 150), 0, 0)] * 3
    tiles = harness.tiles(16, 128)
    formed = {role: {**tile, **(FORMS if role == "forward" else {"TMA": True})} for role, tile in tiles.items() if "BLOCK_N" in tile}
    arguments = case.cascade, case.values, case.cotangents
    harness.exact_to(harness.run(*arguments, {**tiles, **formed}), harness.expected(*arguments))


def order(text: str, *parts: str) -> list[int]:
    """Where parts of a forward kernel first stand, behind the head of its turn."""
    turn = build(analyse(parse(text)), "order").text.partition("def forward_kernel")[2].partition("for segment")[2]
    return [turn.index(part) for part in parts]


def test_the_order_of_a_turn() -> None:
    """Sums of features follow before the weights are formed; what a mask loads stands before the products, arithmetic behind."""
    parts = (
        "fetch_vector(",
        "if not LATE",
        "valid =",
        "m_i_new =",
        "if LATE",
        "alpha =",
        "acc = acc * alpha",
        " w = ",
        "l_i = ",
        "tl.dot(w",
    )
    found = order(cases.MASKS["documents"], *parts)
    assert found == sorted(found)


def test_sums_of_two_maxima_follow_both() -> None:
    text = variants.SOFTMAX.replace("p[b,g,r,m,n] * v", "p[b,g,r,m,n] * p[b,g,r,m,n] * v")
    (squared,) = order(text, "acc = acc * alpha[:, None] * alpha[:, None]")
    assert squared < order(text, " w = ")[0]


@pytest.mark.kernels
def test_full_tiles_that_a_bias_empties() -> None:
    """A row has no maximum there, and one behind it."""
    text = variants.SOFTMAX.replace("* 0.25", "* 0.25 + bias[m,n]", 1).replace("e])", "e]; bias: float[:,:])", 1)
    case = cases.case("causal_alibi", cases.Sizes(b=1, g=1, r=1, m=20, n=40, d=16, e=16))
    values = {name: value for name, value in case.values.items() if name in ("q", "k", "v")}
    values["bias"] = torch.zeros(20, 40, dtype=torch.float64)
    values["bias"][5, :32] = float("-inf")
    tiles = harness.tiles(16, 16)
    found = harness.run(text, values, case.cotangents, {**tiles, "forward": {**tiles["forward"], **FORMS}})
    harness.exact_to(found, harness.expected(text, values, case.cotangents))


@pytest.mark.kernels
def test_only_aligned_tensors_have_descriptors() -> None:
    case = cases.case("causal_alibi", cases.Sizes(b=1, g=1, r=1, m=20, n=20, d=16, e=16))
    described = harness.prepare(case.cascade, case.values).module.described
    tile = {"BLOCK_M": 16, "TMA": True}
    plain = torch.zeros(4, 32, 16, dtype=torch.bfloat16)
    assert described(tile, plain)["TMA"]
    assert described({"BLOCK_M": 16}, plain) == {"BLOCK_M": 16}, "and nobody is given one who does not ask"
    shifted = torch.zeros(4 * 32 * 16 + 1, dtype=torch.bfloat16)[1:].view(4, 32, 16)
    odd = torch.zeros(4, 32, 20, dtype=torch.bfloat16)[..., :16]
    expanded = plain[:1].expand(4, 32, 16)
    assert not any(described(tile, plain, tensor)["TMA"] for tensor in (shifted, odd, expanded, plain[:, :0]))


@pytest.mark.kernels
def test_more_descriptors_than_offsets_reach_are_refused() -> None:
    case = cases.case("causal_alibi", cases.Sizes(b=1, g=1, r=1, m=20, n=20, d=16, e=16))
    with pytest.raises(ValueError, match="set TMA to False"):
        harness.prepare(case.cascade, case.values).module.memory_of_descriptors(2**31, 128, None)
