"""Captures are read at each call: whatever a user binds anew is what counts, with its gradient, also in copies."""

from __future__ import annotations

import copy
import functools
import io
import pickle
import sysconfig
import threading
import timeit
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils import parametrize

import attngen
from attngen.errors import InternalError, NaNConstant, TraceError
from attngen.runtime.kernel_table import _TABLES
from tests.calls.holders import HOLDERS, Holder

HEADS, ROWS, KEYS, DIM = 2, 5, 7, 16
Mod = Callable[..., Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensors() -> list[Tensor]:
    return [numbers(1, HEADS, length, DIM, seed=seed) for seed, length in enumerate((ROWS, KEYS, KEYS))]


def dense(q: Tensor, k: Tensor, v: Tensor, score_mod: Mod | None = None, mask_mod: Mod | None = None) -> Tensor:
    """Attention by PyTorch, with the mods as plain Python."""
    at = (
        torch.zeros((1, 1, 1, 1), dtype=torch.int64),
        *(torch.arange(length).view(shape) for length, shape in ((HEADS, (-1, 1, 1)), (ROWS, (-1, 1)), (KEYS, (-1,)))),
    )
    s = q @ k.mT * DIM**-0.5
    s = s if score_mod is None else score_mod(s, *at)
    keep = torch.ones_like(s, dtype=torch.bool) if mask_mod is None else mask_mod(*at).expand_as(s)
    alive = keep.any(-1, keepdim=True)
    p = torch.softmax(torch.where(alive, s.masked_fill(~keep, -torch.inf), 0.0), -1)
    return torch.where(alive, p, 0.0) @ v


def follows(run: Any, score_mod: Mod | None, mask_mod: Mod | None = None, leaf: Tensor | None = None, tol: float = 1e-11) -> None:
    """Values, and the gradient of a captured tensor."""
    given = tensors()
    found, right = run(*given), dense(*given, score_mod, mask_mod)
    torch.testing.assert_close(found, right, rtol=tol, atol=tol)
    if leaf is not None:
        grads = (torch.autograd.grad(value.square().sum(), leaf)[0] for value in (found, right))
        torch.testing.assert_close(*grads, rtol=tol, atol=tol)


# ---- random programs


def bind(holder: Holder, action: str, seed: int) -> None:
    """What a user does between two calls."""
    if action == "tensor":
        holder.put("bias", numbers(HEADS, seed=seed).requires_grad_())
    elif action == "longer tensor":
        holder.put("bias", numbers(HEADS + 2, seed=seed))
    elif action == "none":
        holder.put("bias", None)
    else:
        holder.put("reach", 1 + seed % KEYS)


@pytest.mark.parametrize("kind", HOLDERS)
@settings(max_examples=2, deadline=None)
@given(
    actions=st.lists(st.sampled_from(["tensor", "number", "longer tensor", "none"]), min_size=2, max_size=4),
    first=st.booleans(),
    copied=st.sampled_from(["", "copy", "deepcopy"]),
)
def test_what_is_bound_counts(kind: str, actions: list[str], first: bool, copied: str) -> None:
    """Random programs over all ways to hold a value: the reference after every step, the kernels after the last."""
    holder = HOLDERS[kind](numbers(HEADS).requires_grad_() if first else None, 3)
    attend = attngen.compile(attngen.attention(holder.score, holder.mask))
    attend = {"": lambda x: x, "copy": copy.copy, "deepcopy": lambda x: copy.deepcopy(x) if holder.whole is None else x}[copied](attend)
    for seed, action in enumerate(actions, 1):
        bind(holder, action, seed)
        follows(attend.reference, holder.score, holder.mask)
    last = numbers(HEADS, seed=99).requires_grad_()
    holder.put("bias", last)
    leaf = next((item for item in getattr(holder.whole, "parameters", tuple)()), last)
    follows(attend, holder.score, holder.mask, leaf)


@pytest.mark.parametrize("kind", [name for name in HOLDERS if name not in ("helper functions", "partials", "attributes of a class")])
def test_values_need_no_other_kernels(kind: str) -> None:
    holder = HOLDERS[kind](numbers(HEADS).requires_grad_(), 3)
    attend = attngen.compile(attngen.attention(holder.score, holder.mask))
    attend.reference(*tensors())
    built, traces = len(_TABLES), list(attend._following._traces)
    for seed in range(3):
        bind(holder, "tensor", seed)
        bind(holder, "number", seed)
        follows(attend.reference, holder.score, holder.mask)
    assert len(_TABLES) == built
    assert attend._following._traces == traces


# ---- modules


class Net(torch.nn.Module):
    """A parameter, a buffer and a number, read by mods of several forms."""

    def __init__(self, form: str = "methods") -> None:
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([0.3, 0.1], dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(HEADS, dtype=torch.float64))
        self.reach = 4
        score, mask = FORMS[form](self)
        self.attend = attngen.compile(attngen.attention(score, mask))

    def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s + self.slope[h] * (k - q) + self.bias[h] * k

    def mask(self, b: Any, h: Any, q: Any, k: Any) -> Any:
        return q - k < self.reach

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Any:
        return self.attend(q, k, v)

    def check(self, leaf: Tensor | None = None, run: Any = None, tol: float = 1e-11) -> None:
        follows(self if run is None else run, self.score, self.mask, self.slope if leaf is None else leaf, tol)


def of_variables(net: Net) -> tuple[Mod, Mod]:
    slope = net.slope
    return lambda s, b, h, q, k: s + slope[h] * (k - q) + net.bias[h] * k, net.mask


def of_helpers(net: Net) -> tuple[Mod, Mod]:
    def table(h: Any) -> Any:
        return net.slope[h]

    return lambda s, b, h, q, k: s + table(h) * (k - q) + net.bias[h] * k, lambda b, h, q, k: q - k < net.reach


FORMS: dict[str, Callable[[Net], tuple[Mod, Mod]]] = {
    "methods": lambda net: (net.score, net.mask),
    "closures": lambda net: (lambda s, b, h, q, k: net.score(s, b, h, q, k), lambda b, h, q, k: net.mask(b, h, q, k)),
    "partials": lambda net: (functools.partial(Net.score, net), functools.partial(Net.mask, net)),
    "helpers": of_helpers,
    "variables": of_variables,
}


def table(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("form", ["methods", "closures"])
def test_parameters_that_are_replaced(form: str) -> None:
    net = Net(form)
    net.load_state_dict({"slope": table(-0.5, 0.7), "bias": torch.ones(HEADS, dtype=torch.float64)}, assign=True)
    net.check()
    net._parameters["slope"] = table(0.2, 0.4)  # as FSDP does
    net.check()
    other = table(-0.4, 0.6)
    found = torch.func.functional_call(net, {"slope": other}, tuple(tensors()))
    with torch.no_grad():
        net.slope.copy_(other)
    right = dense(*tensors(), net.score, net.mask)
    torch.testing.assert_close(found, right, rtol=1e-11, atol=1e-11)
    mine, theirs = torch.autograd.grad(found.square().sum(), other)[0], torch.autograd.grad(right.square().sum(), net.slope)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)
    net.check()
    assert len(net.attend._following._traces) == 1


def test_parametrizations() -> None:
    class Growing(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(0).exp()

    net = Net()
    net.check()
    parametrize.register_parametrization(net, "slope", Growing())
    net.check(net.parametrizations.slope.original)
    other = copy.deepcopy(net)
    with torch.no_grad():
        net.parametrizations.slope.original.add_(0.1)
    net.check(net.parametrizations.slope.original)
    other.check(other.parametrizations.slope.original)
    parametrize.remove_parametrizations(net, "slope")
    net.check()


def test_modules_that_move() -> None:
    net = Net().float()
    net.check(tol=1e-5)
    net.double()
    net.bias.copy_(torch.tensor([0.4, -0.3]))
    net.check()
    net.bias = torch.ones(HEADS, dtype=torch.int32)
    net.check()


@pytest.mark.parametrize("form", FORMS)
def test_a_copied_module_reads_what_is_its_own(form: str) -> None:
    """Copied before and after the first call, with the attention ahead of the module, and a copy of a copy."""
    net = Net(form)
    for attend, other in (copy.deepcopy((net.attend, net)), reversed(copy.deepcopy((net, net.attend)))):
        other.reach = 2
        with torch.no_grad():
            other.slope.mul_(2)
        other.check(run=attend)
        third = copy.deepcopy(other)
        third.bias = torch.ones(HEADS, dtype=torch.float64)
        third.check()
        other.check()
        net.check()


@pytest.mark.parametrize("form", FORMS)
def test_a_pickled_module_reads_what_is_its_own(form: str) -> None:
    net = Net(form)
    net.reach = 2
    other = pickle.loads(pickle.dumps(net))
    with torch.no_grad():
        other.slope.mul_(2)
    other.check()
    file = io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    third = torch.load(file, weights_only=False)
    third.check()
    if form != "variables":
        third.slope, third.reach = table(0.2, -0.2), 3
        third.check()


def test_what_cannot_be_pickled_stays_what_it_was() -> None:
    width, gain = 3, torch.ones(HEADS, dtype=torch.float64, requires_grad=True)
    score, mask = lambda s, b, h, q, k: s * gain[h], lambda b, h, q, k: q - k < width
    attend = attngen.compile(attngen.attention(score, mask))
    width = 2
    other, spec = (pickle.loads(pickle.dumps(item)) for item in (attend, attend.spec))
    for item in (other, attngen.compile(spec)):
        follows(item, score, mask)
    width = 4
    follows(attend, score, mask, gain)
    with pytest.raises(AssertionError):
        follows(other, score, mask)


def test_copies_of_tensors_that_are_given() -> None:
    net = torch.nn.Module()
    net.cap, net.sink = table(0.3), table(0.0, 1.0)
    net.cap = torch.nn.Parameter(net.cap[0].detach())
    net.attend = attngen.compile(attngen.attention(softcap=net.cap, sink=net.sink))
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.cap.fill_(2.0)
        other.sink.add_(1.0)
    for item in (other, net):
        found = item.attend(*tensors())
        q, k, v = tensors()
        s = item.cap * torch.tanh(q @ k.mT * DIM**-0.5 / item.cap)
        with_sink = torch.cat([s, item.sink[None, :, None, None].expand(1, HEADS, ROWS, 1)], -1)
        torch.testing.assert_close(found, torch.softmax(with_sink, -1)[..., :-1] @ v, rtol=1e-11, atol=1e-11)


# ---- what decides a trace


def test_what_decided_a_trace() -> None:
    """Back and forth between two outcomes needs two traces, and no kernels that were there before."""
    settings = SimpleNamespace(terms=2, act=torch.tanh, name="plain", tables=[1.0, 2.0], limits={"low": 0.5})

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        for term in range(settings.terms):
            s = settings.act(s) + term
        for number in settings.tables:
            s = s * number
        return s + k if settings.name == "plain" else s * settings.limits.get("high", 2.0)

    attend = attngen.compile(attngen.attention(score))
    changes: tuple[tuple[str, Any], ...] = (
        ("terms", 3),
        ("act", torch.sigmoid),
        ("name", "scaled"),
        ("limits", {"high": 3.0}),
        ("tables", [1.5]),
        ("act", lambda x: x * 0.5),
    )
    for name, value in changes:
        before = getattr(settings, name)
        setattr(settings, name, value)
        follows(attend.reference, score)
        traces, built = list(attend._following._traces), len(_TABLES)
        for other in (before, value):
            setattr(settings, name, other)
            follows(attend.reference, score)
        assert attend._following._traces == traces
        assert len(_TABLES) == built


def test_lengths_that_decide_a_trace() -> None:
    """An element counted from the end, a sum over all of a row, what a tensor says of itself; not what is indexed by position."""
    held = SimpleNamespace(table=numbers(3, HEADS))
    reads: dict[str, Mod] = {
        "end": lambda s, b, h, q, k: s * held.table[-1, h],
        "sum": lambda s, b, h, q, k: s * held.table[:, h].sum(0),
        "shape": lambda s, b, h, q, k: s * held.table[0, h] * held.table.shape[0],
        "length": lambda s, b, h, q, k: s * len(held.table),
        "slice": lambda s, b, h, q, k: s * held.table[-2:][0, h],
        "position": lambda s, b, h, q, k: s * held.table[q % 3, h] * held.table.T[h, q % 3],
    }
    for name, score in reads.items():
        attend = attngen.compile(attngen.attention(score))
        for length in (3, 4, 3):
            held.table = numbers(length, HEADS, seed=length)
            follows(attend.reference, score)
        assert len(attend._following._traces) == (1 if name == "position" else 2)


FACTOR = 2.0


def test_globals_of_an_inherited_method() -> None:
    class Base:
        def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return s * FACTOR

    class Derived(Base):
        def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            return super().score(s, b, h, q, k)

    global FACTOR
    score = Derived().score
    attend = attngen.compile(attngen.attention(score))
    for FACTOR in (3.0, 4.0):  # noqa: B007
        follows(attend.reference, score)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_numbers_of_every_type() -> None:
    width: Any = 4
    gain = 0.0
    mask = lambda b, h, q, k: q - k < width  # noqa: E731
    attend = attngen.compile(attngen.attention(mask_mod=mask))
    given = 4, 2.5, torch.tensor(3), torch.tensor([3.5, 4.0])[0], 7, True, np.int64(3), np.float32(1.5), float("inf"), 2
    for value in given:
        width = value
        follows(attend.reference, None, mask)
    score = lambda s, b, h, q, k: torch.where(1.0 / (gain * (q + 1.0)) > 0, s, -s)  # noqa: E731
    signed = attngen.compile(attngen.attention(score))
    for gain in (0.0, -0.0, 2.0):  # noqa: B007
        follows(signed.reference, score)
    gain = float("nan")
    with pytest.raises(NaNConstant):
        signed.reference(*tensors())


def test_places_of_other_kinds() -> None:
    """Weak references, context variables, arrays, sets, and objects that the mod makes itself."""
    owner, variable = SimpleNamespace(reach=3), ContextVar("offset", default=2)

    class Owner:
        reach = 3

    class Interval:
        half = 1

        def __init__(self, middle: Any) -> None:
            self.middle, self.most = middle, owner.reach

        def holds(self, k: Any) -> Any:
            return (k - self.middle <= self.half) & (self.middle - k < self.most)

    kept = Owner()
    weak, proxy, array, allowed = weakref.ref(kept), weakref.proxy(kept), np.array([1.0, 2.0]), {1, 2}
    masks: dict[str, tuple[Mod, Callable[[], Any]]] = {
        "weak": (lambda b, h, q, k: q - k < weak().reach, lambda: setattr(kept, "reach", 1)),
        "proxy": (lambda b, h, q, k: q - k < proxy.reach, lambda: setattr(kept, "reach", 5)),
        "context": (lambda b, h, q, k: k <= q + variable.get(), lambda: variable.set(1)),
        "array": (lambda b, h, q, k: q - k < array[0], lambda: array.__setitem__(0, 4.0)),
        "set": (lambda b, h, q, k: q - k < max(allowed), lambda: allowed.add(4)),
        "made": (lambda b, h, q, k: Interval(q).holds(k), lambda: setattr(owner, "reach", 1)),
        "class": (lambda b, h, q, k: Interval(q).holds(k), lambda: setattr(Interval, "half", 3)),
    }
    for mask, change in masks.values():
        attend = attngen.compile(attngen.attention(mask_mod=mask))
        follows(attend.reference, None, mask)
        before = attend.reference(*tensors())
        change()
        follows(attend.reference, None, mask)
        assert not torch.equal(before, attend.reference(*tensors()))


def test_what_a_librarys_object_says() -> None:
    """Methods that need nothing of the trace are asked anew at each call, those of a fake library included."""
    space: dict[str, Any] = {"__name__": "a_library"}
    text = "class Config:\n    def __init__(self): self.width = 3\n    def as_dict(self): return dict(self.__dict__)\n"
    exec(compile(text, sysconfig.get_paths()["purelib"] + "/a_library.py", "exec"), space)
    config = space["Config"]()
    mask = lambda b, h, q, k: (q - k < config.width) & (q - k < config.as_dict()["width"])  # noqa: E731
    attend = attngen.compile(attngen.attention(mask_mod=mask))
    for config.width in (3, 1, 4):
        follows(attend.reference, None, mask)


def test_mask_tiles_follow() -> None:
    width = 64
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: (q >= k) & (q - k < width)))

    def pairs() -> float:
        return attend.mask_tiles(q_len=1024, kv_len=1024, head_dim=64)[0].executed_pairs

    before = pairs()
    width = 512
    assert pairs() > 1.5 * before


