"""Common mistakes, each with the words that its error owes the user: what is wrong, in the user's names, and what to write instead."""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attngen
from attngen import errors
from attngen.errors import AttngenError, InternalError

SCORES = "b h m d, b h n d -> b h m n"
OUTPUT = "b h m n, b h n e -> b h m e"
TABLE = np.linspace(0.0, 1.0, 33)
Scores = Callable[[Any, Any], Any]


def traced(weights: Scores) -> Callable[[], object]:
    """Compile a cascade whose weights are computed so from q and k."""

    def spec(q: Any, k: Any, v: Any) -> Any:
        return attngen.einsum(OUTPUT, weights(q, k), v)

    return lambda: attngen.compile(attngen.cascade(q="b h m d", k="b h n d", v="b h n e")(spec))


def of_scores(weights: Callable[[Any], Any]) -> Callable[[], object]:
    return traced(lambda q, k: weights(attngen.einsum(SCORES, q, k)))


def mod(score_mod: Callable[..., Any]) -> Callable[[], object]:
    return lambda: attngen.attention(score_mod)


def products(subscripts: Any, *more: Any) -> Callable[[], object]:
    return traced(lambda q, k: attngen.softmax(attngen.einsum(subscripts, q, k, *more), over="n"))


def dimension(x: Any) -> Any:
    return x.shape[-1]


