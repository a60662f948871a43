"""Few queries whose heads share keys and values: pairs of position and head as rows give the same results and read the keys once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attngen
from attngen.errors import ArgumentError
from attngen.frontend.spec import Spec
from attngen.interpreter.interpreter import InterpretedKernel
from attngen.ir.eval.interpret import interpret
from attngen.pipeline import stream
from attngen.plan.packed_gqa import PackedGQA, packed_gqa
from tests.e2e.dense import normal
from tests.kernels import harness

pytestmark = pytest.mark.usefixtures("triton_interpreter")

BATCH, GROUPS, DIM, KEYS = 2, 2, 16, 37
SLOPES, SINKS, WINDOWS = normal(16).detach(), normal(16, seed=1).detach(), torch.arange(16) * 3
DOCUMENTS, ROWS = torch.arange(64) // 10, normal(2, 16, seed=2).detach()
PAIRS, DISTANCES = normal(16, 16, KEYS, seed=3).detach(), normal(80, seed=4).detach()


def spec_of(name: str, queries: int = 3) -> Spec:
    """A variant for queries at the end of a cache of `KEYS` keys."""
    past = KEYS - queries

    def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q + past >= k

    variants: dict[str, Callable[[], Spec]] = {
        "full": lambda: attngen.attention(),
        "window": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q + past >= k) & (q + past - k < 9), softcap=2.0),
        "windows of heads": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q + past >= k) & (q + past - k < WINDOWS[h])),
        "prefix": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q >= k) | (k < 20), normalizer="sigmoid"),
        "documents": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (DOCUMENTS[q + past] == DOCUMENTS[k]) & (q + past >= k)),
        "listed": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (7 * q + h * k) % 5 < 2),
        "slopes": lambda: attngen.attention(lambda s, b, h, q, k: s + SLOPES[h] * (k - q - past), causal),
        "biases": lambda: attngen.attention(lambda s, b, h, q, k: s * ROWS[b, q] + DISTANCES[q - k + 40] + PAIRS[h, q, k]),
        "sink": lambda: attngen.attention(mask_mod=causal, sink=SINKS),
        "dropout": lambda: attngen.attention(dropout=0.4),
    }
    return variants[name]()


NAMES = ("full", "window", "windows of heads", "prefix", "documents", "listed", "slopes", "biases", "sink", "dropout")
SHAPES = [[(1, 8), (3, 5)], [(3, 4), (16, 2)]]


def tensors(queries: int, group: int, dtype: torch.dtype = torch.float64, batch: int = BATCH) -> list[Tensor]:
    shapes = [(batch, GROUPS * group, queries, DIM), (batch, GROUPS, KEYS, DIM), (batch, GROUPS, KEYS, DIM)]
    return [normal(*shape, seed=seed, dtype=dtype).detach() for seed, shape in enumerate(shapes)]


def layout_of(spec: Spec) -> PackedGQA | None:
    return packed_gqa(spec, stream(spec.cascade).cascade)


def is_packed(attend: attngen.Attention, given: list[Tensor], **options: Any) -> bool:
    return attend.plan(*given, **options).layout == "packed GQA"


@pytest.mark.kernels
@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_reference(name: str) -> None:
    """In float64, rows beyond a tile and groups that do not divide one included."""
    for queries, group in SHAPES[NAMES.index(name) % 2]:
        attend = attngen.compile(spec_of(name, queries), arch="sm90")
        options: dict[str, Any] = {"dropout": {"seed": 5}, "sink": {"return_lse": True}}.get(name, {})
        given = tensors(queries, group)
        assert is_packed(attend, given, return_lse=name == "sink")
        found, right = attend(*given, **options), attend.reference(*given, **options)
        for mine, golden in zip(*(result if isinstance(result, tuple) else (result,) for result in (found, right)), strict=True):
            assert mine.is_contiguous()
            torch.testing.assert_close(mine, golden, rtol=1e-12, atol=1e-12)


@pytest.mark.kernels
@pytest.mark.parametrize("queries", [1, 3, 16])
@pytest.mark.parametrize("group", [2, 4, 5, 8])
def test_every_shape_at_half_precision(queries: int, group: int) -> None:
    """Within the contract: at most twice the error of the same formula in bfloat16, and two roundings."""
    spec = spec_of("slopes", queries)
    attend = attngen.compile(spec, arch="sm90")
    given = tensors(queries, group, torch.bfloat16, batch=1)
    o, lse = attend(*given, return_lse=True)
    assert is_packed(attend, given, return_lse=True)
    values = {"q": given[0].unflatten(1, (GROUPS, group)), "k": given[1], "v": given[2]} | {c.name: c.value for c in spec.captures}
    plain = interpret(spec.cascade, values, harness.Eager(torch.float32, torch.device("cpu"), torch.bfloat16))
    golden = attend.reference(*given, return_lse=True)
    names = ("o", "lse")
    harness.contract(
        harness.Results(dict(zip(names, (o, lse), strict=True)), {}),
        harness.Results(dict(zip(names, golden, strict=True)), {}),
        harness.Results({name: plain[name].flatten(1, 2) for name in names}, {}),
    )


class TestArguments:
    """Tensors that a call passes besides queries, keys and values."""

    @pytest.mark.kernels
    @pytest.mark.parametrize("queries", [1, 4])
    def test_of_pairs_of_rows_and_of_heads(self, queries: int) -> None:
        @attngen.cascade(q="b (g r) m d", k="b g n d", v="b g n e", bias="b (g r) m n", keep="b m n", gate="b m", lam="(g r)", w="(g r) d")
        def mixed(q: Any, k: Any, v: Any, bias: Any, keep: Any, gate: Any, lam: Any, w: Any) -> Any:
            s = attngen.einsum("b (g r) m d, b g n d -> b (g r) m n", q * w, k) + bias
            s = attngen.where(keep > 0, s * attngen.sigmoid(gate), float("-inf"))
            return attngen.einsum("b (g r) m n, b g n e -> b (g r) m e", attngen.softmax(s, over="n"), v) * lam

        q, k, v = tensors(queries, 4)
        heads = GROUPS * 4
        shapes = [(BATCH, heads, queries, KEYS), (BATCH, queries, KEYS), (BATCH, queries), (heads,), (heads, DIM)]
        others = [normal(*shape, seed=7).detach() for shape in shapes]
        attend = attngen.compile(mixed)
        assert is_packed(attend, [q, k, v, *others])
        torch.testing.assert_close(attend(q, k, v, *others), attend.reference(q, k, v, *others), rtol=1e-12, atol=1e-12)

    @pytest.mark.kernels
    def test_keys_that_all_heads_share(self) -> None:
        """Whatever the axis of the heads is called; lengths in masks are those of the call."""

        @attngen.cascade(q="b h m d", k="b n d", v="b n e")
        def shared(q: Any, k: Any, v: Any) -> Any:
            s = attngen.einsum("b h m d, b n d -> b h m n", q, k) * attngen.extent("d") ** -0.5
            s = attngen.where(attngen.causal("m", "n", align="bottom_right"), s, float("-inf"))
            return attngen.einsum("b h m n, b n e -> b h m e", attngen.softmax(s, over="n"), v)

        q, k, v = (normal(*shape).detach() for shape in [(2, 5, 3, DIM), (2, KEYS, DIM), (2, KEYS, DIM)])
        attend = attngen.compile(shared)
        assert is_packed(attend, [q, k, v])
        torch.testing.assert_close(attend(q, k, v), attend.reference(q, k, v), rtol=1e-12, atol=1e-12)


class TestWhatIsRead:
    @pytest.fixture
    def programs(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Those that calls run, one entry each."""
        counted: list[int] = []
        run = InterpretedKernel._run_program

        def counting(kernel: InterpretedKernel, *arguments: Any) -> None:
            counted.append(1)
            run(kernel, *arguments)

        monkeypatch.setattr(InterpretedKernel, "_run_program", counting)
        return counted

    @pytest.mark.kernels
    @pytest.mark.parametrize(("queries", "expected"), [(1, BATCH * GROUPS), (8, BATCH * GROUPS), (17, BATCH * GROUPS * 4)])
    def test_programs_of_a_call(self, programs: list[int], queries: int, expected: int) -> None:
        """One a group for few queries; otherwise one a head, as ever."""
        attend = attngen.compile(attngen.attention(), schedule={"forward": {"BLOCK_M": 32}})
        attend(*tensors(queries, 4))
        assert len(programs) == expected

    @pytest.mark.kernels
    @pytest.mark.parametrize(
        "mask",
        [
            lambda b, h, q, k: ((q + 3000 >= k) & (q + 3000 - k < 300)) | (k < 4),
            lambda b, h, q, k: FAR[q + 3000] == FAR[k],
        ],
    )
    def test_tiles_are_those_of_one_head_in_each_group(self, mask: Any) -> None:
        attend = attngen.compile(attngen.attention(mask_mod=mask), arch="sm90", schedule={"forward": {"BLOCK_M": 16, "BLOCK_N": 64}})
        (packed,) = attend.mask_tiles(q_len=2, kv_len=4001, heads=16, kv_heads=2, head_dim=64)
        single, every = (attend.mask_tiles(q_len=2, kv_len=4001, heads=heads, head_dim=64)[0] for heads in (2, 16))
        assert packed.as_dict() == single.as_dict()
        assert packed.full + packed.partial == (every.full + every.partial) / 8 < 200

    def test_heads_of_unequal_groups(self) -> None:
        with pytest.raises(ArgumentError, match="16 query heads for 3 key heads"):
            attngen.compile(attngen.attention()).mask_tiles(q_len=1, kv_len=64, heads=16, kv_heads=3)


