"""`@cascade`: named axes, reductions, steps and outputs, as text."""

from __future__ import annotations

import pytest
import torch

from attngen.errors import AttngenError, AxisError, DataDependentBranch, ModReturn, ReductionInMod, SpecError
from attngen.frontend import functions as attngen
from attngen.frontend.cascade_function import cascade
from attngen.frontend.spec import Spec
from attngen.ir.parser import parse

TEMPERATURE = 0.5
WEIGHTS = torch.zeros(4, 4)


def steps(spec: Spec) -> list[str]:
    assert parse(str(spec.cascade)) == spec.cascade
    return [line.strip() for line in str(spec.cascade).splitlines()]


@cascade(q1="b h m d", q2="b h m d", k1="b h n d", k2="b h n d", v="b h n e", lam="h")
def differential(q1, q2, k1, k2, v, lam):
    scale = attngen.extent("d") ** -0.5
    s1 = attngen.einsum("b h m d, b h n d -> b h m n", q1, k1) * scale
    s2 = attngen.einsum("b h m d, b h n d -> b h m n", q2, k2) * scale
    p = attngen.softmax(s1, over="n") - lam * attngen.softmax(s2, over="n")
    return attngen.einsum("b h m n, b h n e -> b h m e", p, v)


def test_differential() -> None:
    assert steps(differential) == [
        "cascade(q1[b,h,m,d], q2[b,h,m,d], k1[b,h,n,d], k2[b,h,n,d], v[b,h,n,e], lam[h])",
        "t1[b,h,m,n] = sum[d] q1[b,h,m,d] * k1[b,h,n,d]",
        "t2[b,h,m,n] = sum[d] q2[b,h,m,d] * k2[b,h,n,d]",
        "x[b,h,m,n] = t1[b,h,m,n] * extent(d) ** -0.5",
        "lse[b,h,m] = logsumexp[n] x[b,h,m,n]",
        "x2[b,h,m,n] = t2[b,h,m,n] * extent(d) ** -0.5",
        "lse2[b,h,m] = logsumexp[n] x2[b,h,m,n]",
        "t3[b,h,m,n] = exp(x[b,h,m,n] - lse[b,h,m]) - lam[h] * exp(x2[b,h,m,n] - lse2[b,h,m])",
        "o[b,h,m,e] = sum[n] t3[b,h,m,n] * v[b,h,n,e]",
        "-> o",
    ]
    assert differential.name == "differential"
    assert [argument.name for argument in differential.arguments] == ["q1", "q2", "k1", "k2", "v", "lam"]
    assert differential.outputs[0].pattern == (("b",), ("h",), ("m",), ("e",))


def test_steps_are_located_at_the_users_lines() -> None:
    loc = {step.name: step.loc for step in differential.cascade.steps}
    t1, lse2 = loc["t1"], loc["lse2"]
    assert t1 is not None and t1.text()[t1.column : t1.end_column] == 'attngen.einsum("b h m d, b h n d -> b h m n", q1, k1)'
    assert lse2 is not None and lse2.text()[lse2.column : lse2.end_column] == 'attngen.softmax(s2, over="n")'


def test_a_layout_is_of_its_output_whatever_step_computes_it() -> None:
    """A product written twice is one step; results of it have the dimensions that each was asked for in."""

    @cascade(q="b (g r) m d", k="b g n d", v="b g n e")
    def twice(q, k, v):
        s, again = (attngen.einsum("b g r m d, b g n d -> b g r m n", q, k) for _ in range(2))
        p = attngen.softmax(s, over="n")
        outputs = [attngen.einsum(f"b g r m n, b g n e -> {axes}", p, v) for axes in ("b (g r) m e", "b g r m e", "b e m g r")]
        return (*outputs, outputs[0], attngen.sum(p * again, over="n"), attngen.einsum("b g r m n, b g n e -> e m b g r", p, v) * 1.0)

    assert [output.pattern for output in twice.outputs] == [
        (("b",), ("g", "r"), ("m",), ("e",)),
        (("b",), ("g",), ("r",), ("m",), ("e",)),
        (("b",), ("e",), ("m",), ("g",), ("r",)),
        (("b",), ("g", "r"), ("m",), ("e",)),
        (("b",), ("g", "r"), ("m",)),
        (("b",), ("g", "r"), ("m",), ("e",)),
    ]
    assert [twice.cascade.axes(output.name) for output in twice.outputs] == [
        tuple(axis for dim in output.pattern for axis in dim) for output in twice.outputs
    ]
    assert sum("* k[" in step for step in steps(twice)) == 1


def test_positions_alone_are_values() -> None:
    @cascade(q="b m d", k="b n d")
    def places(q, k):
        p = attngen.softmax((attngen.index("n") - attngen.index("m")) * 0.5, over="n")
        return attngen.sum(p * attngen.einsum("b m d, b n d -> b m n", q, k), over="n")

    assert "lse[m] = logsumexp[n] x[m,n]" in steps(places)
    with pytest.raises(SpecError):
        attngen.softmax(attngen.index("n") * 0.5, over="n")


