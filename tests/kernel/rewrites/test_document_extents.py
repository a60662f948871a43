from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attngen
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.document_extents import with_document_extents
from attngen.plan.programs import ProgramKey
from attngen.schedule.choose import Request
from attngen.targets import table as target


def kernel(predicate: str) -> Kernel:
    cascade = parse(
        f"cascade(a[m], b[n]; doc: int[:], other: int[:], at: int[:, :], w: int)\n  y[m] = sum[n] a[m] * b[n]  if {predicate}\n  -> y"
    )
    where = cascade.steps[0].where
    return Kernel("forward", "m", "n", (), (), (), cascade.inputs, cascade.steps, cascade.outputs, may_mask=where, must_mask=where)


@pytest.mark.parametrize(
    ("predicate", "some"),
    [
        ("doc[m] == doc[n]", "n >= first_of_doc[m] and n < last_of_doc[m]"),
        ("doc[n] == doc[m] and m >= n", "n >= first_of_doc[m] and n < last_of_doc[m] and m >= n"),
        ("doc[m] == other[n]", "n >= first_of_doc_in_other[m] and n < last_of_doc_in_other[m]"),
        ("doc[m] == doc[n] or n < w", "n >= first_of_doc[m] and n < last_of_doc[m] or n < w"),
        ("at[w,m] == at[w,n]", "n >= first_of_at[w,m] and n < last_of_at[w,m]"),
        ("doc[m // w + 7] == doc[n]", "n >= first_of_doc[m // w + 7] and n < last_of_doc[m // w + 7]"),
        (
            "doc[m] == doc[n] and m - other[doc[m]] >= n - other[doc[n]]",
            "n >= first_of_doc[m] and n < last_of_doc[m] and m - other[doc[m]] >= n - other[doc[m]]",
        ),
    ],
)
def test_equalities_become_bounds(predicate: str, some: str) -> None:
    found = with_document_extents(kernel(predicate))
    assert found.extent_masks is not None and found.extent_masks[0] is not None and found.extent_masks[1] is not None
    assert print_expr(found.extent_masks[0]) == some
    assert print_expr(found.extent_masks[1]) == some.replace("last_of", "run_of")
    assert found.may_mask == found.must_mask == found.steps[0].where


@pytest.mark.parametrize(
    ("predicate", "mask"),
    [
        ("doc[m] == doc[n]", "last_of_doc[m] == last_of_doc[n]"),
        ("doc[n] == doc[m] and m >= n", "last_of_doc[m] == last_of_doc[n] and m >= n"),
        ("doc[m] == other[n]", "doc[m] == other[n]"),
        ("at[w,m] == at[w,n] or n < w", "last_of_at[w,m] == last_of_at[w,n] or n < w"),
        ("doc[m // w + 7] == doc[n]", "last_of_doc[m // w + 7] == last_of_doc[n]"),
        (
            "doc[m] == doc[n] and m - other[doc[m]] >= n - other[doc[n]]",
            "last_of_doc[m] == last_of_doc[n] and m - other[doc[m]] >= n - other[doc[n]]",
        ),
    ],
)
def test_values_of_one_tensor_are_compared_by_place(predicate: str, mask: str) -> None:
    found = with_document_extents(kernel(predicate)).may_mask
    assert found is not None
    assert print_expr(found) == mask


OTHERS = ["m >= n", "not (doc[m] == doc[n])", "doc[m] != doc[n]", "at[m,w] == at[n,w]", "doc[m] == doc[n + 1]", "doc[m] < doc[n]"]


@pytest.mark.parametrize("predicate", OTHERS)
def test_other_masks_are_left_alone(predicate: str) -> None:
    assert with_document_extents(kernel(predicate)) == kernel(predicate)


def by_document(doc: torch.Tensor) -> attngen.api.Attention:
    return attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: doc[q] == doc[k], name="documents"), arch="sm90")


@pytest.mark.kernels
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 3), max_size=9), st.lists(st.integers(-2, 3), max_size=9))
def test_runs_of_any_values(values: list[int], keys: list[int]) -> None:
    module = by_document(torch.zeros(4, dtype=torch.int32))._table.kernels(ProgramKey())  # the helper of an emitted module
    loaded = module.get(Request((("d", 16), ("e", 16)), "float32", target.get("sm90")), torch.device("cpu")).module
    first, last, run = loaded.runs(torch.tensor(values, dtype=torch.int64), torch.tensor(keys, dtype=torch.int64))
    for i, value in enumerate(values):
        places = np.flatnonzero(np.array(keys) == value) if keys else np.array([], int)
        if len(places) == 0:
            assert first[i] >= last[i] and first[i] >= run[i]
            continue
        assert (first[i], last[i]) == (places[0], places[-1] + 1)
        assert run[i] == (last[i] if len(places) == last[i] - first[i] else first[i])
