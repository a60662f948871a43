"""What the steps of the pipeline keep, without running a kernel: every rewritten kernel computes what it did before."""

from __future__ import annotations

import pytest

from attngen.errors import UnsupportedError
from attngen.ir.parser import parse
from attngen.kernel.kernel import Kernel
from attngen.kernel.rewrites.note import Note
from attngen.pipeline import REWRITES, analyse, build, for_dtype, fused, rewriting
from tests import variants
from tests.kernel.computed import close, computed, drawn, gauges, largest, program
from tests.transform import more_variants

TEXTS = {**variants.ALL, **{name: text for name, (text, point) in more_variants.ALL.items() if not (point.captures or point.given)}}


def assert_same(before: Kernel, after: Kernel) -> None:
    """The same outputs, at the same running maxima: a rewrite may measure weights from something else, but not change a result."""
    assert after.role == before.role and after.outputs == before.outputs
    values = drawn(before.inputs)
    own = {item.name for item in gauges(after)}
    maxima = largest(before, values)
    close(computed(after, values, {name: maxima[name] for name in own}), computed(before, values, maxima), 1e-9)


@pytest.mark.parametrize("name", TEXTS)
def test_rewrites_keep_what_kernels_compute(name: str) -> None:
    """All of them, in the order of the pipeline: bfloat16 allows every one."""
    whole = for_dtype(program(TEXTS[name]), "bfloat16")
    for before, after in zip(whole.parts, whole.kernels, strict=True):
        assert_same(before, after)


@pytest.mark.parametrize("name", ["causal_alibi", "sink", "softmax", "differential"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rewrites_of_other_dtypes(name: str, dtype: str) -> None:
    whole = for_dtype(program(TEXTS[name]), dtype)
    assert whole.kernels != whole.parts
    for before, after in zip(whole.parts, whole.kernels, strict=True):
        assert_same(before, after)


def test_rewrites_go_in_order_and_can_be_left_out() -> None:
    whole = for_dtype(program(variants.CAUSAL_ALIBI), "bfloat16")
    assert [name for name, _, _ in rewriting(whole)] == list(REWRITES)
    without = for_dtype(analyse(parse(variants.CAUSAL_ALIBI), without=frozenset({"bias_separation", "static_max"})), "bfloat16")
    assert [name for name, _, _ in rewriting(without)] == [name for name in REWRITES if name not in ("bias_separation", "static_max")]
    assert not any(kernel.bias_dots for kernel in without.kernels), "no side stays the same in every tile"
    plain = for_dtype(program(variants.CAUSAL_ALIBI), "float32")
    assert [name for name, _, _ in rewriting(plain)] == [name for name, rewrite in REWRITES.items() if not rewrite.dtypes]


def test_what_became_of_each_rewrite_is_told() -> None:
    told = dict(for_dtype(program(variants.CAUSAL_ALIBI), "bfloat16").rewrites)
    applied = {name: {note.role for note in notes if note.applied} for name, notes in told.items()}
    assert applied["bias_separation"] == applied["bias_as_dot"] == {"forward", "backward_rows", "backward_columns"}
    assert all(isinstance(note, Note) and note.text for notes in told.values() for note in notes)


def test_gradients_that_are_not_wanted_have_no_kernels() -> None:
    cascade = parse(variants.SOFTMAX)
    assert [kernel.role for kernel in analyse(cascade, wanted=frozenset()).kernels] == ["forward"]
    keys = analyse(cascade, wanted=frozenset({"k"}))
    assert [kernel.role for kernel in keys.kernels] == ["forward", "backward_prepare", "backward_columns"]
    assert [output for kernel in keys.kernels for output in kernel.outputs if output.startswith("d")] == ["dl_i", "dk"]


def test_a_divided_forward_has_no_backward() -> None:
    roles = [kernel.role for kernel in analyse(parse(variants.SOFTMAX), wanted=frozenset(), divided=True).kernels]
    assert roles == ["forward_parts", "forward_merge"]


def test_both_forms_of_a_backward() -> None:
    two = program(variants.SOFTMAX)
    one = fused(two)
    assert one is not None
    assert [kernel.role for kernel in one.kernels] == ["forward", "backward_prepare", "backward_fused", "backward_finish"]
    forward = analyse(parse(variants.SOFTMAX), wanted=frozenset())
    assert fused(forward) is None


def test_a_gradient_without_kernels_costs_the_others_nothing() -> None:
    """What is refused is left out and told; who asks for it by name hears why."""
    head, bias = "v[b,g,n,e]; table: float[:])", "* 0.25 + table[to_int(sqrt(to_float(m)))] * to_float(n)"
    text = variants.SOFTMAX.replace("v[b,g,n,e])", head).replace("* 0.25", bias)
    whole = analyse(parse(text))
    assert [name for name, _ in whole.refused] == ["table"]
    outputs = {output for kernel in whole.kernels for output in kernel.outputs}
    assert {"dq", "dk", "dv"} <= outputs and "dtable" not in outputs
    with pytest.raises(UnsupportedError):
        build(analyse(parse(text), wanted=frozenset({"table"})), "refused")