def test_entropy_gate_and_lse_as_a_dict_over_grouped_heads() -> None:
    @cascade(q="b (g r) m d", k="b g n d", v="b g n e", gate="b (g r) m")
    def entropy(q, k, v, gate):
        s = attngen.einsum("b g r m d, b g n d -> b g r m n", q, k, name="s") * TEMPERATURE
        s = torch.where(attngen.causal("m", "n", align="bottom_right"), s, -float("inf"))
        p = attngen.softmax(s, over="n", name="p")
        o = attngen.einsum("b g r m n, b g n e -> b (g r) m e", p, v)
        return {"o": o * torch.sigmoid(gate), "entropy": -attngen.sum(p * torch.log(p), over="n"), "lse": attngen.logsumexp(s, "n")}

    assert steps(entropy) == [
        "cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e], gate[b,g,r,m]; TEMPERATURE: float)",
        "s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]",
        "x[b,g,r,m,n] = s[b,g,r,m,n] * TEMPERATURE  if m + extent(n) - extent(m) >= n",
        "lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]",
        "p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])",
        "t1[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]",
        "t2[b,g,r,m] = sum[n] p[b,g,r,m,n] * log(p[b,g,r,m,n])",
        "o[b,g,r,m,e] = t1[b,g,r,m,e] * sigmoid(gate[b,g,r,m])",
        "entropy[b,g,r,m] = -t2[b,g,r,m]",
        "-> o, entropy, lse",
    ]
    assert entropy.keys == ("o", "entropy", "lse")
    assert entropy.outputs[0].pattern == (("b",), ("g", "r"), ("m",), ("e",))
    assert entropy.captures[0].name == "TEMPERATURE"


def test_a_tuple_of_outputs() -> None:
    @cascade(q="m d", k="n d", v="n e")
    def pair(q, k, v):
        s = attngen.einsum("m d, n d -> m n", q, k)
        return attngen.einsum("m n, n e -> e m", attngen.softmax(s, "n"), v), attngen.max(s, "n"), q

    assert steps(pair)[-6:] == [
        "lse[m] = logsumexp[n] t1[m,n]",
        "t2[m,n] = exp(t1[m,n] - lse[m])",
        "o[e,m] = sum[n] t2[m,n] * v[n,e]",
        "o2[m] = max[n] t1[m,n]",
        "o3[m,d] = q[m,d]",
        "-> o, o2, o3",
    ]
    assert [output.pattern for output in pair.outputs] == [(("e",), ("m",)), (("m",),), (("m",), ("d",))]
    assert pair.keys is None


def test_axes_come_in_the_order_of_the_signature() -> None:
    @cascade(bias="n m", q="m d")
    def total(bias, q):
        return q * bias

    assert steps(total) == ["cascade(bias[n,m], q[m,d])", "o[n,m,d] = q[m,d] * bias[n,m]", "-> o"]


def test_einsum_takes_any_number_of_operands_and_reduced_axes() -> None:
    @cascade(a="i j", b="j k", c="k i")
    def trace(a, b, c):
        return attngen.einsum("i j, j k, k i ->", a, b, c)

    assert steps(trace)[1] == "o = sum[i,j,k] a[i,j] * b[j,k] * c[k,i]"


def test_einsum_binds_the_dimensions_of_a_captured_tensor() -> None:
    @cascade(s="h m n")
    def talking(s):
        return attngen.einsum("h m n, h i -> i m n", s, WEIGHTS)

    assert steps(talking) == ["cascade(s[h,m,n]; WEIGHTS: float[:, :])", "o[i,m,n] = sum[h] s[h,m,n] * WEIGHTS[h,i]", "-> o"]


def test_what_two_steps_share_becomes_a_step() -> None:
    @cascade(s="m n", v="n e")
    def shared(s, v):
        weight = torch.sigmoid(s) * 2.0
        return attngen.sum(weight + 1.0, "n"), attngen.sum(weight * v, "n")

    assert steps(shared)[1:-1] == [
        "t1[m,n] = sigmoid(s[m,n]) * 2.0",
        "o[m] = sum[n] t1[m,n] + 1.0",
        "o2[m,e] = sum[n] t1[m,n] * v[n,e]",
    ]


def test_captured_tensors_are_indexed_with_positions() -> None:
    @cascade(s="b (g r) m n")
    def biased(s):
        return s + WEIGHTS[attngen.index("(g r)"), attngen.index("m") - attngen.index("n") + 3] * (attngen.index("m") < 7)

    assert steps(biased)[1] == "o[b,g,r,m,n] = s[b,g,r,m,n] + WEIGHTS[g * extent(r) + r,m - n + 3] * to_float(m < 7)"


