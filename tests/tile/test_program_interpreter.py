"""The interpreter of tile programs agrees with that of cascades, kernel by kernel, whatever the tiles are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attngen.errors import InternalError
from attngen.ir.eval.interpret import interpret as reference
from attngen.kernel.kernel import Kernel
from attngen.tile.nodes import Scatter, TileProgram
from attngen.tile.program_interpreter import Visits, interpret
from attngen.tile.program_parser import parse_program
from tests.tile.programs import CATALOGUE, SIZES, TEXTS, Values, drawn, expected, extents_of_documents, lowered, program

RULES = [
    *(("", None, "masks"), ("", (3, 4), "masks"), ("", (3, 4), "ranges")),
    *(("fused", (3, 4), "masks"), ("fused", (4, 3), "ranges"), ("divided", (3, 4), "masks"), ("divided", (4, 2), "ranges")),
]


def close(found: Values, truth: Values) -> None:
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)


def needed(kernel: Kernel, known: dict[str, Any]) -> None:
    """Values of the inputs that no earlier kernel computed."""
    derived = {name for item in kernel.document_extents for name in item.names}
    for item in kernel.inputs:
        if item.name not in known and item.name not in derived:
            known[item.name] = drawn(item)
    known |= extents_of_documents(kernel, known)


def run(name: str, form: str, tile: tuple[int, int] | None, visits: Visits, given: Values) -> dict[str, Any]:
    """All kernels in order, each compared with what the reference makes of the same inputs; everything that is known after them."""
    known: dict[str, Any] = dict(given)
    for facts, item in lowered(name, form):
        kernel = facts.kernel
        if any(scatter.form != "stored" for scatter in kernel.scatters):
            continue
        needed(kernel, known)
        found = interpret(item, known, SIZES, tile, visits=visits)
        truth = expected(kernel, known)
        for scatter in kernel.scatters:
            truth[scatter.step] = scattered(item, truth[scatter.step], known)
        close(found, truth)
        known |= found
    return known


def scattered(item: TileProgram, pairs: Any, known: Values) -> Any:
    """A gradient of pairs in the places of the tensor that was read: here `bias[g * extent(r) + r,m,n]`."""
    (found,) = (statement for statement in item.statements if isinstance(statement, Scatter))
    kept = np.sum(pairs, axis=0) if "b" in found.axes else pairs
    return np.reshape(kept, known[found.target].shape)


@pytest.mark.parametrize(("form", "tile", "visits"), RULES, ids=str)
@pytest.mark.parametrize("name", CATALOGUE)
def test_kernels_of_the_catalogue(name: str, form: str, tile: tuple[int, int] | None, visits: Visits) -> None:
    run(name, form, tile, visits, {})


@pytest.mark.parametrize(("form", "visits"), [("", "masks"), ("fused", "ranges")])
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.slow
def test_kernels_of_other_variants(name: str, form: str, visits: Visits) -> None:
    run(name, form, (3, 4), visits, {})


@pytest.mark.parametrize("form", ["bfloat16", "divided", "precise"])
@pytest.mark.parametrize("name", ["causal_alibi", "entropy", "sink", "two_masks", "plain_differential", "shifted"])
@pytest.mark.slow
def test_kernels_in_other_forms(name: str, form: str) -> None:
    run(name, form, (3, 4), "ranges", {})


@pytest.mark.parametrize("name", CATALOGUE)
def test_forward_is_what_the_user_wrote(name: str) -> None:
    whole = program(name)
    known = run(name, "", (3, 4), "ranges", {})
    truth = reference(whole.cascade, known)
    close({output: known[output] for output in whole.cascade.outputs}, {output: truth[output] for output in whole.cascade.outputs})


# ---- what nothing may read


@pytest.mark.parametrize("visits", ["masks", "ranges"])
@pytest.mark.parametrize("form", ["", "fused", "divided"])
@pytest.mark.parametrize("name", ["causal", "sliding_window", "alibi_causal", "prefix_lm", "shifted", "documents"])
def test_rows_that_nobody_sees_may_hold_anything(name: str, form: str, visits: Visits) -> None:
    """Behind the last key that a query sees, and before the first, memory is no number; gradients are 0 there."""
    seen = {"shifted": slice(2, 5)}.get(name, slice(0, 7))
    unseen = [i for i in range(SIZES["n"]) if not seen.start <= i < seen.stop]
    given = {item.name: drawn(item) for item in program(name).cascade.inputs if item.name in ("k", "v")}
    for value in given.values():
        value[:, :, unseen] = np.nan
    known = run(name, form, (3, 4), visits, given)
    blind = 4 if name == "shifted" else 0
    assert np.isfinite(known["o"][..., blind:, :]).all()
    for gradient in {"dq", "dk", "dv"} & known.keys():
        assert np.isfinite(known[gradient]).all()
        assert gradient == "dq" or not known[gradient][:, :, unseen].any()


@pytest.mark.parametrize(("form", "visits"), [("", "masks"), ("", "ranges"), ("fused", "ranges")])
def test_queries_that_see_nothing_may_hold_anything(form: str, visits: Visits) -> None:
    given = {item.name: drawn(item) for item in program("shifted").cascade.inputs if item.name == "q"}
    given["q"][..., :4, :] = np.nan
    known = run("shifted", form, (3, 4), visits, given)
    assert np.isfinite(known["o"]).all()
    assert all(np.isfinite(known[gradient]).all() for gradient in ("dq", "dk", "dv"))
    assert not known["dq"][..., :4, :].any()


# ---- the rules of a tile


SUMS = """tile_program sums(x[n], until[...]: int) -> total[m]
  tiles of m, in parallel
  until_value[m] = load until[m]
  most_until = max[m] until_value
  end = min(most_until, extent(n))
  begin = first + 0
  full = last + 0
  for tiles of n: everything
    bounds begin, end, full, end
    carry so_far[m] = 0.0 then so_far_new
    visit where valid
    under masks: valid[m,n] = m == n
    x_value[n] = load x[n]
    spread[m,n] = x_value[n] * 1.0
    seen[m,n] = select spread where valid else 0.0
    part[m] = sum[n] seen
    so_far_new[m] = so_far[m] + part[m]
  store total[m] = so_far"""


def total(visits: Visits, tile: tuple[int, int] | None) -> list[float]:
    """What `SUMS` makes of powers of two, so that each tells what was added; rows end at 4, 3 and 7."""
    values = {"x": 2.0 ** np.arange(7), "until": np.asarray([4, 3, 7])}
    return interpret(parse_program(SUMS), values, {"m": 3, "n": 7}, tile, visits=visits)["total"].tolist()


def test_ranges_decide_what_is_visited_and_what_is_full() -> None:
    """A mask that says otherwise is not asked in a FULL tile, and elements of a tile that is not visited do not count."""
    assert total("ranges", (1, 1)) == [1 + 2 + 4 + 8, 2 + 4, 4 + 8 + 16 + 32 + 64]
    # The tile of the first two rows ends at the larger bound; it is masked before its last row.
    assert total("ranges", (2, 1)) == [1 + 2 + 4 + 8, 2 + 4 + 8, 4 + 8 + 16 + 32 + 64]
    # The tiles [0, 2) and [2, 4) of keys: the first is not FULL for rows 0 and 1, the second is, and for row 2 as well.
    assert total("ranges", (2, 2)) == [1 + 4 + 8, 2 + 4 + 8, 4 + 8 + 16 + 32 + 64]


def test_masks_decide_what_is_visited_and_what_is_full() -> None:
    assert total("masks", (1, 1)) == total("masks", (2, 2)) == total("masks", None) == [1, 2, 4]


def test_outputs_hold_what_was_there_before() -> None:
    """A store replaces it, an added one adds to it."""
    known: dict[str, Any] = {}
    for facts, item in lowered("alibi_causal", "fused"):
        needed(facts.kernel, known)
        found = interpret(item, known, SIZES, (3, 4))
        before = {name: np.ones_like(value) for name, value in found.items()}
        again = interpret(item, known, SIZES, (3, 4), outputs=before)
        added = {"dq_sum", "dslopes"} if facts.role == "backward_fused" else set()
        close(again, {name: value + (name in added) for name, value in found.items()})
        known |= found


def test_a_position_outside_of_a_tensor_is_no_number() -> None:
    ((_, forward), *_) = lowered("alibi_causal")
    known = {**{item.name: drawn(item) for item in program("alibi_causal").cascade.inputs}, "slopes": np.ones(3)}
    found = interpret(forward, known, SIZES)
    assert np.isnan(found["o"][:, 1, 1]).all()
    assert np.isfinite(found["o"][:, 0]).all()


@pytest.mark.parametrize(("axis", "length"), [("m", 0), ("n", 0), ("b", 0)])
def test_axes_without_positions(axis: str, length: int) -> None:
    ((_, forward), *_) = lowered("full")
    sizes = {**SIZES, axis: length}
    known = {name: np.ones([sizes[i] for i in axes]) for name, axes in {"q": "bgrmd", "k": "bgnd", "v": "bgne"}.items()}
    found = interpret(forward, known, sizes, (3, 4))
    assert found["o"].shape == tuple(sizes[i] for i in "bgrme")
    assert not found["o"].any()


def test_other_scatters_are_refused() -> None:
    forms = {facts.role: item for facts, item in lowered("learned_bias") if any(s.form != "stored" for s in facts.kernel.scatters)}
    assert forms
    facts = next(facts for facts, _ in lowered("learned_bias") if facts.role in forms)
    known: dict[str, Any] = {}
    needed(facts.kernel, known)
    with pytest.raises(InternalError, match="diagonals"):
        interpret(forms[facts.role], known, SIZES)
