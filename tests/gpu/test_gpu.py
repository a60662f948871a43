"""The checks of the interpreter, compiled and run on a real GPU: `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

import attngen
from attngen.calls import spec_form
from attngen.plan.programs import ProgramKey
from attngen.schedule.choose import Request
from attngen.schedule.space import length_class
from attngen.tuning.timing import gpu_milliseconds

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def plain() -> attngen.Spec:
    return attngen.attention()


def causal_alibi() -> attngen.Spec:
    slopes = torch.exp2(-torch.arange(1, 5, dtype=torch.float32, device=DEVICE)).requires_grad_()

    def alibi(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    return attngen.attention(score_mod=alibi, mask_mod=causal)


def window() -> attngen.Spec:
    size = 37

    def mask(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    return attngen.attention(mask_mod=mask)


def dilated(b, h, q_idx, kv_idx):
    return ((q_idx - kv_idx) % 2 == 0) & (q_idx >= kv_idx)


def listed(b, h, q_idx, kv_idx):
    return (q_idx * 3 + kv_idx) % 7 < 3


def documents() -> attngen.Spec:
    ids = (torch.arange(600, device=DEVICE) // 37).to(torch.int32)
    return attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: ids[q_idx] == ids[kv_idx])


def squared_distance() -> attngen.Spec:
    place = torch.randn(700, 3, device=DEVICE) + 50.0

    def near(score, b, h, q_idx, kv_idx):
        return score - 0.1 * sum((place[q_idx, i] - place[kv_idx, i]) ** 2 for i in range(3))

    return attngen.attention(score_mod=near, mask_mod=causal)


def cosine() -> attngen.Spec:
    return attngen.attention(score_mod=lambda score, b, h, q_idx, kv_idx: score + torch.cos(0.3 * (q_idx - kv_idx)))


SPECS: dict[str, Callable[[], attngen.Spec]] = {
    "squared_distance": squared_distance,
    "cosine": cosine,
    "plain": plain,
    "causal_alibi": causal_alibi,
    "window": window,
    "dilated": lambda: attngen.attention(mask_mod=dilated),
    "listed": lambda: attngen.attention(mask_mod=listed),
    "documents": documents,
    "softcap": lambda: attngen.attention(softcap=20.0, mask_mod=causal),
    "sigmoid": lambda: attngen.attention(normalizer="sigmoid"),
    "relu": lambda: attngen.attention(normalizer="relu"),
    "sink": lambda: attngen.attention(mask_mod=causal, sink=torch.zeros(4, device=DEVICE, requires_grad=True)),
}


def tensors(dtype: torch.dtype, dim: int, q_len: int, kv_len: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, 4, q_len, dim), (2, 2, kv_len, dim), (2, 2, kv_len, dim))
    return [torch.randn(shape, device=DEVICE, dtype=dtype, requires_grad=True) for shape in shapes]


def plainly(attend: attngen.Attention, args: list[torch.Tensor], cotangent: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Output and gradients by PyTorch in float32: large scores lose as many digits there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec_form, "evaluate", partial(spec_form.evaluate, dtype=torch.float32))
        out = attend.reference(*args)
    return [out.detach(), *(() if cotangent is None else torch.autograd.grad(out, args, cotangent.float()))]


def assert_close(found: torch.Tensor, wanted: torch.Tensor, plain: torch.Tensor) -> None:
    """Twice the error of PyTorch, and a few roundings."""
    assert torch.isfinite(found).all()
    roundings = 8 * torch.finfo(found.dtype).eps * max(1.0, float(wanted.abs().max()))
    assert (found.double() - wanted).abs().max() <= roundings + 2 * (plain.double() - wanted).abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("name", SPECS)
def test_matches_the_reference(name: str, dim: int, dtype: torch.dtype) -> None:
    attend = attngen.compile(SPECS[name]())
    for q_len, kv_len in ((300, 300), (1, 513), (257, 100)):
        args = tensors(dtype, dim, q_len, kv_len)
        out, ref = attend(*args), attend.reference(*args)
        cotangent = torch.randn_like(out)
        found = [out.detach(), *torch.autograd.grad(out, args, cotangent)]
        wanted = [ref.detach(), *torch.autograd.grad(ref, args, cotangent.double())]
        for each in zip(found, wanted, plainly(attend, args, cotangent), strict=True):
            assert_close(*each)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
@pytest.mark.parametrize("name", SPECS)
def test_specialised_warps_match_the_reference(name: str, dim: int, dtype: torch.dtype) -> None:
    """The form that no default uses before this has passed; whatever its warps do first, results are the same."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("this form is for sm90")
    schedule = {"forward": {"SPECIALISED": True, "BLOCK_N": 64 if dim > 64 else 128, "num_stages": 2}}
    attend = attngen.compile(SPECS[name](), schedule=schedule, without=["bias_as_dot"])
    for q_len, kv_len in ((300, 300), (1000, 513), (257, 1100)):
        args = tensors(dtype, dim, q_len, kv_len)
        out, ref = attend(*args), attend.reference(*args)
        assert torch.isfinite(out).all()
        assert (out.double() - ref.double()).abs().max() <= 8 * torch.finfo(dtype).eps * max(1.0, float(ref.abs().max()))
        assert all(torch.equal(out, attend(*args)) for _ in range(10))