def test_masks_are_ordinary_predicates() -> None:
    window = 5

    @cascade(s="m n")
    def windowed(s):
        near = attngen.sliding_window("m", "n", window, align="top_left")
        return attngen.logsumexp(attngen.where(near | (attngen.index("n") < 2), s, -float("inf")), "n")

    assert steps(windowed)[1] == "x[m,n] = s[m,n]  if m >= n and m - n < window or n < 2"


def test_the_pointwise_vocabulary() -> None:
    names = "exp exp2 log log2 sqrt rsqrt sin cos erf tanh sigmoid softplus relu gelu silu abs floor"

    @cascade(x="m")
    def every(x):
        total = x
        for name in names.split():
            total = total + getattr(attngen, name)(x)
        pairs = attngen.minimum(x, 1.0) + attngen.maximum(x, 2.0) + attngen.logaddexp(x, x + 1.0) + attngen.clamp(x, min=0.0)
        return total + pairs + attngen.divide_or_zero(x, x - 1.0) + attngen.where(x > 0, x, 0.0)

    assert "safe_div(x[m], x[m] - 1.0)" in str(every.cascade)


def test_integer_arguments_say_so() -> None:
    @cascade(s="b m n", document="b n: int", valid="b n: bool")
    def masked(s, document, valid):
        return attngen.logsumexp(torch.where(valid & (document == 3), s, -float("inf")), over="n")

    assert steps(masked)[:2] == [
        "cascade(s[b,m,n], document[b,n]: int, valid[b,n]: bool)",
        "x[b,m,n] = s[b,m,n]  if valid[b,n] and document[b,n] == 3",
    ]


def test_equal_definitions_give_equal_cascades() -> None:
    def make(factor: float) -> Spec:
        @cascade(s="m n")
        def scaled(s):
            return attngen.softmax(s * factor, over="n")

        return scaled

    assert make(2.0).cascade == make(3.0).cascade


def test_parameters_with_defaults_are_captured() -> None:
    @cascade(s="m n")
    def scaled(s, factor=2.0):
        return s * factor

    assert steps(scaled)[:2] == ["cascade(s[m,n]; factor: float)", "o[m,n] = s[m,n] * factor"]


def einsum_of(subscripts: str):
    return lambda q, k: attngen.einsum(subscripts, q, k)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (lambda q, k: attngen.sum(q, over="n"), AxisError),
        (lambda q, k: attngen.softmax(q, over="z"), AxisError),
        (lambda q, k: attngen.index("z") + q, AxisError),
        (lambda q, k: attngen.extent("z") * q, AxisError),
        (lambda q, k: WEIGHTS * q, AxisError),
        (lambda q, k: attngen.index("m m") * q, AxisError),
        (lambda q, k: attngen.index("1m") * q, AxisError),
        (lambda q, k: attngen.index("m,n") * q, AxisError),
        (einsum_of("m n, n d -> m n"), AxisError),
        (einsum_of("m, n d -> m n"), AxisError),
        (einsum_of("m d, n d -> m z"), AxisError),
        (einsum_of("m d, n d"), SpecError),
        (einsum_of("m d -> m"), SpecError),
        (lambda q, k: attngen.einsum("m d, m d e -> m", q, WEIGHTS), AxisError),
        (lambda q, k: attngen.sum(q, "d", name="q"), SpecError),
        (lambda q, k: attngen.sum(q, "d", name="sum"), SpecError),
        (lambda q, k: attngen.sum(3.0, "d"), SpecError),
        (lambda q, k: q * attngen.causal("m", "n"), SpecError),
        (lambda q, k: q * attngen.causal("m", "n", align="left"), SpecError),  # type: ignore[arg-type]
        (lambda q, k: q.sum(-1), ReductionInMod),
        (lambda q, k: q if q > 0 else k, DataDependentBranch),
        (lambda q, k: None, ModReturn),
        (lambda q, k: (), ModReturn),
        (lambda q, k: 3.0, ModReturn),
        (lambda q, k: (q, "k"), ModReturn),
        (lambda q, k: {1: q}, ModReturn),
    ],
)
def test_refused(body, error: type[AttngenError]) -> None:
    with pytest.raises(error) as raised:
        cascade(q="m d", k="n d")(body)
    assert raised.value.loc is not None and raised.value.loc.filename == __file__
    assert raised.value.remedy


@pytest.mark.parametrize(
    "signature",
    [
        {"q": "m d"},
        {"q": "m d", "k": "n d", "v": "n e"},
        {"q": "m m", "k": "n d"},
        {"q": "m (d", "k": "n d"},
        {"q": "m ()", "k": "n d"},
        {"q": "m-d", "k": "n d"},
        {"q": "m k", "k": "n d"},
        {"q": "m for", "k": "n d"},
        {"q": "m exp", "k": "n d"},
        {"q": "m d: complex", "k": "n d"},
    ],
)
def test_illegal_signatures(signature: dict[str, str]) -> None:
    with pytest.raises(SpecError):
        cascade(**signature)(lambda q, k: q)
