"""Variants with every kind of mask, and values for their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attngen.ir.cascade import Cascade
from attngen.ir.parser import parse
from tests import variants

_SCORES = "  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]\n"
_SOFTMAX = """  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
  o[b,g,r,m,e] = sum[n] p[b,g,r,m,n] * v[b,g,n,e]
  -> o, lse"""


def masked(predicate: str, captures: str = "") -> str:
    """Softmax attention over the pairs for which a predicate holds."""
    head = f"cascade(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]{'; ' if captures else ''}{captures})\n"
    return f"{head}{_SCORES}  x[b,g,r,m,n] = s[b,g,r,m,n] * extent(d) ** -0.5  if {predicate}\n{_SOFTMAX}"


MASKS = {
    "causal": masked("m >= n"),
    "causal_bottom_right": masked("m + extent(n) - extent(m) >= n"),
    "window": masked("m >= n and m - n < width", "width: int"),
    "two_sided_window": masked("abs(m - n) <= width", "width: int"),
    "prefix": masked("n < prefix or m >= n", "prefix: int[]"),
    "lengths": masked("n < lengths[b] and m < lengths[b] + 20", "lengths: int[:]"),
    "documents": masked("document[b,m] == document[b,n] and m >= n", "document: int[:, :]"),
    "scattered_documents": masked("scattered[b,m] == scattered[b,n]", "scattered: int[:, :]"),
    "row_ends": masked("n < ends[m] and n >= ends[m] - 40", "ends: int[:]"),
    "multiples": masked("m >= n or m * n % 7 == 1"),
    "dilated": masked("(m - n) % 3 != 1 and n // 16 <= m // 8"),
    "blocks": masked("(m - n) // 16 <= 2 and (n - m) // 7 != 0"),
    "first_and_last": masked("m >= n and (n < 4 or m - n < 12)"),
    "skipping": masked("abs(m - n - 20) > 12 and abs(m - n + 20) > 12"),
    "outside": masked("not (m < n and n - m > 20)"),
    "half_rate": masked("n <= 2 * m + 3 and 3 * n >= m - 20"),
    "up_to_a_third": masked("3 * n <= m + 65"),
    "from_a_third": masked("3 * n >= m + 61"),
    "strict": masked("m > n"),
    "nothing": masked("n < 0 * extent(n)"),
}
"""Softmax attention under masks: with closed ranges, with ranges read from memory, and opaque ones."""

_DIFFERENCE = """  p[b,h,m,n] = p1[b,h,m,n] - lam[h] * p2[b,h,m,n]
  o[b,h,m,e] = sum[n] p[b,h,m,n] * v[b,h,n,e]
"""
MORE = {
    "sigmoid_causal": variants.SIGMOID.replace("* 0.25)", "* 0.25)  if m >= n", 1),
    "relu_window": variants.RELU.replace("relu(s[b,g,r,m,n])", "relu(s[b,g,r,m,n])  if abs(m - n) <= 9", 1),
    "entropy_causal": variants.ENTROPY.replace("* 0.25", "* 0.25  if m >= n", 1),
    "sink_prefix": variants.SINK.replace("* 0.25", "* 0.25  if n < 5 or m >= n", 1),
    "two_masks": variants.DIFFERENTIAL.replace("-0.5\n  lse1", "-0.5  if m >= n\n  lse1")
    .replace("-0.5\n  lse2", "-0.5  if abs(m - n) <= 9\n  lse2")
    .replace(
        _DIFFERENCE,
        """  o1[b,h,m,e] = sum[n] p1[b,h,m,n] * v[b,h,n,e]
  o2[b,h,m,e] = sum[n] p2[b,h,m,n] * v[b,h,n,e]
  o[b,h,m,e] = o1[b,h,m,e] - lam[h] * o2[b,h,m,e]
