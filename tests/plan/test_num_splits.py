"""Few queries whose programs would leave a device idle: their keys are divided into parts, and each is read once in total."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attngen
from attngen.frontend.spec import Spec, with_lse
from attngen.interpreter.interpreter import InterpretedKernel
from attngen.interpreter.language import BUILDER
from attngen.ir.eval.interpret import interpret
from attngen.runtime.kernels import Kernels
from attngen.schedule.split_count import PART_KEYS, WAVES, part_count
from tests.e2e.dense import normal
from tests.kernels import harness

pytestmark = pytest.mark.usefixtures("triton_interpreter")

GROUPS, DIM, KEYS = 2, 16, 800
SLOPES, SINKS = normal(8).detach(), normal(8, seed=1).detach()
DOCUMENTS, LENGTHS = torch.arange(KEYS) // 300, torch.tensor([700, 5])


def spec_of(name: str, queries: int) -> Spec:
    """A variant for queries at the end of a cache of `KEYS` keys."""
    past = KEYS - queries

    def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
        return q + past >= k

    variants: dict[str, Callable[[], Spec]] = {
        "full": lambda: attngen.attention(),
        "window": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (q + past >= k) & (q + past - k < 9), softcap=2.0),
        "lengths": lambda: attngen.attention(mask_mod=lambda b, h, q, k: k < LENGTHS[b], normalizer="sigmoid"),
        "documents": lambda: attngen.attention(mask_mod=lambda b, h, q, k: DOCUMENTS[q + past] == DOCUMENTS[k]),
        "listed": lambda: attngen.attention(mask_mod=lambda b, h, q, k: (k // 64 * 7 + h) % 5 < 2),
        "sink": lambda: attngen.attention(lambda s, b, h, q, k: s + SLOPES[h] * (k - q - past), causal, sink=SINKS),
        "dropout": lambda: attngen.attention(mask_mod=causal, dropout=0.4),
    }
    return variants[name]()


NAMES = ("full", "window", "lengths", "documents", "listed", "sink", "dropout")


def tensors(queries: int, group: int, dtype: torch.dtype = torch.float64, batch: int = 2, keys: int = KEYS) -> list[Tensor]:
    shapes = [(batch, GROUPS * group, queries, DIM), (batch, GROUPS, keys, DIM), (batch, GROUPS, keys, DIM)]
    return [normal(*shape, seed=seed, dtype=dtype).detach() for seed, shape in enumerate(shapes)]


def is_split(attend: attngen.Attention, given: list[Tensor], **options: Any) -> bool:
    return attend.plan(*given, **options).num_splits > 1


@pytest.mark.kernels
@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_the_reference(name: str) -> None:
    """In float64; heads in rows and heads of their own, a window that leaves all parts but one without keys."""
    queries, group = [(1, 4), (3, 1)][NAMES.index(name) % 2]
    attend = attngen.compile(spec_of(name, queries), arch="sm90")
    options: dict[str, Any] = {"dropout": {"seed": 5}, "sink": {"return_lse": True}}.get(name, {})
    given = tensors(queries, group)
    assert is_split(attend, given, return_lse=name == "sink")
    found, right = attend(*given, **options), attend.reference(*given, **options)
    for mine, golden in zip(*(result if isinstance(result, tuple) else (result,) for result in (found, right)), strict=True):
        assert mine.is_contiguous()
        torch.testing.assert_close(mine, golden, rtol=1e-12, atol=1e-12)


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("queries", "group", "dtype"),
    [(1, 8, torch.bfloat16), (1, 8, torch.float32), (16, 1, torch.float16), (16, 1, torch.bfloat16), (4, 8, torch.float16)],
)
def test_the_contract_of_each_precision(queries: int, group: int, dtype: torch.dtype) -> None:
    """At most twice the error of the same formula in that dtype, and two roundings; more than a tile of rows included."""
    spec = spec_of("sink", queries) if group == 8 else attngen.attention()
    heads = {"slopes": normal(16).detach(), "sink": normal(16, seed=1).detach()} if group == 8 else {}
    spec = attngen.attention(lambda s, b, h, q, k: s + heads["slopes"][h] * (k - q), sink=heads["sink"]) if heads else spec
    attend, given = attngen.compile(spec, arch="sm90"), tensors(queries, group, dtype, batch=1)
    assert is_split(attend, given, return_lse=True)
    o, lse = attend(*given, return_lse=True)
    chosen = spec if spec.on_request else with_lse(spec)
    values = {"q": given[0].unflatten(1, (GROUPS, group)), "k": given[1], "v": given[2]} | {c.name: c.value for c in chosen.captures}
    rounding = None if dtype == torch.float32 else dtype
    plain = interpret(chosen.cascade, values, harness.Eager(torch.float32, torch.device("cpu"), rounding))
    names = tuple(output.name for output in chosen.outputs)
    golden = attend.reference(*given, return_lse=True)
    harness.contract(
        harness.Results(dict(zip(names, (o, lse), strict=True)), {}),
        harness.Results(dict(zip(names, golden, strict=True)), {}),
        harness.Results({name: plain[name].flatten(1, 2) for name in names}, {}),
    )


@pytest.mark.kernels
def test_a_cascade_of_two_softmaxes() -> None:
    @attngen.cascade(q1="b h m d", q2="b h m d", k1="b h n d", k2="b h n d", v="b h n e", lam="h")
    def differential(q1: Any, q2: Any, k1: Any, k2: Any, v: Any, lam: Any) -> Any:
        first, second = (attngen.einsum("b h m d, b h n d -> b h m n", q, k) for q, k in ((q1, k1), (q2, k2)))
        p = attngen.softmax(first, over="n") - lam * attngen.softmax(second, over="n")
        return attngen.einsum("b h m n, b h n e -> b h m e", p, v)

    q1, q2 = normal(2, 1, 2, 1, DIM).detach()
    k1, k2, v = normal(3, 1, 2, KEYS, DIM).detach()
    given = [q1, q2, k1, k2, v, normal(2).detach()]
    attend = attngen.compile(differential)
    assert is_split(attend, given)
    torch.testing.assert_close(attend(*given), attend.reference(*given), rtol=1e-12, atol=1e-12)


class TestWhatIsRead:
    @pytest.fixture
    def read(self, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
        """Addresses of the elements that calls load."""
        found: list[np.ndarray[Any, Any]] = []
        load = type(BUILDER).create_masked_load

        def counting(builder: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
            found.append(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)].ravel())
            return load(builder, ptrs, mask, *rest)

        monkeypatch.setattr(type(BUILDER), "create_masked_load", counting)
        return found

    def times(self, read: list[np.ndarray[Any, Any]], tensor: Tensor) -> tuple[int, ...]:
        """How often the elements of a tensor were read, each."""
        addresses = np.concatenate(read).astype(np.int64) - tensor.data_ptr()
        inside = addresses[(addresses >= 0) & (addresses < tensor.numel() * tensor.element_size())]
        counts = np.bincount(inside // tensor.element_size(), minlength=tensor.numel())
        return tuple(np.unique(counts).tolist())

    @pytest.mark.kernels
    @pytest.mark.parametrize("group", [1, 4])
    def test_each_key_and_value_once_in_total(self, read: list[np.ndarray[Any, Any]], group: int) -> None:
        given = tensors(1, group)
        attend = attngen.compile(attngen.attention(), arch="sm90")
        assert is_split(attend, given)
        attend(*given)
        assert [self.times(read, tensor) for tensor in given[1:]] == [(1,), (1,)]

    @pytest.mark.kernels
    def test_no_key_outside_of_a_window(self, read: list[np.ndarray[Any, Any]]) -> None:
        given = tensors(1, 1)
        past = KEYS - 1
        attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q + past - k < 64), arch="sm90")
        attend(*given)
        assert is_split(attend, given)
        assert self.times(read, given[1]) == self.times(read, given[2]) == (0, 1)

    @pytest.mark.kernels
    def test_programs_of_a_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As many as there are parts for each group, then one for each row."""
        counted: dict[str, int] = {}
        run = InterpretedKernel._run_program

        def counting(kernel: InterpretedKernel, *arguments: Any) -> None:
            counted[kernel.__name__] = counted.get(kernel.__name__, 0) + 1
            run(kernel, *arguments)

        monkeypatch.setattr(InterpretedKernel, "_run_program", counting)
        attngen.compile(attngen.attention(), arch="sm90")(*tensors(1, 4))
        assert counted == {"forward_parts_kernel": 2 * GROUPS * (KEYS // PART_KEYS), "forward_merge_kernel": 2 * GROUPS * 4}


class TestTheChoice:
    @pytest.mark.parametrize(
        ("programs", "keys", "parts"),
        [
            (8, 32768, 33),
            (8, 2048, 8),
            (8, 511, 1),
            (8, 512, 2),
            (64, 32768, 4),
            (132, 32768, 2),
            (133, 32768, 1),
            (1, 131072, 264),
            (0, 0, 1),
        ],
    )
    def test_parts_on_a_device_of_132(self, programs: int, keys: int, parts: int) -> None:
        assert part_count(programs, keys, 132) == parts

    def test_programs_and_keys_of_a_part(self) -> None:
        for programs in range(1, 400):
            for keys in (600, 5000, 70000):
                parts = part_count(programs, keys, 132)
                assert parts == 1 or (programs * parts <= WAVES * 132 and keys // parts >= PART_KEYS)

    def test_it_depends_on_lengths_heads_and_queries(self) -> None:
        attend = attngen.compile(attngen.attention(), arch="sm90")
        shapes: list[tuple[int, int, int, int]] = [(1, 4, 1, 1100), (16, 4, 1, 1100), (17, 4, 1, 1100), (1, 4, 1, 511), (1, 1, 67, 1100)]
        divided = [is_split(attend, tensors(queries, group, batch=batch, keys=keys)) for queries, group, batch, keys in shapes]
        assert divided == [True, True, False, False, False]

    def test_calls_with_gradients_go_on_as_before(self) -> None:
        attend = attngen.compile(attngen.attention())
        q, k, v = tensors(1, 4)
        assert not is_split(attend, [q.requires_grad_(), k, v])
        with torch.no_grad():
            assert is_split(attend, [q, k, v])

    @pytest.mark.kernels
    def test_strict_mode_takes_what_was_stored(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tmp_path.chmod(0o700)
        monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path / "cache"))
        given = tensors(1, 4, batch=1)
        attngen.compile(attngen.attention())(*tensors(1, 4, batch=1, keys=40))
        for calls in (0, 1):
            monkeypatch.setenv("ATTNGEN_STRICT", "1")
            strict = attngen.compile(attngen.attention())
            assert is_split(strict, given) is bool(calls)
            strict(*given)
            monkeypatch.delenv("ATTNGEN_STRICT")
            attngen.compile(attngen.attention())(*given)

    @pytest.mark.kernels
    def test_a_hundred_lengths_build_nothing_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor does any length become a constant of a kernel."""
        attend = attngen.compile(attngen.attention(), arch="sm90")
        attend(*tensors(1, 2, batch=1, keys=512))
        launched: set[tuple[str, int]] = set()

        def launching(kernel: InterpretedKernel, arguments: dict[str, Any], program: Any) -> None:
            launched.add((kernel.__name__, int(arguments["len_part"].handle.data[0])))
            assert {"len_part", "len_m"} <= set(kernel._jit_function.do_not_specialize)
            assert not {"len_part", "len_n"} & kernel._constexprs

        monkeypatch.setattr(Kernels, "load", None)
        monkeypatch.setattr(InterpretedKernel, "_run_program", launching)
        for keys in range(512, 2512, 20):
            attend(*tensors(1, 2, batch=1, keys=keys))
        assert {parts for name, parts in launched if name == "forward_merge_kernel"} == set(range(2, 10))

    def test_a_schedule_of_the_forward_is_that_of_its_parts(self) -> None:
        parts = attngen.compile(attngen.attention(), arch="sm90", schedule={"num_warps": 8}).plan(*tensors(1, 4)).schedule
        assert [parts[role].num_warps for role in ("forward_parts", "forward_merge")] == [8, 4]

    def test_explain_says_so(self) -> None:
        explained = attngen.compile(attngen.attention(), arch="sm90").explained()
        assert explained.few[-4].endswith("8 CTAs on sm90 (132 SMs) have 8 of 2048, 32 of 8192, 33 of 32768, 33 of 131072 keys")
        assert explained.few[-3].startswith("forward_parts stores m_i, l_i, acc, 520 B a row and slice; forward_merge")
        assert [line.partition(":")[0] for line in explained.few[-2:]] == ["forward_parts", "forward_merge"]
        assert "split-KV where CTAs would leave multiprocessors idle" in explained.text()