@pytest.mark.parametrize("dim", [64, 80, 128])
@pytest.mark.parametrize("name", SPECS)
def test_one_walk_matches_the_reference(name: str, dim: int) -> None:
    """Programs add up the gradients of rows at the same time; two walks say what they should be."""
    one, two = attngen.compile(SPECS[name](), schedule={"backward_fused": {}}), attngen.compile(SPECS[name](), deterministic=True)
    for q_len, kv_len in ((300, 300), (1, 513), (600, 600)):
        args = tensors(torch.bfloat16, dim, q_len, kv_len)
        cotangent = torch.randn_like(args[0])
        found, wanted = (torch.autograd.grad(attend(*args), args, cotangent) for attend in (one, two))
        for a, b in zip(found, wanted, strict=True):
            assert torch.isfinite(a).all()
            assert (a.float() - b.float()).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", SPECS)
def test_runs_are_equal_to_the_bit(name: str) -> None:
    attend = attngen.compile(SPECS[name](), deterministic=True)
    args = tensors(torch.bfloat16, 64, 500, 500)
    first = [attend(*args), *torch.autograd.grad(attend(*args).sum(), args)]
    for _ in range(20):
        again = [attend(*args), *torch.autograd.grad(attend(*args).sum(), args)]
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def captured(name: str, size: int) -> tuple[attngen.Spec, list[torch.Tensor]]:
    """A bias by pairs, and the tensors it reads."""
    table = torch.randn(32, 4, device=DEVICE, requires_grad=True)
    far = torch.randn(4, 2 * size, device=DEVICE, requires_grad=True)
    dense = torch.randn(4, size, size, device=DEVICE, requires_grad=True)
    plain_ = torch.randn(size, size, device=DEVICE, requires_grad=True)
    near = torch.randint(0, 32, (2, size, size), device=DEVICE)
    mods = {
        "buckets": (lambda s, b, h, q, k: s + table[torch.clamp(abs(q - k) // 8, max=31), h], [table]),
        "relative": (lambda s, b, h, q, k: s + far[h, q - k + size], [far]),
        "dense": (lambda s, b, h, q, k: s + dense[h, q, k] + plain_[q, k], [dense, plain_]),
        "graph": (lambda s, b, h, q, k: s + table[near[b, q, k], h] + far[h, near[b, q, k]], [table, far]),
    }
    mod, tensors_ = mods[name]
    return attngen.attention(score_mod=mod, mask_mod=causal), tensors_


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["buckets", "relative", "dense", "graph"])
def test_gradients_of_captured_tensors_are_right_and_equal_to_the_bit(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    spec, wanted = captured(name, 333)
    attend, args = attngen.compile(spec), tensors(dtype, 64, 333, 333)
    torch.use_deterministic_algorithms(True)
    try:
        first = torch.autograd.grad(attend(*args).float().square().sum(), wanted)
        for _ in range(19):
            again = torch.autograd.grad(attend(*args).float().square().sum(), wanted)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
    golden = torch.autograd.grad(attend.reference(*args).square().sum(), wanted)
    for a, b in zip(first, golden, strict=True):
        assert (a.double() - b.double()).abs().max() <= 32 * torch.finfo(dtype).eps * max(1.0, float(b.abs().max()))


def test_graph_capture_and_side_stream() -> None:
    attend = attngen.compile(plain())
    args = [tensor.detach() for tensor in tensors(torch.bfloat16, 64, 256, 256)]
    expected = attend(*args)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        assert torch.equal(attend(*args), expected)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = attend(*args)
    captured.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)


def test_offsets_beyond_31_bits() -> None:
    """A key tensor of more than 2**31 elements: the last head reads and writes its own rows."""
    heads, tokens, dim = 17, 2**20, 128
    attend = attngen.compile(attngen.attention(mask_mod=window_mask))
    k = torch.randn(1, heads, tokens, dim, device=DEVICE, dtype=torch.bfloat16)
    q = torch.randn(1, heads, 128, dim, device=DEVICE, dtype=torch.bfloat16)
    out = attend(q, k, k)
    tail = attend(q[:, -1:], k[:, -1:], k[:, -1:])
    assert torch.equal(out[:, -1:], tail)


def window_mask(b, h, q_idx, kv_idx):
    return kv_idx < q_idx + 64


def test_no_new_builds_with_changing_lengths() -> None:
    attend = attngen.compile(causal_alibi())
    from triton import knobs

    builds: list[object] = []
    attend(*tensors(torch.bfloat16, 64, 1024, 1024)).sum().backward()
    knobs.runtime.jit_post_compile_hook = lambda **values: builds.append(values)
    try:
        for i in range(100):
            attend(*tensors(torch.bfloat16, 64, 1024 + 16 * i, 1024 + 32 * (i % 7))).sum().backward()
    finally:
        knobs.runtime.jit_post_compile_hook = None
    assert not builds


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("name", SPECS)
def test_few_queries_share_their_keys(name: str, groups: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of keys, and heads in rows where they share them: right, equal to the bit in each run, and no length builds a kernel."""
    from triton import knobs

    attend, builds = attngen.compile(SPECS[name]()), list[object]()
    torch.manual_seed(0)
    for keys in (600, 513, 577):
        q, (k, v) = torch.randn(1, 4, 2, 128, device=DEVICE, dtype=dtype), torch.randn(2, 1, groups, keys, 128, device=DEVICE, dtype=dtype)
        with torch.no_grad():
            plan = attend.plan(q, k, v)
            assert plan.num_splits > 1 or plan.layout.startswith("dilated")
            out, ref = attend(q, k, v), attend.reference(q, k, v)
            assert_close(out, ref, *plainly(attend, [q, k, v]))
            assert torch.equal(attend(q, k, v), out)
        monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", lambda **values: builds.append(values))
    assert not builds


def test_times_grow_with_the_work() -> None:
    small, large = (torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16) for size in (512, 8192))
    few, many = (gpu_milliseconds(lambda a=a: a @ a) for a in (small, large))
    assert 0 < few < many


def test_tuned_tiles_are_kept_used_and_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ATTNGEN_CACHE_DIR", str(tmp_path))
    found = attngen.tune(causal_alibi(), head_dim=64, lengths=("short", "decode"), leaders=2)
    assert len(found.rows) == 8
    assert all(row.call_us > 0 and row.device == torch.cuda.get_device_name() for row in found.rows)
    attend = attngen.compile(causal_alibi())
    for q_len, kv_len in ((300, 300), (1, 513)):
        args = tensors(torch.bfloat16, 64, q_len, kv_len)
        request = Request((("d", 64), ("e", 64)), "bfloat16", attend._table.target(args[0].device), length_class(q_len, kv_len))
        choice = attend._table.choice(ProgramKey("bfloat16"), request)
        assert {reason.evidence for reason in choice.reasons} == {"tuned"}
        ref = attend.reference(*args)
        assert (attend(*args).double() - ref).abs().max() <= 8 * torch.finfo(torch.bfloat16).eps * max(1.0, float(ref.abs().max()))