""",
    ),
    "every_other_value": variants.SOFTMAX.replace("* 0.25", "* 0.25  if m >= n", 1).replace("v[b,g,n,e]\n", "v[b,g,n,e]  if n % 2 == 0\n"),
    "scores_of_some": variants.SOFTMAX.replace("k[b,g,n,d]\n", "k[b,g,n,d]  if m >= n\n", 1),
    "two_masks_of_sums": variants.RELU.replace("sum[n] a[b,g,r,m,n]\n", "sum[n] a[b,g,r,m,n]  if abs(m - n) <= 9\n").replace(
        "* v[b,g,n,e]\n", "* v[b,g,n,e]  if m >= n\n"
    ),
    "reciprocal": masked("m > n")
    .replace("  o[", "  c[m,n] = 1.0 / (m - n)  if m > n\n  o[")
    .replace("p[b,g,r,m,n] * v", "p[b,g,r,m,n] * c[m,n] * v"),
    "relative": variants.SOFTMAX.replace("* 0.25", "* 0.25 + near[m - n]  if m >= n", 1).replace("e])", "e]; near: float[:])", 1),
    "table_twice": variants.SOFTMAX.replace("* 0.25", "* 0.25 + table[m - n + extent(n)] * 0.5 + table[n // 8]", 1).replace(
        "e])", "e]; table: float[:])", 1
    ),
    "flat": variants.SOFTMAX.replace("* 0.25", "* 0.25 + flat[m * extent(n) + n]", 1).replace("e])", "e]; flat: float[:])", 1),
    "softcap": variants.SOFTMAX.replace("s[b,g,r,m,n] * 0.25", "5.0 * tanh(s[b,g,r,m,n] * 0.25 / 5.0)", 1),
    "dropout": masked("m >= n", "seed: int[]")
    .replace(
        "  o[",
        "  keep[b,g,r,m,n] = where(random_bits(seed, (b * extent(g) + g) * extent(r) + r, m, n) >= 644245094, 1.4285714285714286, 0.0)\n"
        "  o[",
    )
    .replace("* v[", "* keep[b,g,r,m,n] * v["),
    "factors": masked("m >= n", "row: float[:, :], col: float[:, :]").replace(
        "-0.5", "-0.5 * sigmoid(row[b,m]) * (col[b,n] + row[b,m])", 1
    ),
    "low_rank": masked("m >= n", "phi: float[:, :, :], psi: float[:, :]")
    .replace("  x[", "  t[g,r,m,n] = sum[f] phi[g * extent(r) + r,m,f] * psi[n,f]\n  x[")
    .replace("-0.5", "-0.5 + t[g,r,m,n]", 1),
    "branches": masked("abs(m - n) < 60")
    .replace("v[b,g,n,e])", "v[b,g,n,e], q2[b,g,r,m,d], k2[b,n,d])")
    .replace("  x[", "  s2[b,g,r,m,n] = sum[d] q2[b,g,r,m,d] * k2[b,n,d]\n  x[")
    .replace("= s[b,g,r,m,n] * extent(d) ** -0.5", "= where(m - n < 7, s[b,g,r,m,n], s2[b,g,r,m,n] * 0.5) * extent(d) ** -0.5", 1),
}
"""Other normalisations under masks."""

ALL = {**variants.ALL, **MASKS, **MORE}
_PLAIN_ENTROPY = "-(p[b,g,r,m,n] * log(p[b,g,r,m,n]))"
_SAFE_ENTROPY = "p[b,g,r,m,n] * (lse[b,g,r,m] - x[b,g,r,m,n])"


def oracle(cascade: Cascade) -> Cascade:
    """An equal cascade that the reference can evaluate at any score: p * log(p) is NaN once p underflows."""
    return parse(str(cascade).replace(_PLAIN_ENTROPY, _SAFE_ENTROPY))


@dataclass(frozen=True)
class Sizes:
    """Lengths of all axes; `h` stands for g * r of variants without grouped heads."""

    b: int = 2
    g: int = 2
    r: int = 2
    m: int = 70
    n: int = 100
    d: int = 16
    e: int = 32

    def axis(self, name: str) -> int:
        return self.g * self.r if name == "h" else int(getattr(self, name))


@dataclass(frozen=True)
class Case:
    """Values and cotangents of one variant at one size."""

    cascade: Cascade
    values: dict[str, Any]
    cotangents: dict[str, Tensor] = field(default_factory=dict)

    def to(self, dtype: torch.dtype) -> Case:
        """The same numbers rounded to `dtype`."""

        def convert(value: Any) -> Any:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        return Case(self.cascade, {k: convert(v) for k, v in self.values.items()}, {k: convert(v) for k, v in self.cotangents.items()})


def case(
    variant: str | Cascade, sizes: Sizes = Sizes(), *, seed: int = 0, scale: float = 1.0, overrides: Mapping[str, Any] | None = None
) -> Case:
    """N(0, 1) values for every input of a variant and every cotangent, in float64.

    Args:
        variant: a name in `ALL`, or a cascade.
        scale: multiplies queries, so that scores grow with it.
        overrides: values by name that replace the made ones.
    """
    cascade = parse(ALL[variant]) if isinstance(variant, str) else variant
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values: dict[str, Any] = {}
    for item in cascade.inputs:
        if item.axes is not None:
            values[item.name] = normal(*(sizes.axis(axis) for axis in item.axes)) * (scale if item.name.startswith("q") else 1.0)
        elif item.name not in (overrides or {}):
            values[item.name] = _capture(item.name, sizes, normal)
    values.update(overrides or {})
    cotangents = {name: normal(*(sizes.axis(axis) for axis in cascade.axes(name))) for name in cascade.outputs}
    return Case(cascade, values, cotangents)


def _capture(name: str, sizes: Sizes, normal: Any) -> Any:
    heads = sizes.g * sizes.r
    match name:
        case "slopes":
            return torch.exp2(-torch.arange(1, heads + 1, dtype=torch.float64))
        case "sink":
            return normal(heads)
        case "bias":
            return normal(heads, sizes.m, sizes.n)
        case "table":
            return normal(sizes.m + sizes.n)
        case "flat":
            return normal(sizes.m * sizes.n)
        case "near":
            return normal(sizes.m)
        case "col":
            return normal(sizes.b, sizes.n)
        case "row":
            return normal(sizes.b, sizes.m)
        case "temp":
            return normal().reshape(())
        case "phi":
            return normal(heads, sizes.m, 5)
        case "psi":
            return normal(sizes.n, 5)
        case "seed":
            return torch.tensor(-(2**40) - 7)
        case "width":
            return 17
        case "prefix":
            return torch.tensor(9)
        case "lengths":
            return torch.tensor([(sizes.n * 2 // 3, sizes.n, 0)[i % 3] for i in range(sizes.b)])
        case "document":
            longest = max(sizes.m, sizes.n)
            return torch.arange(longest).expand(sizes.b, longest) // 13
        case "scattered":
            longest = max(sizes.m, sizes.n)
            return (torch.arange(longest) * 7 // 16 % 4).expand(sizes.b, longest).clone()
        case "ends":
            return torch.arange(sizes.m) * sizes.n // max(sizes.m, 1) + 5
        case _:
            raise KeyError(name)
