"""Captured numbers become run-time scalars, captured tensors inputs, whichever way Python captured them."""

from __future__ import annotations

import enum
import functools
import math

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import and_masks, or_masks

from attngen.errors import CaptureError, DataDependentBranch, RandomInMod, TracedConversion, TracedMutation, UnsupportedOperation
from attngen.frontend.attention import attention
from attngen.frontend.spec import Spec

WINDOW = 17
TABLE = torch.arange(12.0).reshape(3, 4)
NEG_INF = float("-inf")


@functools.cache
def cached(number: int) -> int:
    return number + 1


def predicate(spec: Spec) -> str:
    return next(line for line in str(spec.cascade).splitlines() if line.startswith("  x[")).partition("  if ")[2]


def score(spec: Spec) -> str:
    line = next(line for line in str(spec.cascade).splitlines() if line.startswith("  x["))
    return line.partition(" = ")[2].partition("  if ")[0].replace("s[b,g,r,m,n] * extent(d) ** -0.5", "s").replace("g * extent(r) + r", "h")


def captures(spec: Spec) -> dict[str, object]:
    return {capture.name: capture.value for capture in spec.captures}


def test_global_closure_default_and_partial() -> None:
    def make(window: int):
        return lambda b, h, q, k: q - k < window

    def with_default(b, h, q, k, window=17):
        return q - k < window

    def with_keyword(b, h, q, k, *, window):
        return q - k < window

    partial = functools.partial(with_keyword, window=17)
    for mod in (make(17), with_default, partial):
        spec = attention(mask_mod=mod)
        assert predicate(spec) == "m - n < window"
        assert captures(spec) == {"window": 17}
        assert "window: int)" in str(spec.cascade)
    spec = attention(mask_mod=lambda b, h, q, k: q - k < WINDOW)
    assert captures(spec) == {"WINDOW": 17}


def test_two_values_of_one_capture_give_equal_cascades() -> None:
    def make(window: int, slope: float):
        return attention(lambda s, b, h, q, k: s + slope * (q - k), lambda b, h, q, k: q - k < window)

    first, second = make(128, 0.5), make(256, 0.25)
    assert first.cascade == second.cascade
    assert captures(first) == {"slope": torch.tensor(0.5, dtype=torch.float64), "window": 128}
    assert first.captures[0].value.dtype == torch.float64
    assert {item.name: (item.kind, item.number, item.by_value) for item in first.cascade.inputs if item.axes is None} == {
        "slope": ("float", True, False),
        "window": ("int", True, True),
    }


def test_nested_functions_and_mask_combinators() -> None:
    def make(width: int):
        def halves(index):
            return index // width, index % width

        def mod(b, h, q, k):
            (a, c), (d, e) = halves(q), halves(k)
            return (a == d) & (c >= e)

        return mod

    assert predicate(attention(mask_mod=make(4))) == "m // width == n // width and m % width >= n % width"
    combined = or_masks(and_masks(lambda b, h, q, k: q >= k, lambda b, h, q, k: q - k < WINDOW), lambda b, h, q, k: k < 4)
    assert predicate(attention(mask_mod=combined)) == "m >= n and m - n < WINDOW or n < 4"


def test_bound_methods_callable_objects_and_modules() -> None:
    class Window:
        def __init__(self, size: int) -> None:
            self.size = size
            self.slopes = TABLE[0]

        def mask(self, b, h, q, k):
            return q - k < self.size

        def __call__(self, score, b, h, q, k):
            return score + self.slopes[h] * self.size

    class Bias(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))
            self.factor = 2.0

        def forward(self, score, b, h, q, k):
            return score + self.weight[h] * self.factor

    window = Window(9)
    spec = attention(window, window.mask)
    assert (score(spec), predicate(spec)) == ("s + slopes[h] * size", "m - n < size")
    assert captures(spec)["size"] == 9
    assert window.size == 9
    bias = Bias()
    spec = attention(bias)
    assert score(spec) == "s + weight[h] * factor"
    assert captures(spec)["weight"] is bias.weight


