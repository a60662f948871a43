"""Ways in which a mod reads a tensor and a number, each with how a user binds them anew.

A holder gives two mods that read `bias`, a table of one number a head, and `reach`, an integer; `put` binds one of them to something else
where it lies. Plain Python calls the same mods, so that what they read is what they would read under FlexAttention.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Mod = Callable[..., Any]
BIAS, REACH = None, 0
SPACE = types.ModuleType("a_users_module")


@dataclass
class Holder:
    """Two mods and how to bind what they read. `whole` is an object to copy or pickle along with what is compiled, if there is one."""

    score: Mod
    mask: Mod
    put: Callable[[str, Any], None]
    whole: Any = None


def added(score: Any, bias: Any, h: Any, q: Any, k: Any) -> Any:
    return score if bias is None else score + bias[h] * (k - q)


def near(reach: Any, q: Any, k: Any) -> Any:
    return (q - k < reach) & (k - q < 2 * reach)


def variables(bias: Any, reach: Any) -> Holder:
    def put(name: str, value: Any) -> None:
        nonlocal bias, reach
        if name == "bias":
            bias = value
        else:
            reach = value

    return Holder(lambda s, b, h, q, k: added(s, bias, h, q, k), lambda b, h, q, k: near(reach, q, k), put)


def score_of_globals(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return added(s, BIAS, h, q, k)


def mask_of_globals(b: Any, h: Any, q: Any, k: Any) -> Any:
    return near(REACH, q, k)


def module_globals(bias: Any, reach: Any) -> Holder:
    def put(name: str, value: Any) -> None:
        setattr(sys.modules[__name__], name.upper(), value)

    put("bias", bias)
    put("reach", reach)
    return Holder(score_of_globals, mask_of_globals, put)


def attributes_of_a_module(bias: Any, reach: Any) -> Holder:
    SPACE.bias, SPACE.reach = bias, reach  # type: ignore[attr-defined]
    return Holder(
        lambda s, b, h, q, k: added(s, SPACE.bias, h, q, k),  # type: ignore[attr-defined]
        lambda b, h, q, k: near(SPACE.reach, q, k),  # type: ignore[attr-defined]
        functools.partial(setattr, SPACE),
    )


def reading(owner: Any, put: Callable[[str, Any], None] | None = None) -> Holder:
    """Closures that read attributes of an object."""
    return Holder(
        lambda s, b, h, q, k: added(s, owner.bias, h, q, k),
        lambda b, h, q, k: near(owner.reach, q, k),
        put or functools.partial(setattr, owner),
        owner,
    )


def namespace(bias: Any, reach: Any) -> Holder:
    return reading(types.SimpleNamespace(bias=bias, reach=reach))


@dataclass
class Settings:
    bias: Any
    reach: Any


def data(bias: Any, reach: Any) -> Holder:
    return reading(Settings(bias, reach))


class Slotted:
    __slots__ = ("bias", "reach")


def slots(bias: Any, reach: Any) -> Holder:
    owner = Slotted()
    owner.bias, owner.reach = bias, reach
    return reading(owner)


class Shared:
    bias: Any = None
    reach = 0


def of_the_class(bias: Any, reach: Any) -> Holder:
    put = functools.partial(setattr, Shared)
    put("bias", bias)
    put("reach", reach)
    return reading(Shared(), put)


def the_class_itself(bias: Any, reach: Any) -> Holder:
    return replaced(of_the_class(bias, reach), reading(Shared, functools.partial(setattr, Shared)))


def replaced(_: Holder, other: Holder) -> Holder:
    other.whole = None
    return other


class Computed:
    """Properties over what it keeps."""

    def __init__(self, bias: Any, reach: Any) -> None:
        self.kept = {"bias": bias, "reach": reach}

    @property
    def bias(self) -> Any:
        return None if self.kept["bias"] is None else self.kept["bias"] * 0.5

    @property
    def reach(self) -> Any:
        return self.kept["reach"] + 1


def properties(bias: Any, reach: Any) -> Holder:
    owner = Computed(bias, reach)
    return reading(owner, owner.kept.__setitem__)


class Anything:
    def __init__(self, **values: Any) -> None:
        self.__dict__["values"] = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None


def fallback(bias: Any, reach: Any) -> Holder:
    owner = Anything(bias=bias, reach=reach)
    return reading(owner, owner.__dict__["values"].__setitem__)


def path(bias: Any, reach: Any) -> Holder:
    model = types.SimpleNamespace(layers=[types.SimpleNamespace(config={"reach": reach, "bias": bias})])
    return Holder(
        lambda s, b, h, q, k: added(s, model.layers[0].config["bias"], h, q, k),
        lambda b, h, q, k: near(model.layers[-1].config.get("reach"), q, k),
        lambda name, value: setattr(model, "layers", [types.SimpleNamespace(config={**model.layers[0].config, name: value})]),
        model,
    )


def items(bias: Any, reach: Any) -> Holder:
    tables: dict[str, list[Any]] = {"bias": [None, bias], "reach": [reach]}

    def put(name: str, value: Any) -> None:
        tables[name][-1] = value

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return near(tables["reach"][0], q, k)

    return Holder(lambda s, b, h, q, k: added(s, tables["bias"][1], h, q, k), mask, put, tables)


class Read(Mapping[str, Any]):
    """A mapping of the user's, with methods of the standard library."""

    def __init__(self, **values: Any) -> None:
        self.values_ = values

    def __getitem__(self, name: str) -> Any:
        return self.values_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_)

    def __len__(self) -> int:
        return len(self.values_)


