"""`attention(...)`: the cascade of scaled dot-product attention with FlexAttention's mods.

Takes mods, a scale, a normalizer, a softcap and a sink; gives a `Spec` over q "b (g r) m d", k "b g n d", v "b g n e". It is a short user
of the IR: every variant here could be written with `attngen.cascade` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from attngen.errors import CaptureError, ModReturn, SpecError
from attngen.frontend.block_sparse import BlockTable, as_mask_mod
from attngen.frontend.captures.captures import Lifter, name_of
from attngen.frontend.captures.origins import Root
from attngen.frontend.dropout import check_rate, keep_step
from attngen.frontend.neighborhood import Neighborhood
from attngen.frontend.spec import Argument, Pattern, Spec
from attngen.frontend.token_order import Order, as_order
from attngen.frontend.torch_functions.pointwise import LARGEST_FAST_CAP
from attngen.frontend.tracing.trace import Trace
from attngen.frontend.tracing.trace_call import call, check_signature, outside_of_graphs, until_settled
from attngen.frontend.tracing.tracer import Traced, lift, pointwise
from attngen.frontend.tracing.user_frames import definition, locate, user_place
from attngen.ir import build
from attngen.ir.cascade import Einsum, Input, Reduce
from attngen.ir.expr import Const, Expr, Extent, Index
from attngen.source import SourceLoc, naming

Mod = Callable[..., Any]
Scalar = float | int | torch.Tensor

NORMALIZERS = ("softmax", "sigmoid", "relu", "relu_squared", "identity")
SCORE_MOD = ("score", "b", "h", "q_idx", "kv_idx")
MASK_MOD = ("b", "h", "q_idx", "kv_idx")
_AXES = ("b", "g", "r", "m", "n", "d", "e")
_ROW = ("b", "g", "r", "m")
_TILE = (*_ROW, "n")
_OUT = (*_ROW, "e")
_ROOTS = ("score_mod", "mask_mod", "scale", "softcap", "sink")
_STEPS = ("s", "x", "lse0", "lse", "p", "a", "l", "u", "o")
_CALLED = {
    "s": "the product of q and k",
    "x": "the score",
    "lse0": "the logsumexp of the scores",
    "lse": "the logsumexp of the scores",
    "p": "the weights",
    "a": "the weights",
    "l": "the sum of the weights",
    "u": "the output",
    "o": "the output",
}
"""The names of the steps in messages."""
_ARGUMENTS = (Input("q", ("b", "g", "r", "m", "d"), 5), Input("k", ("b", "g", "n", "d"), 4), Input("v", ("b", "g", "n", "e"), 4))


def _pattern(*dims: str) -> Pattern:
    return tuple(tuple(dim.strip("()").split()) for dim in dims)


_PATTERNS = (
    Argument("q", _pattern("b", "(g r)", "m", "d")),
    Argument("k", _pattern("b", "g", "n", "d")),
    Argument("v", _pattern("b", "g", "n", "e")),
)
_OUTPUTS = {"o": Argument("o", _pattern("b", "(g r)", "m", "e")), "lse": Argument("lse", _pattern("b", "(g r)", "m"))}


@dataclass(frozen=True, slots=True)
class _Request:
    score_mod: Mod | None
    mask_mod: Mod | None
    scale: Scalar | None
    softcap: Scalar | None
    sink: Scalar | None
    normalizer: str
    dropout: float
    order: Order | None
    loc: SourceLoc | None


@outside_of_graphs
def attention(
    score_mod: Mod | None = None,
    mask_mod: Mod | None = None,
    *,
    scale: Scalar | None = None,
    normalizer: str = "softmax",
    softcap: Scalar | None = None,
    sink: Scalar | None = None,
    dropout: float = 0.0,
    order: torch.Tensor | Order | None = None,
    name: str | None = None,
) -> Spec:
    """Describe an attention variant.

    Args:
        score_mod: `(score, b, h, q_idx, kv_idx) -> score`, FlexAttention's signature. `score` is scaled, then softcapped.
        mask_mod: `(b, h, q_idx, kv_idx) -> bool`: which pairs attend; or a `block_table`, or a `BlockMask` of FlexAttention.
        scale: multiplies q @ k; Dqk ** -0.5 unless given. A number is part of the spec, a 0-d tensor is read at each call.
        normalizer: "softmax"; "sigmoid" (no normalization); "relu" or "relu_squared" (divided by their sum over the keys);
            "identity" or "none" (the scores themselves).
        softcap: c, for c * tanh(score / c).
        sink: a logit that takes part in the softmax without a value: a tensor [Hq], a 0-d tensor or a number.
        dropout: the rate, in [0, 1), at which weights are set to 0 after normalization; the others are divided by 1 - dropout, and lse is
            not affected. Each call draws a seed from PyTorch's generator, or takes it (`seed=`); `training=False` drops nothing.
        order: integers [N], a permutation that the kernels apply to the tokens so that tokens which attend to each other share tiles.
            Mods, arguments and results keep their positions. See `attngen.grid(...).order`.
        name: a legal identifier; made from the mods' names unless given.

    Returns:
        A spec of q [B, Hq, Nq, Dqk], k [B, Hkv, Nkv, Dqk], v [B, Hkv, Nkv, Dv] whose outputs are o [B, Hq, Nq, Dv] and, for softmax,
        lse [B, Hq, Nq] in natural units.

    Raises:
        SpecError: an unknown normalizer, a sink without a softmax, a rate outside of [0, 1), or an illegal name.
        ArgumentError: `order` is no permutation.
        TraceError: a mod does something that cannot be traced; the class says what.
    """
    if normalizer not in (*NORMALIZERS, "none"):
        raise SpecError(f"unknown normalizer {normalizer!r}", remedy=f"Choose one of {', '.join(NORMALIZERS)}.")
    if sink is not None and normalizer != "softmax":
        raise SpecError(f"a sink with normalizer {normalizer!r}", remedy="A sink is a logit in the denominator of a softmax.")
    mask_mod = as_mask_mod(mask_mod)
    for mod, expected, role in ((score_mod, SCORE_MOD, "score_mod"), (mask_mod, MASK_MOD, "mask_mod")):
        if mod is not None:
            check_signature(mod, expected, role)
    kind = "identity" if normalizer == "none" else normalizer
    given = None if order is None else as_order(order)
    request = _Request(score_mod, mask_mod, scale, softcap, sink, kind, check_rate(dropout), given, locate(user_place()))
    chosen = _name(request, name)
    spec = _spec(request, chosen)
    if isinstance(mask_mod, BlockTable):
        spec = replace(spec, blocks=mask_mod)
    # A bias would be read at permuted positions, and its gradient sorted by them. Gaps along a single axis need no permutation.
    if isinstance(mask_mod, Neighborhood) and len(mask_mod.grid.lengths) > 1 and given is None and score_mod is None:
        suggested = mask_mod.order()
        other = _spec(replace(request, order=suggested), chosen)
        spec = replace(spec, reordered=other, pairs=(mask_mod.visited_pairs(), mask_mod.visited_pairs(suggested)))
    return spec


def _spec(request: _Request, name: str) -> Spec:
    def attempt(keep: frozenset[Hashable]) -> tuple[Trace, Callable[[], Spec]]:
        trace = Trace(_ARGUMENTS, _AXES, _STEPS)
        return trace, lambda: _trace(request, trace, Lifter(trace, keep), name)

    return replace(until_settled(attempt), order=request.order)


def _again(request: _Request, name: str, roots: Mapping[str, Any]) -> Spec:
    """The variant traced from other user objects."""
    return _spec(replace(request, **roots), name)


def _name(request: _Request, name: str | None) -> str:
    if name is not None:
        if not (name.isidentifier() and name.isascii()):
            raise SpecError(f"{name!r} is not a legal name for a spec", remedy="Use letters, digits and underscores.")
        return name
    parts = [name_of(mod) for mod in (request.mask_mod, request.score_mod) if mod is not None]
    parts += [word for word, given in (("softcap", request.softcap), ("sink", request.sink)) if given is not None]
    parts += [] if request.normalizer == "softmax" else [request.normalizer]
    joined = "_".join(part for part in parts if part)
    clean = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in joined).strip("_")
    return (clean if not clean[:1].isdigit() else f"attention_{clean}") or "attention"


def _trace(request: _Request, trace: Trace, lifter: Lifter, name: str) -> Spec:
    builder = _Builder(trace, request.loc)
    product = build.mul(build.read("q", ("b", "g", "r", "m", "d")), build.read("k", ("b", "g", "n", "d")))
    s = builder.step("s", _TILE, product, "sum", ("d",))
    scale = build.apply("pow", Extent("d"), Const(-0.5, "float")) if request.scale is None else _scalar(request.scale, trace, "scale")
    score = build.mul(s, scale)
    if request.softcap is not None:
        cap = _scalar(request.softcap, trace, "softcap")
        is_large = isinstance(cap, Const) and cap.value > LARGEST_FAST_CAP
        score = build.mul(cap, build.apply("tanh_small" if is_large else "tanh", build.apply("div", score, cap)))
    positions = _positions(trace, request.order)
    score, score_loc = _run_score_mod(request.score_mod, trace, lifter, score, positions)
    mask, mask_loc = _run_mask_mod(request.mask_mod, trace, lifter, positions)
    loc = naming(score_loc or mask_loc or builder.loc, _CALLED["x"])
    x = trace.add(Einsum("x", _TILE, score, where=mask, loc=loc))
    outputs = _normalize(request, builder, x)
    trace.lift_masks(outputs)
    trace.name_shared_values()
    cascade, captures = trace.finish(outputs)
    sources = tuple(
        f"{name_of(mod) or 'lambda'} in {mod.__code__.co_filename.rpartition('/')[2]}"
        for mod in (request.score_mod, request.mask_mod)
        if mod is not None and hasattr(mod, "__code__")
    )
    on_request = tuple(output for output in outputs if output == "lse")
    results = tuple(_OUTPUTS[output] for output in outputs)
    roots = {role: getattr(request, role) for role in _ROOTS}
    tracing = trace.tracing(captures, roots, partial(_again, replace(request, **dict.fromkeys(_ROOTS)), name))
    return Spec(name, cascade, _PATTERNS, results, captures, on_request, seed=trace.seed_of(cascade), source=sources, tracing=tracing)


@dataclass(frozen=True, slots=True)
class _Builder:
    trace: Trace
    loc: SourceLoc | None

    def step(self, name: str, axes: tuple[str, ...], body: Expr, reduce: Reduce | None = None, over: tuple[str, ...] = ()) -> Expr:
        return self.trace.add(Einsum(name, axes, body, reduce, over, None, naming(self.loc, _CALLED[name])))


def _normalize(request: _Request, builder: _Builder, x: Expr) -> tuple[str, ...]:
    v = build.read("v", ("b", "g", "n", "e"))

    def kept(weights: Expr) -> Expr:
        if request.dropout == 0.0:
            return build.mul(weights, v)
        return build.mul(build.mul(weights, keep_step(builder.trace, _TILE, request.dropout, builder.loc)), v)

    if request.normalizer == "softmax":
        if request.sink is None:
            lse = builder.step("lse", _ROW, x, "logsumexp", ("n",))
        else:
            keys_only = builder.step("lse0", _ROW, x, "logsumexp", ("n",))
            lse = builder.step("lse", _ROW, build.apply("logaddexp", keys_only, _sink(request.sink, builder.trace)))
        p = builder.step("p", _TILE, build.exp(build.sub(x, lse)))
        builder.step("o", _OUT, kept(p), "sum", ("n",))
        return ("o", "lse")
    if request.normalizer == "identity":
        builder.step("o", _OUT, kept(x), "sum", ("n",))
        return ("o",)
    if request.normalizer == "sigmoid":
        p = builder.step("p", _TILE, build.apply("sigmoid", x))
        builder.step("o", _OUT, kept(p), "sum", ("n",))
        return ("o",)
    relu = build.apply("relu", x)
    a = builder.step("a", _TILE, relu if request.normalizer == "relu" else build.mul(relu, relu))
    weight = builder.step("l", _ROW, a, "sum", ("n",))
    total = builder.step("u", _OUT, kept(a), "sum", ("n",))
    builder.step("o", _OUT, build.safe_div(total, weight))
    return ("o",)


def _head() -> Expr:
    return build.add(build.mul(Index("g"), Extent("r")), Index("r"))


def _positions(trace: Trace, order: Order | None) -> tuple[Traced, ...]:
    """The arguments of mods: batch, head, and positions in the user's token order."""
    batch, head, query, key = (Traced(expr, trace) for expr in (Index("b"), _head(), Index("m"), Index("n")))
    if order is None:
        return batch, head, query, key
    trace.hint(order.places, "order")
    places = lift(order.places, trace)
    return batch, head, places[query], places[key]


