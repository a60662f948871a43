"""What is not there does not count: positions behind the end of a tile, keys that a mask takes away by themselves, rows without keys.

Random variants whose right sides are no numbers at 0 (`v / z`, `log z`, lengths of vectors), under masks that leave garbage in the memory
of keys, and with cotangents that are NaN or infinite in rows without keys. Outputs and every gradient are those of the float64 reference
with ordinary numbers there; gradients of what is not there are 0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import attngen
from attngen.emit.kernel_text import statements
from attngen.emit.placement import MASKED, shapes
from attngen.interpreter.torch_reference import reference
from attngen.ir.parser import parse
from attngen.ir.printer import print_expr
from attngen.kernel.masked_out import project_mask, projected_mask, row_count
from attngen.pipeline import analyse, fused
from tests.kernels import cases, harness

_PRODUCT = "  s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]\n"
SCORES = {
    "plain": _PRODUCT + "  t[b,g,r,m,n] = s[b,g,r,m,n] * 0.25\n",
    "divided": _PRODUCT + "  t[b,g,r,m,n] = s[b,g,r,m,n] / z[b,g,n]\n",
    "log": _PRODUCT + "  t[b,g,r,m,n] = s[b,g,r,m,n] * 0.25 + log(z[b,g,n])\n",
    "softcap": _PRODUCT + "  t[b,g,r,m,n] = 5.0 * tanh(s[b,g,r,m,n] * 0.05)\n",
    "cosine": """  kn[b,g,n,d] = k[b,g,n,d] / kl[b,g,n]
  qn[b,g,r,m,d] = q[b,g,r,m,d] / ql[b,g,r,m]
  s[b,g,r,m,n] = sum[d] qn[b,g,r,m,d] * kn[b,g,n,d]
  t[b,g,r,m,n] = s[b,g,r,m,n] * 2.0
""",
}
WEIGHTS = {
    "softmax": """  x[b,g,r,m,n] = t[b,g,r,m,n]@
  lse[b,g,r,m] = logsumexp[n] x[b,g,r,m,n]
  p[b,g,r,m,n] = exp(x[b,g,r,m,n] - lse[b,g,r,m])
""",
    "sigmoid": "  p[b,g,r,m,n] = sigmoid(t[b,g,r,m,n])@\n",
    "linear": "  p[b,g,r,m,n] = t[b,g,r,m,n]@\n",
    "square": "  p[b,g,r,m,n] = t[b,g,r,m,n] * t[b,g,r,m,n]@\n",
    "normalised": """  p0[b,g,r,m,n] = sigmoid(t[b,g,r,m,n])@
  l[b,g,r,m] = sum[n] p0[b,g,r,m,n]
  p[b,g,r,m,n] = safe_div(p0[b,g,r,m,n], l[b,g,r,m])
