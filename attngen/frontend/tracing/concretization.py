"""Concretization: Python's requests for a traced value's truth, number or hash, and for its type and shape.

Values are known for literals, and for captured numbers once they are baked in. Everything else raises an error that says what to write
instead.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from attngen.errors import DataDependentBranch, TracedConversion, TracedIteration, UnsupportedOperation
from attngen.ir.expr import Kind

_DTYPE: dict[Kind, torch.dtype] = {"float": torch.float32, "int": torch.int32, "bool": torch.bool}
FROM_NUMPY = (
    "Make a tensor of it once, outside: table = torch.from_numpy(table) or torch.as_tensor(table). For functions of numpy use torch's."
)
_LENGTHS = 'Write attngen.extent("d") for the length of an axis; in a score or mask function, capture the number.'
_LISTED = "Make a tensor of the indexed list, outside: table = torch.tensor(table), then table[h]. Loops run over Python numbers."


class Dimensionless(tuple[int, ...]):
    """The shape of one element."""

    __slots__ = ()

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, int):
            raise TracedIteration(f"dimension {item} of a traced value: it is one element, whose axes have names", remedy=_LENGTHS)
        return super().__getitem__(item)


def no_operand(value: object) -> UnsupportedOperation:
    """The error for something that is neither a number nor a tensor."""
    remedy = FROM_NUMPY if type(value).__module__ == "numpy" else "Compute with numbers and tensors."
    return UnsupportedOperation(f"an operation on a {type(value).__name__} and a traced value", remedy=remedy)


class Definite:
    """The conversions of Python's data model, for a class with partly known values."""

    __slots__ = ()

    @abstractmethod
    def known(self) -> bool | int | float | None:
        """The value, or None where it depends on the position."""

    def concrete(self, wanted: str, remedy: str = "") -> bool | int | float:
        """The value, for an operation that needs one.

        Raises:
            TracedConversion: the value depends on the position.
        """
        if (value := self.known()) is not None:
            return value
        raise TracedConversion(
            f"{wanted} needs a number, but a traced value stands for all positions at once",
            remedy=remedy or "Use the equivalent torch function (torch.exp, torch.floor, .int(), ...), which attngen can trace.",
        )

    def __bool__(self) -> bool:
        if (value := self.known()) is not None:
            return bool(value)
        raise DataDependentBranch(
            "Python asks whether a traced value is true (`if`, `while`, `and`, `or`, `not`, chained comparison, min(), max())",
            remedy="The function is traced once for all positions. Write torch.where(condition, a, b), and & | ~ for and, or, not.",
        )

    def __float__(self) -> float:
        return float(self.concrete("float() or a function of math"))

    def __int__(self) -> int:
        return int(self.concrete("int()"))

    def __complex__(self) -> complex:
        return complex(self.concrete("complex()"))

    def __index__(self) -> int:
        value = self.concrete("range(), a list index or an operation outside torch", _LISTED)
        if isinstance(value, float):
            raise TypeError("'float' object cannot be interpreted as an integer")
        return int(value)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.concrete("round()"), digits)

    def __hash__(self) -> int:
        return hash(self.concrete("a dictionary, a set or a cache", _LISTED))

    def __contains__(self, _: object) -> bool:
        raise TracedIteration("`in` with a traced value", remedy="Compare with == and combine with |.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TracedConversion("numpy was given a traced value", remedy=FROM_NUMPY)

    __array_ufunc__ = numpy = __array__

    def item(self) -> bool | int | float:
        return self.concrete(".item()")

    tolist = item


class Described:
    """Tensor metadata, for a class with a kind and remaining dimensions."""

    __slots__ = ()

    kind: Kind
    dims: tuple[tuple[str, int], ...]
    narrow: torch.dtype | None

    @abstractmethod
    def observe(self, *axes: str) -> None:
        """Note that the trace depends on the lengths of these dimensions, or of all remaining ones."""

    @property
    def shape(self) -> Any:
        self.observe()
        return torch.Size(size for _, size in self.dims) if self.dims else Dimensionless()

    @property
    def dtype(self) -> torch.dtype:
        return _DTYPE[self.kind] if self.narrow is None else self.narrow

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def ndim(self) -> int:
        return len(self.dims)

    def is_floating_point(self) -> bool:
        return self.kind == "float"

    def dim(self) -> int:
        return len(self.dims)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]