def _scalar(value: Scalar, trace: Trace, role: str) -> Expr:
    """A number as a float constant, a 0-d tensor as a captured scalar."""
    if isinstance(value, torch.Tensor):
        trace.locate(value, Root(role), role)
        if value.dim() != 0 or not value.is_floating_point():
            given = f"a tensor of shape {list(value.shape)} and {value.dtype}"
            raise CaptureError(f"{role} is {given}", remedy="Pass a number or a 0-d float tensor.")
        return lift(value, trace).expr
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(f"{role} is a {type(value).__name__}", remedy="Pass a number or a 0-d float tensor.")
    return lift(float(value), trace).expr


def _sink(value: Scalar, trace: Trace) -> Expr:
    if not isinstance(value, torch.Tensor | int | float):
        raise SpecError(f"sink is a {type(value).__name__}", remedy="Pass a tensor of one float per query head, or a number.")
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        return _scalar(value, trace, "sink")
    trace.locate(value, Root("sink"), "sink")
    if value.dim() != 1 or not value.is_floating_point():
        raise CaptureError(f"sink is a tensor of shape {list(value.shape)} and {value.dtype}", remedy="Pass one float per query head.")
    return lift(value, trace)[Traced(_head(), trace)].expr


def _run_score_mod(
    mod: Mod | None, trace: Trace, lifter: Lifter, score: Expr, positions: tuple[Traced, ...]
) -> tuple[Expr, SourceLoc | None]:
    if mod is None:
        return score, None
    lifted = lifter.lift(mod, Root("score_mod"), "score_mod")
    result = call(lifted, (Traced(score, trace), *positions), trace)
    value = _returned(result, trace, mod, "score_mod")
    if value.kind == "bool":
        raise ModReturn("score_mod returned a truth value", loc=locate(value.place), remedy="Return a score; pass a condition as mask_mod.")
    return value.expr if value.kind == "float" else pointwise("mul", value, 1.0).expr, locate(value.place)