CASCADES: dict[str, tuple[Callable[[], object], type[AttngenError], str]] = {
    "a name that attngen lacks": (of_scores(lambda s: attngen.sofmax(s, over="n")), errors.UnknownName, "attngen.softmax"),  # type: ignore[attr-defined]
    "torch.softmax": (of_scores(lambda s: torch.softmax(s, -1)), errors.ReductionInMod, "attngen.softmax"),
    "softmax of functional": (of_scores(lambda s: F.softmax(s, dim=-1)), errors.ReductionInMod, "attngen.softmax"),
    "the method softmax": (of_scores(lambda s: s.softmax(-1)), errors.ReductionInMod, "attngen.softmax"),
    "torch.logsumexp": (of_scores(lambda s: s - torch.logsumexp(s, -1)), errors.ReductionInMod, "attngen.logsumexp"),
    "torch.sum": (of_scores(lambda s: s - torch.sum(s, -1)), errors.ReductionInMod, "attngen.sum"),
    "the method max": (of_scores(lambda s: s - s.max(-1).values), errors.ReductionInMod, "attngen.max"),
    "the method mean": (of_scores(lambda s: s - s.mean(-1)), errors.ReductionInMod, "attngen.extent"),
    "torch.topk": (of_scores(lambda s: torch.topk(s, 3).values), errors.ReductionInMod, "attngen.sum"),
    "@": (traced(lambda q, k: q @ k), errors.UnsupportedOperation, "attngen.einsum"),
    "torch.matmul": (traced(lambda q, k: torch.matmul(q, k)), errors.UnsupportedOperation, "attngen.einsum"),
    "torch.einsum": (traced(lambda q, k: torch.einsum("bhmd,bhnd->bhmn", q, k)), errors.UnsupportedOperation, "attngen.einsum"),
    "mT": (traced(lambda q, k: q @ k.mT), errors.UnsupportedOperation, "attngen.einsum"),
    "transpose": (traced(lambda q, k: q @ k.transpose(-1, -2)), errors.UnsupportedOperation, "attngen.einsum"),
    "axes without spaces": (products("bhmd,bhnd->bhmn"), errors.AxisError, '"b h m d"'),
    "operands before patterns": (traced(lambda q, k: attngen.einsum(q, k, SCORES)), errors.SpecError, "patterns first"),
    "no pattern": (products(None), errors.SpecError, "patterns first"),
    "no result": (products("b h m d, b h n d"), errors.SpecError, "the result"),
    "too few patterns": (products(SCORES, 1.0), errors.SpecError, "3 in all"),
    "an axis that an operand lacks": (products("b h m d, b h n e -> b h m n"), errors.AxisError, "b h n e"),
    "an axis that no operand has": (products("b h m d, b h n d -> b h m z"), errors.AxisError, "has z"),
    "an ellipsis": (products("... m d, ... n d -> ... m n"), errors.AxisError, "separated by spaces"),
    "a dimension for an axis": (of_scores(lambda s: attngen.softmax(s, -1)), errors.AxisError, "names of axes"),  # type: ignore[arg-type]
    "a list of axes": (of_scores(lambda s: attngen.softmax(s, over=["n"])), errors.AxisError, "names of axes"),  # type: ignore[arg-type]
    "no axis": (of_scores(lambda s: attngen.softmax(s, over="")), errors.AxisError, "softmax over no axis"),
    "an unknown axis": (of_scores(lambda s: attngen.softmax(s, over="z")), errors.AxisError, "softmax over z"),
    "dim=": (of_scores(lambda s: attngen.softmax(s, dim=-1)), errors.TraceError, "attngen.softmax(x, over"),  # type: ignore[call-arg]
    "over= left out": (of_scores(lambda s: attngen.softmax(s)), errors.TraceError, "attngen.softmax(x, over"),  # type: ignore[call-arg]
    "softmax of a list": (of_scores(lambda s: attngen.softmax([s], over="n")), errors.UnsupportedOperation, "a list"),
    "index of a number": (of_scores(lambda s: s + attngen.index(2)), errors.AxisError, "names of axes"),  # type: ignore[arg-type]
    "index of no axis": (of_scores(lambda s: attngen.exp(s + attngen.index("z"))), errors.AxisError, "'z'"),
    "extent of a tensor": (traced(lambda q, k: q * attngen.extent(q)), errors.AxisError, "names of axes"),
    "causal without align": (of_scores(lambda s: attngen.where(attngen.causal("m", "n"), s, 0.0)), errors.SpecError, "top_left"),
    "causal of nothing": (of_scores(lambda s: attngen.causal()), errors.TraceError, "attngen.causal(q_axis"),  # type: ignore[call-arg]
    "where of two": (of_scores(lambda s: attngen.where(s > 0, s)), errors.UnsupportedOperation, "where"),
    "masked_fill with text": (of_scores(lambda s: s.masked_fill(s > 0, "-inf")), errors.UnsupportedOperation, "str"),
    "a length from shape": (traced(lambda q, k: q * dimension(q)), errors.TracedIteration, "attngen.extent"),
    "a length from size": (traced(lambda q, k: q * q.size(-1)), errors.TracedIteration, "attngen.extent"),
    "math.exp": (of_scores(lambda s: math.exp(s)), errors.TracedConversion, "torch.exp"),
    "numpy.exp": (of_scores(lambda s: np.exp(s)), errors.TracedConversion, "torch"),
    "a name that is taken": (traced(lambda q, k: attngen.einsum(SCORES, q, k, name="q")), errors.SpecError, "q2"),
    "a name that is a number": (traced(lambda q, k: attngen.einsum(SCORES, q, k, name=3)), errors.SpecError, "legal name"),  # type: ignore[arg-type]
    "the user's own TypeError": (of_scores(lambda s: s + len(3)), errors.TraceError, "object of type 'int' has no len()"),  # type: ignore[arg-type]
    "nothing in parentheses": (lambda: attngen.cascade(lambda q: q), errors.SpecError, '@attngen.cascade(q="b h m d"'),
    "axes in a list": (lambda: attngen.cascade(q=["b"])(lambda q: q), errors.SpecError, 'q="b h m d"'),  # type: ignore[arg-type]
    "no function below": (lambda: attngen.cascade(q="b h m d")(3), errors.SpecError, "above a def"),  # type: ignore[arg-type]
}
MODS: dict[str, tuple[Callable[[], object], type[AttngenError], str]] = {
    "a numpy array by index": (mod(lambda s, b, h, i, j: s + TABLE[j]), errors.TracedConversion, "from_numpy"),
    "a numpy array in a sum": (mod(lambda s, b, h, i, j: TABLE + s), errors.TracedConversion, "from_numpy"),
    "a numpy array on the right": (mod(lambda s, b, h, i, j: s + TABLE), errors.UnsupportedOperation, "as_tensor"),
    "a list by index": (mod(lambda s, b, h, i, j: s + [1.0, 2.0][h]), errors.TracedConversion, "torch.tensor"),
    "a dict by index": (mod(lambda s, b, h, i, j: s + {0: 1.0}[h]), errors.TracedConversion, "torch.tensor"),
    "text": (mod(lambda s, b, h, i, j: s + "a"), errors.UnsupportedOperation, "a str"),
    "a method of no tensor": (mod(lambda s, b, h, i, j: s.tahn()), errors.UnsupportedOperation, "tanh"),
    "the user's own KeyError": (mod(lambda s, b, h, i, j: s + {}["slope"]), errors.TraceError, "'slope'"),
    "an attribute that torch lacks": (mod(lambda s, b, h, i, j: torch.tahn(s)), errors.TraceError, "tahn"),  # type: ignore[attr-defined]
}
OPTIONS: dict[str, tuple[Callable[[], object], type[AttngenError], str]] = {
    "a call of a spec": (lambda: attngen.attention()(torch.ones(1, 1, 4, 16)), errors.ArgumentError, "attngen.compile(spec)"),
    "a scale in text": (lambda: attngen.attention(scale="x"), errors.SpecError, "scale is a str"),  # type: ignore[arg-type]
    "a list of sinks": (lambda: attngen.attention(sink=[1.0]), errors.SpecError, "sink is a list"),  # type: ignore[arg-type]
    "a schedule in text": (lambda: attngen.compile(attngen.attention(), schedule="fast"), errors.ScheduleError, "BLOCK_M"),  # type: ignore[arg-type]
    "one rewrite in text": (
        lambda: attngen.compile(attngen.attention(), without="scale_folding"),
        errors.ArgumentError,
        "['scale_folding']",
    ),
    "a float for a length": (
        lambda: attngen.compile(attngen.attention(), dtype="bfloat16", head_dim=64.0),  # type: ignore[arg-type]
        errors.ArgumentError,
        "head_dim=64.0",
    ),
    "queries in text": (
        lambda: attngen.compile(attngen.attention()).mask_tiles(q_len="4", kv_len=4),  # type: ignore[arg-type]
        errors.ArgumentError,
        "q_len is '4'",
    ),
    "a name outside of any cascade": (lambda: attngen.sdpa, errors.UnknownName, "attention"),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("name", [*CASCADES, *MODS, *OPTIONS])
def test_a_mistake_is_told_with_what_to_write_instead(name: str) -> None:
    run, expected, words = (CASCADES | MODS | OPTIONS)[name]
    with pytest.raises(AttngenError) as caught:
        run()
    assert type(caught.value) is expected, f"{type(caught.value).__name__}: {caught.value}"
    assert words in str(caught.value), str(caught.value)
    assert caught.value.remedy
    if name in CASCADES and caught.value.loc is None:
        assert name in ("nothing in parentheses", "axes in a list", "no function below")


def talking(q: Any, k: Any, v: Any, w: Any) -> Any:
    scores = attngen.einsum(SCORES, q, k)
    mixed = attngen.einsum("b h m n, h g -> b g m n", scores, w)
    return attngen.einsum("b g m n, b g n e -> b g m e", attngen.softmax(mixed, over="n"), v)


def again(q: Any, k: Any, v: Any) -> Any:
    weights = attngen.softmax(attngen.einsum(SCORES, q, k), over="n")
    sharper = attngen.softmax(3.0 * weights, over="n")
    return attngen.einsum(OUTPUT, sharper, v)


def nested(q: Any, k: Any, v: Any) -> Any:
    return attngen.einsum(OUTPUT, attngen.softmax(attngen.softmax(attngen.einsum(SCORES, q, k), over="n"), over="n"), v)


def centred(q: Any, k: Any, v: Any) -> Any:
    scores = attngen.einsum(SCORES, q, k)
    total = attngen.sum(scores, over="n")
    return attngen.einsum(OUTPUT, attngen.tanh(scores - total), v)


REFUSED: dict[str, tuple[Callable[..., Any], str, tuple[str, ...]]] = {
    "talking heads": (talking, "b g n e", ("heads are mixed before the softmax",)),
    "a softmax of a softmax": (again, "b h n e", ("sharper reduces values",)),
    "the same without variables": (nested, "b h n e", ("softmax(...) reduces values",)),
    "a value against a total": (centred, "b h n e", ("tanh(scores[b,h,m,n] - total[b,h,m])",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_algebra_refuses_is_told_in_the_users_names(name: str) -> None:
    function, values, words = REFUSED[name]
    more = {"w": "h g"} if function is talking else {}
    with pytest.raises(AttngenError) as caught:
        attngen.compile(attngen.cascade(q="b h m d", k="b h n d", v=values, **more)(function))
    assert not isinstance(caught.value, InternalError)
    assert all(word in caught.value.rule for word in words), caught.value.rule
    assert not re.search(r"\b[tx]\d*\[|\blse\d*\b", caught.value.rule)
    assert caught.value.remedy and caught.value.loc is not None and caught.value.loc.filename == __file__


def test_the_class_of_an_error_stands_once_in_a_traceback() -> None:
    with pytest.raises(errors.UnknownArch) as caught:
        attngen.compile(attngen.attention(), arch="sm12")
    assert "".join(traceback.format_exception_only(caught.value)).count("UnknownArch") == 1


def test_an_error_below_an_installed_library_shows_the_users_line() -> None:
    def through_numpy(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + np.apply_along_axis(lambda row: row["no such field"], 0, np.ones(3))  # this line

    with pytest.raises(errors.TraceError) as caught:
        attngen.attention(through_numpy)
    assert caught.value.loc is not None and caught.value.loc.filename == __file__
    assert caught.value.__cause__ is not None, "the user's exception comes along"
