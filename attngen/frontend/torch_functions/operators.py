"""Python's operators, for a class that applies operations by name."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any


def _binary(name: str) -> Any:
    return lambda self, other: self.operate(name, other)


def _reflected(name: str) -> Any:
    return lambda self, other: self.operate(name, other, swapped=True)


def _in_place(name: str) -> Any:
    return lambda self, other: self.operate_in_place(name, other)


def _unary(name: str) -> Any:
    return lambda self: self.operate(name)


class Operators:
    """Operators by way of `operate`."""

    __slots__ = ()

    @abstractmethod
    def operate(self, name: str, *others: Any, swapped: bool = False) -> Any:
        """Apply a pointwise operation to this value and others; `swapped` puts this value last."""

    @abstractmethod
    def operate_in_place(self, name: str, other: Any) -> Any:
        """Apply an augmented assignment."""

    __add__, __radd__, __iadd__ = _binary("add"), _reflected("add"), _in_place("add")
    __sub__, __rsub__, __isub__ = _binary("sub"), _reflected("sub"), _in_place("sub")
    __mul__, __rmul__, __imul__ = _binary("mul"), _reflected("mul"), _in_place("mul")
    __truediv__, __rtruediv__, __itruediv__ = _binary("div"), _reflected("div"), _in_place("div")
    __floordiv__, __rfloordiv__, __ifloordiv__ = _binary("floordiv"), _reflected("floordiv"), _in_place("floordiv")
    __mod__, __rmod__, __imod__ = _binary("mod"), _reflected("mod"), _in_place("mod")
    __pow__, __rpow__, __ipow__ = _binary("pow"), _reflected("pow"), _in_place("pow")
    __and__, __rand__, __iand__ = _binary("bitwise_and"), _reflected("bitwise_and"), _in_place("bitwise_and")
    __or__, __ror__, __ior__ = _binary("bitwise_or"), _reflected("bitwise_or"), _in_place("bitwise_or")
    __xor__, __rxor__, __ixor__ = _binary("bitwise_xor"), _reflected("bitwise_xor"), _in_place("bitwise_xor")
    __lshift__, __rlshift__ = _binary("bitwise_left_shift"), _reflected("bitwise_left_shift")
    __rshift__, __rrshift__ = _binary("bitwise_right_shift"), _reflected("bitwise_right_shift")
    __lt__, __le__, __gt__, __ge__ = _binary("lt"), _binary("le"), _binary("gt"), _binary("ge")
    __eq__, __ne__ = _binary("eq"), _binary("ne")
    __neg__, __pos__, __abs__, __invert__ = _unary("neg"), _unary("positive"), _unary("abs"), _unary("bitwise_not")

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self


NAMES: dict[str, tuple[str, bool]] = {
    f"__{side}{python}__": (name, side == "r")
    for python, name in {
        "add": "add",
        "sub": "sub",
        "mul": "mul",
        "truediv": "div",
        "div": "div",
        "floordiv": "floordiv",
        "mod": "mod",
        "pow": "pow",
        "and": "bitwise_and",
        "or": "bitwise_or",
        "xor": "bitwise_xor",
        "lshift": "bitwise_left_shift",
        "rshift": "bitwise_right_shift",
    }.items()
    for side in ("", "r")
} | {
    **{f"__{name}__": (name, False) for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "abs")},
    "__pos__": ("positive", False),
    "__invert__": ("bitwise_not", False),
}
"""The operator methods of a captured tensor, as torch names them: the operation, and whether the operands come swapped."""
