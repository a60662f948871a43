"""Random cascades against dense PyTorch, forward and every gradient: gates of any axes in any place, statistics that lack axes of the
grid, equal steps written twice, outputs in any order of their axes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from tests.e2e.named import Named, contract, gradients

SIZES = {"b": 2, "g": 2, "r": 2, "m": 20, "n": 27, "d": 16, "e": 16}
PLACES = {"query": "bgrm", "key": "bgn", "score": "bgrmn", "scale": "bgrmn", "weight": "bgrmn", "value": "bgn", "output": "bgrm"}
"""Where a gate may stand, and the axes that it may have there."""


@dataclass(frozen=True)
class Gate:
    place: str
    axes: str
    captured: bool


@dataclass(frozen=True)
class Variant:
    """What a random cascade is made of.

    Attributes:
        gates: factors and terms. second: what the scores of a second softmax are made of, and their axes; "" for none.
        again: in which order the scores are formed once more, "" for not at all. statistic: a row value that is returned, "" for none.
        order: of the axes of the output. twice: whether it is returned twice, in this order and in that of the signature.
        masked: whether queries see earlier keys only; the first ones see none.
        told: whether the squares of the second softmax are returned, which may vary along few axes.
    """

    gates: tuple[Gate, ...]
    second: tuple[str, str]
    again: str
    statistic: str
    order: str
    twice: bool
    masked: bool
    told: bool = False


def drawn(seed: int) -> Variant:
    """The variant of a number. Numbers are what Hypothesis draws: its own choices would be small and alike."""
    rng = random.Random(seed)

    def some(axes: str, least: int = 0) -> str:
        found = "".join(axis for axis in axes if rng.random() < 0.5)
        return found if len(found) >= least else axes

    def gate() -> Gate:
        place = rng.choice(list(PLACES))
        return Gate(place, some(PLACES[place], 1), rng.random() < 0.3)

    masked = rng.random() < 0.3
    return Variant(
        gates=tuple(gate() for _ in range(rng.choice((0, 1, 1, 2)))),
        second=("" if masked else rng.choice(("", "", "places", "product")), some("bgr")),
        again=rng.choice(("", "bgrmn", "".join(rng.sample("bgrmn", 5)))),
        statistic=rng.choice(("", "lse", "squares", "mean", "top")),
        order="".join(rng.sample("bgrme", 5)),
        twice=rng.random() < 0.3,
        masked=masked,
        told=rng.random() < 0.4,
    )


def spaced(axes: str) -> str:
    return " ".join(axes)


def leaves_of(variant: Variant, seed: int = 0) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The axes and the values of everything that has a gradient."""
    axes = {"q": "bgrmd", "k": "bgnd", "v": "bgne"}
    axes |= {f"gate{i}": gate.axes for i, gate in enumerate(variant.gates)}
    kind, own = variant.second
    axes |= {"places": {"w": own}, "product": {"q2": f"{own}md", "k2": f"{own}nd"}}.get(kind, {}) if own or kind == "product" else {}
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: [SIZES[axis] for axis in own] for name, own in axes.items()}
    values = {name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()}
    return axes, values


def spec_of(variant: Variant, axes: dict[str, str], values: dict[str, Tensor]) -> attngen.Spec:
    captured = {f"gate{i}": values[f"gate{i}"] for i, gate in enumerate(variant.gates) if gate.captured}

    def body(**given: Any) -> Any:
        def gate(place: str, value: Any) -> Any:
            for i, item in enumerate(variant.gates):
                if item.place == place:
                    known = given.get(f"gate{i}")
                    factor = captured[f"gate{i}"][tuple(attngen.index(axis) for axis in item.axes)] if known is None else known
                    value = value + factor if place == "score" else value * (1.0 + 0.5 * factor)
            return value

        def scores(order: str) -> Any:
            q, k = gate("query", given["q"]), gate("key", given["k"])
            s = gate("scale", gate("score", attngen.einsum(f"b g r m d, b g n d -> {spaced(order)}", q, k) * 0.25))
            seen = attngen.index("m") + 1 > attngen.index("n") + 4
            return attngen.where(seen, s, float("-inf")) if variant.masked else s

        kept = PLACES["weight"]
        s = scores(kept)
        p = gate("weight", attngen.softmax(s, over="n"))
        kind, own = variant.second
        if kind == "places":
            other = attngen.softmax((attngen.index("n") - attngen.index("m")) * 0.1 * given.get("w", 1.0), over="n")
            p = p + other
        elif kind == "product":
            product = attngen.einsum(f"{spaced(own)} m d, {spaced(own)} n d -> {spaced(own)} m n", given["q2"], given["k2"])
            other = attngen.softmax(product * 0.25, over="n")
            p = p - 0.5 * other
        again = scores(variant.again) if variant.again else s
        v = gate("value", given["v"])
        result = f"{spaced(kept)}, b g n e -> {spaced(variant.order)}"
        o = attngen.einsum(result, p, v)
        if any(item.place == "output" for item in variant.gates):
            o = gate("output", o)
        found = [o, attngen.einsum(f"{spaced(kept)}, b g n e -> b g r m e", p, v)] if variant.twice else [o]
        if kind and variant.told:
            found.append(attngen.sum(other * other, over="n"))
        if variant.statistic:
            of = {"lse": lambda: attngen.logsumexp(again, over="n"), "squares": lambda: attngen.sum(p * p, over="n")}
            of["top"] = lambda: attngen.max(again, over="n")
            found.append(of.get(variant.statistic, lambda: attngen.sum(p * again, over="n"))())
        return tuple(found)

    arguments = {name: spaced(own) for name, own in axes.items() if name not in captured}
    return attngen.cascade(**arguments)(_with_parameters(body, list(arguments)))