FAR = torch.arange(4001) // 500

KEY_BIAS = normal(16, 2 * KEYS).detach()
FACTORS = attngen.low_rank(normal(16, 20, 4).detach(), normal(16, KEYS, 4, seed=1).detach())


class TestTheChoice:
    def test_it_depends_on_queries_and_groups(self) -> None:
        attend = attngen.compile(attngen.attention())
        calls = [(1, 2), (16, 8), (17, 8), (1, 1), (0, 4)]
        assert [is_packed(attend, tensors(*call)) for call in calls] == [True, True, False, False, False]

    @pytest.mark.kernels
    def test_calls_with_gradients_go_on_as_before(self) -> None:
        slopes = normal(8)
        learned = attngen.compile(attngen.attention(lambda s, b, h, q, k: s + slopes[h] * k))
        plain = attngen.compile(attngen.attention())
        q, k, v = tensors(1, 4)
        assert not is_packed(learned, [q, k, v])
        assert not is_packed(plain, [q.requires_grad_(), k, v])
        assert plain(q, k, v).requires_grad
        with torch.no_grad():
            assert is_packed(plain, [q, k, v])

    @pytest.mark.kernels
    def test_strict_mode_takes_what_was_stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Kernels with gradients have served calls without; those of rows are taken once a call has built them."""
        tmp_path.chmod(0o700)
        monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
        q, k, v = given = tensors(1, 4)
        attngen.compile(attngen.attention())(q.clone().requires_grad_(), k, v)
        for calls in (0, 1):
            monkeypatch.setenv("ATTNGEN_STRICT", "1")
            strict = attngen.compile(attngen.attention())
            assert is_packed(strict, given) is bool(calls)
            strict(*given)
            monkeypatch.delenv("ATTNGEN_STRICT")
            attngen.compile(attngen.attention())(*given)

    def test_explain_says_so(self) -> None:
        explained = attngen.compile(spec_of("slopes"), arch="sm90").explained()
        assert "the query heads of a group are packed into rows" in explained.text()
        assert explained.few[2].startswith("visits n in [0, min(max(first // heads, last // heads) + past + 1, extent(n)))")
        assert "s[b,g,r,m,n] = sum[d] q[b,g,r,m,d] * k[b,g,n,d]" in explained.text()

    @pytest.mark.parametrize(
        "score",
        [
            lambda s, b, h, q, k: s + KEY_BIAS[h, k],
            lambda s, b, h, q, k: s + KEY_BIAS[0, h + k],
            lambda s, b, h, q, k: s + FACTORS(b, h, q, k),
        ],
    )
    def test_keys_that_differ_from_head_to_head_have_none(self, score: Any) -> None:
        assert layout_of(attngen.attention(score)) is None

    def test_heads_of_their_own_have_none(self) -> None:
        @attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
        def own(q: Any, k: Any, v: Any) -> Any:
            weights = attngen.softmax(attngen.einsum("b h m d, b h n d -> b h m n", q, k), over="n")
            return attngen.einsum("b h m n, b h n e -> b h m e", weights, v)

        assert layout_of(own) is None

    def test_tokens_in_an_order_have_none(self) -> None:
        assert layout_of(attngen.attention(order=torch.randperm(64))) is None