def test_a_function_that_calls_itself() -> None:
    offset = 3

    def nested(index, depth):
        return index if depth == 0 else nested(index + offset, depth - 1)

    spec = attention(mask_mod=lambda b, h, q, k: nested(q, 2) >= k)
    assert predicate(spec) == "m + offset + offset >= n"


def test_decorated_functions_enumerations_and_captured_activations() -> None:
    class Size(enum.IntEnum):
        SMALL = 3

    activation, half = torch.nn.GELU(), functools.partial(torch.nn.functional.gelu, approximate="tanh")
    plain = torch.no_grad()(lambda s, b, h, q, k: activation(s) + half(s) + WINDOW + Size.SMALL)
    assert score(attention(plain)) == "gelu(s) + gelu_tanh(s) + WINDOW + 3"


def test_literals_stay_constants() -> None:
    assert predicate(attention(mask_mod=lambda b, h, q, k: q - k < 128)) == "m - n < 128"


def test_infinities_stay_constants() -> None:
    assert predicate(attention(lambda s, b, h, q, k: torch.where(q >= k, s, NEG_INF))) == "m >= n"


def test_a_number_that_python_needs_is_baked_in_alone() -> None:
    terms, weight, causal = 3, 0.5, True

    def mod(score, b, h, q, k):
        for power in range(terms):
            score = score + weight * power
        return score if causal else score * 2.0

    spec = attention(mod)
    assert score(spec) == "s + weight + weight * 2"
    assert captures(spec) == {"weight": torch.tensor(0.5, dtype=torch.float64)}


@pytest.mark.parametrize(
    "use",
    [
        lambda s, n: s * math.sqrt(n),
        lambda s, n: s * [1.0, 2.0, 3.0, 4.0, 5.0][n],
        lambda s, n: s * float(n),
        lambda s, n: s * (2**n),
        lambda s, n: s * {4: 2.0}[n],
        lambda s, n: s * max(n, 2),
        lambda s, n: s * round(n),
        lambda s, n: s * torch.tensor([n, 1]).float()[0],
        lambda s, n: s if isinstance(n, int) and n > 0 else None,
        lambda s, n: s * np.sqrt(int(n)),
        lambda s, n: s * math.floor(n / 3),
        lambda s, n: s * torch.arange(n)[0],
        lambda s, n: s + torch.full((n,), 1.0)[0],
        lambda s, n: s + cached(n),
    ],
)
def test_ways_to_need_a_number(use) -> None:
    number = 4
    assert "number" not in captures(attention(lambda s, b, h, q, k: use(s, number)))