""",
}
VALUES = {
    "v": "",
    "k": "k[b,g,n,d]",
    "divided": "v[b,g,n,e] / z[b,g,n]",
    "log": "v[b,g,n,e] * log(z[b,g,n])",
    "rsqrt": "v[b,g,n,e] * rsqrt(z[b,g,n])",
    "sqrt": "v[b,g,n,e] * sqrt(z[b,g,n])",
    "length": "v[b,g,n,e] / kl[b,g,n]",
    "epsilon": "v[b,g,n,e] / (z[b,g,n] + 0.001)",
}
RESULTS = {
    "plain": "u[b,g,r,m,*]",
    "divided": "u[b,g,r,m,*] / y[b,g,r,m]",
    "log": "u[b,g,r,m,*] * log(y[b,g,r,m])",
    "length": "u[b,g,r,m,*] / ql[b,g,r,m]",
}
_LENGTH = "  {0}{0}[b,g,{1}] = sum[d] {0}[b,g,{1},d] * {0}[b,g,{1},d]\n  {0}l[b,g,{1}] = sqrt({0}{0}[b,g,{1}])\n"
MASKS = {
    "": "",
    "n < lengths[b]": "n < lengths[b]",
    "n < lengths[b] and m >= n": "n < lengths[b]",
    "not (n >= lengths[b] or m < n)": "n < lengths[b]",
    "(m >= n or n < 9) and n < lengths[b]": "n < lengths[b]",
    "n >= starts[b] and n < lengths[b]": "n >= starts[b] and n < lengths[b]",
    "kept[b,n]": "kept[b,n]",
    "kept[b,n] and abs(m - n) <= 9": "kept[b,n]",
    "n < lengths[b] and m < lengths[b]": "n < lengths[b]",
    "n % 3 != 1 and m >= n": "n % 3 != 1",
    "n < 13 and m - n > 3": "n < 13",
    "document[b,m] == document[b,n] and n < lengths[b]": "n < lengths[b]",
    "m - n > 3": "",
    "n - m > 3": "",
    "m >= n and m - n < width": "",
    "m + extent(n) - extent(m) >= n": "",
}
"""Masks, and what they ask of keys by themselves."""
ROWS = {"n < lengths[b] and m < lengths[b]": "m < lengths[b]"}
"""What they ask of queries."""
CAPTURES = {
    "lengths": "lengths: int[:]",
    "starts": "starts: int[:]",
    "kept": "kept: bool[:, :]",
    "width": "width: int",
    "document": "document: int[:, :]",
}


@dataclass(frozen=True)
class Variant:
    """Scores, weights, values, results and a mask, by name."""

    scores: str
    weights: str
    values: str
    results: str
    mask: str

    def text(self) -> str:
        """As a cascade."""
        feature = "d" if self.values == "k" else "e"
        body = SCORES[self.scores] + WEIGHTS[self.weights].replace("@", f"  if {self.mask}" if self.mask else "")
        right = "v[b,g,n,e]" if self.values == "v" else VALUES[self.values]
        if self.values not in ("v", "k"):
            body, right = f"{body}  vz[b,g,n,e] = {right}\n", "vz[b,g,n,e]"
        body += f"  u[b,g,r,m,{feature}] = sum[n] p[b,g,r,m,n] * {right}\n"
        body += f"  o[b,g,r,m,{feature}] = {RESULTS[self.results].replace('*', feature, 1)}\n"
        body = "".join(_LENGTH.format(name, at) for name, at in (("k", "n"), ("q", "r,m")) if f"{name}l[" in body) + body
        inputs = ["q[b,g,r,m,d]", "k[b,g,n,d]", *(["v[b,g,n,e]"] if self.values != "k" else [])]
        inputs += [item for item in ("z[b,g,n]", "y[b,g,r,m]") if f" {item}" in body or f"({item}" in body]
        captures = [text for name, text in CAPTURES.items() if name in self.mask]
        return f"cascade({', '.join(inputs)}{'; ' if captures else ''}{', '.join(captures)})\n{body}  -> {self.outputs}"

    @property
    def outputs(self) -> str:
        return "o, lse" if self.weights == "softmax" else "o"


def held(predicate: str, sizes: cases.Sizes, captured: dict[str, Any]) -> Tensor:
    """Where a mask holds, [b,m,n]."""
    space = (sizes.b, sizes.m, sizes.n)
    if not predicate:
        return torch.ones(space, dtype=torch.bool)
    cascade = parse(f"cascade(a[b,m,n]; {', '.join(CAPTURES.values())})\n  c[b,m,n] = where({predicate}, 1.0, 0.0) * a[b,m,n]\n  -> c")
    return reference(cascade, {"a": torch.ones(space, dtype=torch.float64), **captured}, torch.float64)["c"] != 0


def problem(variant: Variant, sizes: cases.Sizes, seed: int, garbage: float) -> tuple[cases.Case, cases.Case]:
    """A case with garbage where nothing is, and the same with ordinary numbers there, whose cotangents are 0 in rows without keys."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(sizes.m, sizes.n)
    captured: dict[str, Any] = {
        "lengths": torch.tensor([sizes.n * 2 // 3, (0, 3, sizes.n)[seed % 3]]),
        "starts": torch.tensor([5, 0]),
        "kept": torch.rand(sizes.b, sizes.n, generator=generator) < 0.6,
        "width": 7,
        "document": torch.arange(longest).expand(sizes.b, longest) // 11,
    }
    pairs, keys = held(variant.mask, sizes, captured), held(MASKS[variant.mask], sizes, captured).any(1)
    rows = pairs.any(2)[:, None, None]
    numbers = {name: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5 for name, shape in _positive(sizes).items()}
    made = cases.case(parse(variant.text()), sizes, seed=seed, overrides=captured)
    values = {item.name: numbers.get(item.name, made.values[item.name]) for item in made.cascade.inputs}
    dirty, cotangents, quiet = dict(values), dict(made.cotangents), dict(made.cotangents)
    for name in {"k", "v", "z"} & set(values):
        gone = ~keys[:, None, :].expand(sizes.b, sizes.g, sizes.n)
        dirty[name] = torch.where(gone if name == "z" else gone[..., None], garbage, values[name])
    if variant.mask in ROWS and "ql[" not in str(made.cascade):
        dirty["q"] = torch.where(held(ROWS[variant.mask], sizes, captured).any(2)[:, None, None, :, None], values["q"], garbage)
    for name, value in cotangents.items():
        here = rows if value.dim() == 4 else rows[..., None]
        quiet[name] = torch.where(here, value, 0.0)
        # What multiplies a result of such a row has a gradient of 0 * NaN in PyTorch too.
        cotangents[name] = torch.where(here, value, garbage) if variant.results == "plain" else quiet[name]
    return cases.Case(made.cascade, dirty, cotangents), cases.Case(made.cascade, values, quiet)


def _positive(sizes: cases.Sizes) -> dict[str, tuple[int, ...]]:
    return {"z": (sizes.b, sizes.g, sizes.n), "y": (sizes.b, sizes.g, sizes.r, sizes.m)}


VARIANTS = st.builds(Variant, *map(st.sampled_from, (sorted(SCORES), sorted(WEIGHTS), sorted(VALUES), sorted(RESULTS), sorted(MASKS))))
LENGTHS = st.sampled_from([1, 17, 20, 27, 33, 40, 64])
SIZES = st.builds(
    cases.Sizes, st.just(2), st.just(1), st.integers(1, 2), LENGTHS, LENGTHS, st.sampled_from([8, 16]), st.sampled_from([8, 16])
)


@settings(max_examples=10)
@given(
    variant=VARIANTS,
    sizes=SIZES,
    seed=st.integers(0, 99),
    garbage=st.sampled_from([math.nan, math.inf, -math.inf]),
    blocks=st.tuples(*(st.sampled_from([16, 32]),) * 2),
    one_walk=st.booleans(),
)
@example(Variant("cosine", "softmax", "divided", "divided", ""), cases.Sizes(2, 1, 2, 20, 27, 16, 8), 0, math.nan, (16, 16), True)
@example(Variant("cosine", "square", "v", "plain", "kept[b,n]"), cases.Sizes(2, 1, 2, 20, 27, 16, 8), 1, math.nan, (16, 16), True)
@example(Variant("plain", "sigmoid", "v", "plain", "m - n > 3"), cases.Sizes(2, 1, 1, 20, 27, 16, 8), 2, math.inf, (16, 16), False)
@example(Variant("plain", "softmax", "v", "plain", "m >= n and m - n < width"), cases.Sizes(2, 1, 2, 40, 17), 3, math.nan, (16, 16), True)
@example(Variant("plain", "softmax", "log", "plain", "m - n > 3"), cases.Sizes(2, 1, 2, 33, 27), 4, math.nan, (16, 32), False)
@example(Variant("plain", "softmax", "epsilon", "plain", "kept[b,n]"), cases.Sizes(2, 1, 2, 20, 27, 16, 8), 5, math.nan, (16, 16), False)
@example(Variant("softcap", "sigmoid", "v", "plain", "n - m > 3"), cases.Sizes(2, 1, 1, 40, 27, 16, 8), 6, math.nan, (32, 16), False)
@example(Variant("plain", "square", "length", "plain", "n % 3 != 1 and m >= n"), cases.Sizes(2, 1, 1, 20, 20), 7, math.inf, (16, 16), True)
def test_what_is_not_there_does_not_count(variant, sizes, seed, garbage, blocks, one_walk):
    dirty, clean = problem(variant, sizes, seed, garbage)
    found = harness.run(dirty.cascade, dirty.values, dirty.cotangents, harness.tiles(*blocks), one_walk=one_walk)
    harness.exact_to(found, harness.expected(clean.cascade, clean.values, clean.cotangents), 1e-10)


@settings(max_examples=5)
@given(variant=VARIANTS, keys=st.sampled_from([20, 50, 90]), seed=st.integers(0, 99))
def test_programs_that_share_a_stream(variant, keys, seed):
    dirty, clean = problem(variant, cases.Sizes(2, 1, 2, 1, keys, 16, 16), seed, math.nan)
    found = harness.divided(dirty.cascade, dirty.values, harness.tiles(16, 16), 3)
    golden = harness.expected(clean.cascade, clean.values, clean.cotangents)
    harness.exact_to(found, harness.Results(golden.outputs, {}), 1e-10)


@pytest.mark.parametrize("form", [{"TMA": True}, {"PIPE": True, "TMA": True}, {"PIPE": True, "LATE": True}], ids=str)
@pytest.mark.parametrize("mask", ["n < lengths[b] and m >= n", "kept[b,n] and abs(m - n) <= 9", "m - n > 3"])
def test_descriptors_and_products_that_go_ahead(form, mask):
    """Descriptors fill with zeros behind the rows of a matrix, whatever lies there."""
    dirty, clean = problem(Variant("plain", "softmax", "v", "plain", mask), cases.Sizes(2, 1, 2, 40, 50, 16, 16), 0, math.nan)
    dirty, tile = dirty.to(torch.float32), harness.tiles(16, 16)
    tile |= {role: tile[role] | {"TMA": "TMA" in form} for role in ("backward_rows", "backward_columns")}
    tile["forward"] |= form
    found = harness.run(dirty.cascade, dirty.values, dirty.cotangents, tile)
    harness.exact_to(found, harness.expected(clean.cascade, clean.values, clean.cotangents), 1e-4)


@pytest.mark.parametrize("queries", [1, 3])
def test_few_queries_of_several_heads(queries):
    """Their rows are positions and heads, each with keys of its own; what no head sees may hold anything."""
    torch.manual_seed(0)
    lengths, past = torch.tensor([30, 25, 20, 28]), torch.tensor([11, 30])
    q, k, v = (torch.randn(2, heads, n, 16, dtype=torch.float64) for heads, n in ((4, queries), (2, 50), (2, 50)))
    j, i = torch.arange(50), torch.arange(queries)[:, None]
    masks = (
        (lambda b, h, m, n: n < lengths[h], (j < lengths[:, None])[None, :, None], j[None] < 30),
        (lambda b, h, m, n: n <= m + past[b], (j <= i + past[:, None, None])[:, None], j < past[:, None] + queries),
    )
    for mask, pairs, keys in masks:
        scores = (q @ k.repeat_interleave(2, 1).mT * 0.25).masked_fill(~pairs, -torch.inf)
        golden = scores.softmax(-1) @ v.repeat_interleave(2, 1)
        dirty = (torch.where(keys.expand(2, 50)[:, None, :, None], x, math.nan) for x in (k, v))
        found = attngen.compile(attngen.attention(mask_mod=mask), arch="sm90")(q, *dirty)
        torch.testing.assert_close(found, golden, atol=1e-12, rtol=1e-12)


# ---- where it costs nothing


@pytest.mark.parametrize("weights", sorted(WEIGHTS))
@pytest.mark.parametrize("mask", sorted(MASKS))
def test_full_tiles_look_for_nothing(weights, mask):
    """What clears a tile of the stream stands under masks alone, or before the stream."""
    program = analyse(parse(Variant("plain", weights, "v", "plain", mask).text()))
    other = fused(program)
    assert other is not None
    for facts in (*program.facts, *other.facts):
        tile = statements(facts, shapes(frozenset(), (), ())).writer.sections.tile
        looks = [i for i, (code, _) in enumerate(tile) if re.search(r"kept_|seen_|SILENT", code)]
        for i in looks:
            head = next(code for code, _ in reversed(tile[: i + 1]) if not code.startswith(" "))
            assert tile[i][1] == MASKED or head == "if segment != 0 and SILENT:"
        assert mask or not looks, "without a mask rows have keys, and keys rows"


@pytest.mark.parametrize("mask", ["", "m >= n", "n < 5 or m >= n", "n < lengths[b] and m >= n", "n < lengths[b]"])
def test_masks_that_leave_no_row_without_keys(mask):
    """Or all rows of a head: then no tile is visited."""
    for kernel in analyse(parse(Variant("plain", "softmax", "v", "plain", mask).text())).kernels:
        assert not kernel.silent


@pytest.mark.parametrize(
    ("mask", "seeing"),
    [
        ("m >= n and m - n < width", ["extent(m) <= extent(n)", "0 < width"]),
        ("m + extent(n) - extent(m) >= n", ["extent(m) <= extent(n)", "extent(n) >= extent(m)"]),
        ("abs(m - n) <= 9", ["extent(m) <= extent(n)"]),
        ("document[b,m] == document[b,n]", ["extent(m) <= extent(n)"]),
        ("document[b,m] == document[b,n] and n < lengths[b]", []),
        ("m - n > 3", []),
        ("kept[b,n] and m >= n", []),
    ],
)
def test_when_a_launch_knows_that_rows_have_keys(mask, seeing):
    """As long as every row sees the key at its own position, and there is one."""
    kernels = analyse(parse(Variant("plain", "softmax", "v", "plain", mask).text())).kernels
    found = [kernel for kernel in kernels if kernel.silent]
    assert {kernel.role for kernel in found} == {"backward_rows", "backward_columns"}
    assert all([print_expr(part) for part in kernel.seeing] == seeing for kernel in found)


@pytest.mark.parametrize("lengths", [(20, 40), (40, 20)], ids=str)
def test_windows_of_any_lengths(lengths):
    """A launch says whether its kernels look for rows without keys; both forms are right."""
    variant = Variant("plain", "softmax", "v", "plain", "m >= n and m - n < width")
    dirty, clean = problem(variant, cases.Sizes(2, 1, 2, *lengths, 16, 16), 0, math.nan)
    found = harness.run(dirty.cascade, dirty.values, dirty.cotangents, harness.tiles(16, 16))
    harness.exact_to(found, harness.expected(clean.cascade, clean.values, clean.cotangents))


@pytest.mark.parametrize(
    ("mask", "keys", "rows"),
    [
        ("n < lengths[b] and m >= n", "n < lengths[b]", None),
        ("m >= n or n < 9", None, None),
        ("not (m < n or n >= lengths[b] or m >= lengths[b])", "not n >= lengths[b]", "not m >= lengths[b]"),
        ("(m >= n or kept[b,n]) and n > 2", "n > 2", None),
        ("(m >= n and kept[b,n]) or n > 2", "kept[b,n] or n > 2", None),
        ("lengths[b] > 3", None, None),
    ],
)
def test_what_masks_ask_of_one_position(mask, keys, rows):
    (kernel, *_) = analyse(parse(Variant("plain", "softmax", "v", "plain", mask).text())).kernels
    for axis, other, wanted in (("n", "m", keys), ("m", "n", rows)):
        found = project_mask(kernel.may_mask, axis, other)
        assert (None if found is None else print_expr(found)) == wanted


@pytest.mark.parametrize(
    ("kept", "end"),
    [("n < lengths[b]", True), ("n < 50", True), ("n >= starts[b] and n < lengths[b]", False), ("kept[b,n]", False), ("n % 3 != 1", False)],
)
def test_masks_that_are_an_end(kept, end):
    (facts, *_) = analyse(parse(Variant("plain", "softmax", "v", "plain", kept).text())).facts
    found = projected_mask(facts.kernel, "n")
    assert found is not None
    assert (row_count(facts.kernel, found) is not None) == end
    assert bool(facts.ineligible["specialised"]) != end