def _with_parameters(body: Any, names: list[str]) -> Any:
    """A function of these parameters, as `cascade` reads them off a signature."""
    scope: dict[str, Any] = {"body": body}
    exec(f"def random({', '.join(names)}):\n    return body({', '.join(f'{name}={name}' for name in names)})", scope)
    return scope["random"]


def oracle(variant: Variant, axes: dict[str, str], values: dict[str, Tensor]) -> list[Tensor]:
    given = {name: Named(value, axes[name]) for name, value in values.items()}

    def gate(place: str, value: Named) -> Named:
        for i, item in enumerate(variant.gates):
            if item.place == place:
                value = value + given[f"gate{i}"] if place == "score" else value * (given[f"gate{i}"] * 0.5 + 1.0)
        return value

    s = gate("scale", gate("score", contract("bgrmn", gate("query", given["q"]), gate("key", given["k"])) * 0.25))
    rows, keys = torch.arange(SIZES["m"])[:, None], torch.arange(SIZES["n"])
    seen = rows + 1 > keys + 4 if variant.masked else rows + keys >= 0
    alive = seen.any(-1)
    kept = Named(s.data.masked_fill(~seen & alive[:, None], float("-inf")), "bgrmn")
    p = gate("weight", Named(kept.data.softmax(-1) * seen, "bgrmn"))
    kind, own = variant.second
    if kind == "places":
        far = Named((keys - rows).double() * 0.1, "mn")
        other = (far * given["w"] if "w" in given else far).softmax("n")
        p = p + other
    elif kind == "product":
        other = (contract(f"{own}mn", given["q2"], given["k2"]) * 0.25).softmax("n")
        p = p - other * 0.5
    v = gate("value", given["v"])
    o = contract("bgrme", p, v)
    gated = any(item.place == "output" for item in variant.gates)
    first = gate("output", o) if gated else o
    found = [first.data if gated else first.data.permute(["bgrme".index(axis) for axis in variant.order])]
    found += [o.data] if variant.twice else []
    found += [(other * other).sum("n").data] if kind and variant.told else []
    if variant.statistic:
        none = torch.tensor(float("-inf"), dtype=torch.float64)
        of = {"lse": torch.where(alive, kept.data.logsumexp(-1), none), "top": torch.where(alive, kept.data.amax(-1), none)}
        of |= {"squares": (p * p).sum("n").data, "mean": (p * s).sum("n").data}
        found.append(of[variant.statistic])
    return found


def check(variant: Variant) -> None:
    axes, values = leaves_of(variant)
    attend = attngen.compile(spec_of(variant, axes, values))
    arguments = [values[argument.name] for argument in attend.spec.arguments]
    found = attend(*arguments)
    found = list(found) if isinstance(found, tuple) else [found]
    expected, leaves = oracle(variant, axes, values), list(values.values())
    graded = [i for i, right in enumerate(expected) if right.requires_grad and not (variant.statistic == "top" and i == len(expected) - 1)]
    both = (gradients([values[i] for i in graded], leaves) for values in (found, expected))
    pairs = [*zip(found, expected, strict=True), *zip(*both, strict=True)]
    for mine, right in pairs:
        assert mine.shape == right.shape
        torch.testing.assert_close(mine, right, rtol=1e-9, atol=1e-9)


ORDER_OF_RESULTS = "bgrme"
KNOWN = {
    "a gate of keys behind the softmax": Variant((Gate("weight", "bgn", False),), ("", ""), "", "", ORDER_OF_RESULTS, False, True),
    "of some keys of all heads": Variant((Gate("weight", "n", False),), ("", ""), "", "squares", ORDER_OF_RESULTS, False, False),
    "values scaled alike for all batches": Variant((Gate("value", "gn", False),), ("", ""), "", "", ORDER_OF_RESULTS, False, False),
    "keys scaled alike for all heads": Variant((Gate("key", "n", False),), ("", ""), "", "lse", ORDER_OF_RESULTS, False, False),
    "a softmax of places": Variant((), ("places", "g"), "", "", ORDER_OF_RESULTS, False, False),
    "a softmax of positions alone": Variant((), ("places", ""), "", "squares", ORDER_OF_RESULTS, False, False),
    "products of places": Variant((), ("product", ""), "", "", ORDER_OF_RESULTS, False, False),
    "a statistic of places": Variant((), ("places", "g"), "", "", ORDER_OF_RESULTS, False, False, told=True),
    "a statistic of products of places": Variant((), ("product", "g"), "", "", ORDER_OF_RESULTS, False, False, told=True),
    "scores formed twice": Variant((), ("", ""), "bgrmn", "mean", "mebgr", True, False),
}
"""One of each kind."""


@pytest.mark.parametrize("name", KNOWN)
def test_kinds(name: str) -> None:
    check(KNOWN[name])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32))
def test_values_and_gradients_are_those_of_pytorch(seed: int) -> None:
    check(drawn(seed))


def test_weights_in_proportion_again() -> None:
    """A gate of keys in a quotient of two sums."""

    @attngen.cascade(q="b h m d", k="b h n d", v="b h n e", c="h n")
    def again(q: Any, k: Any, v: Any, c: Any) -> Any:
        p = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k) * 0.25, over="n") * (0.1 + c * c)
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v) / attngen.sum(p, over="n")

    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 2, 20, 16), (2, 2, 27, 16), (2, 2, 27, 16), (2, 27)]
    q, k, v, c = leaves = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    p = (q @ k.mT * 0.25).softmax(-1) * (0.1 + c * c)[:, None]
    found, right = attngen.compile(again)(*leaves), p / p.sum(-1, keepdim=True) @ v
    for mine, expected in zip((found, *gradients([found], leaves)), (right, *gradients([right], leaves)), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)