def test_a_number_may_be_used_in_any_arithmetic() -> None:
    size = 4
    spec = attention(lambda s, b, h, q, k: s * (2.0**size) + (size << 1) + size // 3 + -size + divmod(size, 3)[1])
    assert captures(spec) == {"size": 4}


def test_numbers_beyond_64_bits_and_numpy_scalars() -> None:
    huge, scalar = 2**70, np.float32(0.5)
    spec = attention(lambda s, b, h, q, k: s * scalar + huge)
    assert list(captures(spec)) == ["scalar"]


def test_one_tensor_under_two_names_is_one_capture() -> None:
    table = TABLE
    spec = attention(lambda s, b, h, q, k: s + table[h, 0] + TABLE[h, 1])
    assert score(spec) == "s + table[h,0] + table[h,1]"


def test_names_are_cleaned_and_never_collide() -> None:
    def make(tensor, other, sum, _x):  # names of an axis, a step and a reduction among them
        q, lse, é = tensor, other, torch.ones(3)
        return lambda s, b, h, m, n: s + q[h] + lse[h] + é[h] + sum[h] + _x[h]

    names = list(captures(attention(make(*(torch.ones(3) for _ in range(4))))))
    assert len(set(names)) == 5
    assert not set(names) & {"q", "lse", "x", "sum", "s"}
    assert all(name.isascii() and name.isidentifier() for name in names)


def test_zero_dimensional_tensors_are_read() -> None:
    cap = torch.tensor(30.0)
    assert score(attention(lambda s, b, h, q, k: cap * torch.tanh(s / cap))) == "cap * tanh_small(s / cap)"
    assert score(attention(lambda s, b, h, q, k: -cap + s)) == "s - cap"


def test_computed_nested_chained_and_mixed_indices() -> None:
    bias, distance, table = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int32), torch.zeros(3, 9)
    assert score(attention(lambda s, b, h, q, k: s + bias[b, h, q, k])) == "s + bias[b,h,m,n]"
    assert score(attention(lambda s, b, h, q, k: s + bias[b][h][q][k])) == "s + bias[b,h,m,n]"
    assert score(attention(lambda s, b, h, q, k: s + bias[b, :, q][h, k])) == "s + bias[b,h,m,n]"
    assert score(attention(lambda s, b, h, q, k: s + bias[..., k][b, h, q])) == "s + bias[b,h,m,n]"
    assert score(attention(lambda s, b, h, q, k: s + bias[0, h, q // 2, k + 1])) == "s + bias[0,h,m // 2,n + 1]"
    assert score(attention(lambda s, b, h, q, k: s + table[h, distance[b, q, k]])) == "s + table[h,distance[b,m,n]]"
    assert score(attention(lambda s, b, h, q, k: s + table[h, (q - k).abs().clamp(max=8)])) == "s + table[h,min(abs(m - n), 8)]"
    assert score(attention(lambda s, b, h, q, k: s + table[-1, q])) == "s + table[2,m]"
    assert score(attention(lambda s, b, h, q, k: s + table[:, 2:][h, q])) == "s + table[h,m + 2]"


def test_a_negative_captured_position_counts_from_the_end() -> None:
    layer, table = -1, torch.zeros(3, 9)
    assert score(attention(lambda s, b, h, q, k: s + table[layer, q])) == "s + table[2,m]"


def test_arithmetic_of_captured_tensors_follows_their_values() -> None:
    slopes = torch.nn.Parameter(torch.ones(4))
    flags = torch.ones(4, dtype=torch.bool)
    assert score(attention(lambda s, b, h, q, k: s + (1 - slopes)[h] + (2.0**slopes)[h])) == "s + (1 - slopes[h]) + 2.0 ** slopes[h]"
    assert predicate(attention(mask_mod=lambda b, h, q, k: (~flags | (slopes > 0.5))[h])).startswith("not flags[")
    assert score(attention(lambda s, b, h, q, k: s + (2 * slopes)[h] * torch.exp(slopes)[h])) == "s + slopes[h] * 2 * exp(slopes[h])"


def test_copies_and_casts_of_captured_tensors_follow_their_values() -> None:
    table, flags = torch.nn.Parameter(torch.zeros(3, 9)), torch.ones(9, dtype=torch.int32)
    spec = attention(lambda s, b, h, q, k: s + table.clone()[h, q] + table.to(torch.float64)[h, k], lambda b, h, q, k: flags.bool()[k])
    assert score(spec) == "s + table[h,m] + table[h,n]"
    assert predicate(spec) == "flags[n] != 0"
    assert captures(spec)["table"] is table


def test_positional_arguments_of_a_partial_keep_their_names() -> None:
    def weighted(weight, table, s, b, h, q, k):
        return s * weight + table[h]

    assert score(attention(functools.partial(weighted, 2.5, torch.ones(4)))) == "s * weight + table[h]"


def test_views_of_captured_tensors() -> None:
    table = torch.zeros(3, 9)
    spec = attention(lambda s, b, h, q, k: s + table.T[q, h])
    assert [capture.value.data_ptr() for capture in spec.captures] == [table.data_ptr()]


def test_constants_made_inside_are_captured() -> None:
    def mod(score, b, h, q, k):
        slopes = torch.exp2(-torch.arange(1.0, 9.0))
        return score + slopes[h]

    spec = attention(mod)
    assert score(spec) == "s + slopes[h]"
    assert torch.equal(spec.captures[0].value, torch.exp2(-torch.arange(1.0, 9.0)))


def test_rows_broadcast_contract_and_unroll() -> None:
    rows, keys, short = torch.zeros(2, 4, 32), torch.zeros(2, 4, 32), torch.zeros(6, 3, dtype=torch.int32)
    spec = attention(lambda s, b, h, q, k: s + torch.dot(rows[b, q], keys[b, k]))
    assert "  dot[b,m,n] = sum[f] rows[b,m,f] * keys[b,n,f]\n" in str(spec.cascade)
    assert score(spec) == "s + dot[b,m,n]"
    for contraction in (lambda b, q, k: rows[b, q] @ keys[b, k], lambda b, q, k: (rows[b, q] * keys[b, k]).sum(-1)):
        assert attention(lambda s, b, h, q, k: s + contraction(b, q, k)).cascade == spec.cascade  # noqa: B023
    assert predicate(attention(mask_mod=lambda b, h, q, k: (short[q] == k.unsqueeze(-1)).any(-1))) == (
        "short[m,0] == n or short[m,1] == n or short[m,2] == n"
    )
    assert (
        predicate(attention(mask_mod=lambda b, h, q, k: (short[q] < k).all(dim=-1)))
        == "short[m,0] < n and short[m,1] < n and short[m,2] < n"
    )
    assert score(attention(lambda s, b, h, q, k: s + short[q].sum())) == "s + (short[m,0] + short[m,1] + short[m,2])"


def test_short_rows_unpack() -> None:
    bounds = torch.zeros(6, 2, dtype=torch.int32)

    def mod(b, h, q, k):
        low, high = bounds[q]
        return (k >= low) & (k < high)

    assert predicate(attention(mask_mod=mod)) == "n >= bounds[m,0] and n < bounds[m,1]"


@pytest.mark.parametrize(
    ("mod", "error"),
    [
        (lambda s, b, h, q, k: s + TABLE[h, q, k], CaptureError),
        (lambda s, b, h, q, k: s + TABLE[s, q], CaptureError),
        (lambda s, b, h, q, k: s + TABLE[q > k, q], CaptureError),
        (lambda s, b, h, q, k: s + TABLE[3, q], CaptureError),
        (lambda s, b, h, q, k: s + torch.dot(TABLE[h], TABLE[:, 0]), CaptureError),
        (lambda s, b, h, q, k: s + torch.zeros(3, dtype=torch.complex64)[h], CaptureError),
        (lambda s, b, h, q, k: s + TABLE.cumsum(0)[h, q], UnsupportedOperation),
        (lambda s, b, h, q, k: s + TABLE.sum(), UnsupportedOperation),
        (lambda s, b, h, q, k: s * TABLE[0, 0].item(), TracedConversion),
        (lambda s, b, h, q, k: s * TABLE.tolist()[0][0], TracedConversion),
        (lambda s, b, h, q, k: s * TABLE.numpy()[0, 0], TracedConversion),
        (lambda s, b, h, q, k: s if TABLE[0, 0] > 0 else s * 2, DataDependentBranch),
        (lambda s, b, h, q, k: s * np.random.rand(), RandomInMod),
        (lambda s, b, h, q, k: s + TABLE.add_(1.0)[h, q], TracedMutation),
        (lambda s, b, h, q, k: s + torch.add(TABLE, 1.0, out=TABLE)[h, q], TracedMutation),
    ],
)
def test_refused(mod, error) -> None:
    with pytest.raises(error) as raised:
        attention(mod)
    assert raised.value.loc is not None
    assert raised.value.loc.filename == __file__
    assert raised.value.remedy


def test_names_of_bounds_are_left_to_them() -> None:
    """`first` and `last` are positions of a tile, `first_m` one in a kernel, `least_ends` what its bounds read of `ends`."""
    first, last, first_m, last_n, least_ends, ends = 5, 3, 7, 8, 9, torch.arange(8)
    spec = attention(mask_mod=lambda b, h, q, k: (k < first) & (k > last) & (q < first_m) & (q < last_n) & (k < ends[q]) & (k < least_ends))
    assert not {"first", "last", "first_m", "last_n", "least_ends"} & captures(spec).keys()