class Attributes(dict[str, Any]):
    """A dict whose items are attributes, and which raises KeyError where it has none."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def mappings(bias: Any, reach: Any) -> Holder:
    mine, other = Read(bias=bias, reach=reach), Attributes(bias=bias, reach=reach)
    shown = types.MappingProxyType(other)

    def put(name: str, value: Any) -> None:
        mine.values_[name] = other[name] = value

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        return near(mine.get("reach", 0), q, k) & near(shown["reach"], q, k)

    return Holder(lambda s, b, h, q, k: added(s, mine["bias"] if len(mine) == 2 else other.bias, h, q, k), mask, put, (mine, other))


class Pair(NamedTuple):
    bias: Any
    reach: Any


def tuples(bias: Any, reach: Any) -> Holder:
    pair, plain = Pair(bias, reach), (bias, reach)

    def put(name: str, value: Any) -> None:
        nonlocal pair, plain
        pair = pair._replace(**{name: value})
        plain = tuple(pair)

    def mask(b: Any, h: Any, q: Any, k: Any) -> Any:
        _, reach = plain
        return near(reach, q, k)

    return Holder(lambda s, b, h, q, k: added(s, pair.bias, h, q, k), mask, put)


def defaults(bias: Any, reach: Any) -> Holder:
    def score(s: Any, b: Any, h: Any, q: Any, k: Any, bias: Any = bias) -> Any:
        return added(s, bias, h, q, k)

    def mask(b: Any, h: Any, q: Any, k: Any, *, reach: Any = reach) -> Any:
        return near(reach, q, k)

    def put(name: str, value: Any) -> None:
        if name == "bias":
            score.__defaults__ = (value,)
        else:
            mask.__kwdefaults__ = {"reach": value}

    return Holder(score, mask, put)


def partials(bias: Any, reach: Any) -> Holder:
    def score(bias: Any, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return added(s, bias, h, q, k)

    def mask(b: Any, h: Any, q: Any, k: Any, reach: Any) -> Any:
        return near(reach, q, k)

    given = {"score": functools.partial(score, bias), "mask": functools.partial(mask, reach=reach)}

    def put(name: str, value: Any) -> None:
        given.update({"score": functools.partial(score, value)} if name == "bias" else {"mask": functools.partial(mask, reach=value)})

    return Holder(lambda *args: given["score"](*args), lambda *args: given["mask"](*args), put)


class Plain:
    """Bound methods."""

    def __init__(self, bias: Any, reach: Any) -> None:
        self.bias, self.reach = bias, reach

    def table(self) -> Any:
        return self.bias

    def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return added(s, self.table(), h, q, k)

    def mask(self, b: Any, h: Any, q: Any, k: Any) -> Any:
        return near(self.reach, q, k)


class Derived(Plain):
    def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return super().score(s, b, h, q, k)

    def mask(self, b: Any, h: Any, q: Any, k: Any) -> Any:
        return super().mask(b, h, q, k)


def bound(kind: type[Plain], bias: Any, reach: Any) -> Holder:
    owner = kind(bias, reach)
    return Holder(owner.score, owner.mask, functools.partial(setattr, owner), owner)


class Callables:
    """Objects with `__call__`, and `__getitem__` of their own."""

    def __init__(self, bias: Any) -> None:
        self.kept = bias

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __call__(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return added(s, self["kept"], h, q, k)


def callables(bias: Any, reach: Any) -> Holder:
    score, mask = Callables(bias), Plain(None, reach)
    put = lambda name, value: setattr(score, "kept", value) if name == "bias" else setattr(mask, "reach", value)  # noqa: E731
    return Holder(score, lambda b, h, q, k: mask.mask(b, h, q, k), put, score)


class Net(torch.nn.Module):
    """Parameters and buffers, read by methods, in a module of modules."""

    def __init__(self, bias: Any, reach: Any) -> None:
        super().__init__()
        self.inner = torch.nn.Module()
        self.inner.register_parameter("bias", None)
        self.tables = torch.nn.ParameterList()
        self.reach = reach
        self.put("bias", bias)

    def put(self, name: str, value: Any) -> None:
        if name == "reach":
            self.reach = value
            return
        self.inner.bias = None if value is None else torch.nn.Parameter(value.detach().clone())
        self.tables = torch.nn.ParameterList([] if value is None else [value.detach().clone()])

    def score(self, s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        s = added(s, self.inner.bias, h, q, k)
        return s if len(self.tables) == 0 else s * self.tables[0][h]

    def mask(self, b: Any, h: Any, q: Any, k: Any) -> Any:
        return near(self.reach, q, k)


def parameters(bias: Any, reach: Any) -> Holder:
    net = Net(bias, reach)
    return Holder(net.score, net.mask, net.put, net)


class Buffered(torch.nn.Module):
    def __init__(self, bias: Any, reach: Any) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        self.reach = reach

    def forward(self, s: Any, h: Any, q: Any, k: Any) -> Any:
        return added(s, self.bias, h, q, k)


def called(bias: Any, reach: Any) -> Holder:
    """A module that is called like a function."""
    net = Buffered(bias, reach)
    return Holder(lambda s, b, h, q, k: net(s, h, q, k), lambda b, h, q, k: near(net.reach, q, k), functools.partial(setattr, net), net)


def helpers(bias: Any, reach: Any) -> Holder:
    """Functions that a function calls, bound anew themselves."""

    def made(bias: Any) -> Mod:
        return lambda s, h, q, k: added(s, bias, h, q, k)

    functions = {"bias": made(bias), "reach": lambda q, k: near(reach, q, k)}

    def put(name: str, value: Any) -> None:
        functions[name] = made(value) if name == "bias" else lambda q, k: near(value, q, k)

    return Holder(lambda s, b, h, q, k: functions["bias"](s, h, q, k), lambda b, h, q, k: functions["reach"](q, k), put)


def views(bias: Any, reach: Any) -> Holder:
    """A view that is taken in the mod, and what a tensor tells about itself."""
    held = types.SimpleNamespace(table=None if bias is None else bias[:, None], reach=reach)

    def score(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s if held.table is None else added(s, held.table.T[0], h, q, k) * held.table.shape[0] + held.table[-1, 0]

    def put(name: str, value: Any) -> None:
        if name == "reach":
            held.reach = value
        else:
            held.table = None if value is None else value[:, None]

    return Holder(score, lambda b, h, q, k: near(held.reach, q, k), put, held)


HOLDERS: dict[str, Callable[[Any, Any], Holder]] = {
    "variables of a closure": variables,
    "globals": module_globals,
    "attributes of a Python module": attributes_of_a_module,
    "a namespace": namespace,
    "a dataclass": data,
    "slots": slots,
    "attributes of a class, through an object": of_the_class,
    "attributes of a class": the_class_itself,
    "properties": properties,
    "__getattr__": fallback,
    "a path of attributes and items": path,
    "items": items,
    "tuples": tuples,
    "mappings": mappings,
    "defaults": defaults,
    "partials": partials,
    "bound methods": functools.partial(bound, Plain),
    "inherited methods": functools.partial(bound, Derived),
    "callable objects": callables,
    "parameters of a module": parameters,
    "a module that is called": called,
    "helper functions": helpers,
    "views": views,
}