def test_what_is_gone_is_said_at_the_users_line() -> None:
    settings = SimpleNamespace(width=3)
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q - k < settings.width))
    del settings.width
    with pytest.raises(TraceError, match="has no attribute 'width'") as raised:
        attend(*tensors())
    assert not isinstance(raised.value, InternalError)
    assert raised.value.loc is not None and raised.value.loc.filename == __file__


# ---- inside of PyTorch


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_model_follows() -> None:
    torch._dynamo.reset()
    net = Net()
    run = torch.compile(net, fullgraph=True, backend="aot_eager")
    net.check(run=run)
    net.slope, net.reach = table(1.0, -1.0), 2
    net.check(run=run)
    terms, bias, width = 2, None, 4
    score = lambda s, b, h, q, k: s * [0.0, 0.5, 1.0, 2.0][terms] + (k if bias is None else bias[h])  # noqa: E731
    mask = lambda b, h, q, k: q - k < width  # noqa: E731
    attend = attngen.compile(attngen.attention(score, mask))
    run = torch.compile(lambda *args: attend(*args), fullgraph=True, backend="aot_eager")
    for terms, bias, width in ((2, None, 4), (3, None, 4), (3, table(1.0, 2.0), 2), (2, None, 3)):  # noqa: B007
        follows(run, score, mask)