def _run_mask_mod(mod: Mod | None, trace: Trace, lifter: Lifter, positions: tuple[Traced, ...]) -> tuple[Expr | None, SourceLoc | None]:
    if mod is None:
        return None, None
    lifted = lifter.lift(mod, Root("mask_mod"), "mask_mod")
    result = call(lifted, positions, trace)
    value = _returned(result, trace, mod, "mask_mod")
    if value.kind != "bool":
        raise ModReturn(
            f"mask_mod returned {'a float' if value.kind == 'float' else 'an integer'}, not a truth value",
            loc=locate(value.place),
            remedy="Return a comparison; add a bias in score_mod.",
        )
    return (None if value.expr == build.TRUE else value.expr), locate(value.place)


def _returned(result: Any, trace: Trace, mod: Mod, role: str) -> Traced:
    wanted = "one score" if role == "score_mod" else "one truth value"
    loc = definition(mod.__code__) if hasattr(mod, "__code__") else None
    if type(result) is not Traced and not isinstance(result, bool | int | float | torch.Tensor):
        raise ModReturn(f"{role} returned {type(result).__name__}, not {wanted}", loc=loc, remedy="Return a value on every path.")
    value = lift(result, trace)
    if value.dims:
        shape = list(value.shape)
        raise ModReturn(f"{role} returned a value of shape {shape}, not {wanted}", loc=locate(value.place), remedy="Index every dimension.")
    return value