def test_threads() -> None:
    net, failures = Net(), []

    def work(first: int) -> None:
        try:
            settings = SimpleNamespace(width=first)
            mask = lambda b, h, q, k: q - k < settings.width  # noqa: E731
            attend = attngen.compile(attngen.attention(mask_mod=mask))
            for settings.width in (first, first + 0.5, first + 1):
                follows(attend.reference, None, mask)
                follows(net.attend.reference, net.score, net.mask)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---- cost


def test_ten_captures_cost_no_more_than_reading_them() -> None:
    """Beside ten plain reads of a module's attributes, which take 4 us."""

    class Ten(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for place in range(5):
                self.register_parameter(f"table{place}", table(1.0, 2.0))
            self.register_buffer("bias", torch.ones(HEADS))
            self.low, self.high, self.gain, self.shift = 4, 5, 0.5, 0.25

        def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
            tables = self.table0[h] * self.table1[h] * self.table2[h] * self.table3[h] * self.table4[h]
            return s * self.gain + tables + self.bias[h] + self.shift

        def mask(self, b: Any, h: Any, q: Any, k: Any) -> Any:
            return (q - k < self.low) & (k - q < self.high)

    net = Ten()
    attend = attngen.compile(attngen.attention(net.score, net.mask))
    names = ("table0", "table1", "table2", "table3", "table4", "bias", "bias", "table0", "table1", "table2")
    assert len(attend._following.now()[1]) == 10

    def plain() -> None:
        for name in names:
            getattr(net, name)

    mine, theirs = (min(timeit.repeat(run, number=500, repeat=20)) for run in (attend._following.now, plain))
    assert mine < 2 * theirs
