"""Types of Triton's language made once instead of at every operation, while the interpreter runs.

Its tensors build their shape, their element count and their block type anew for each result, and its tuples describe the types of all
their items; together that is most of the time of an interpreted program. The values are the same, only kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from attngen.interpreter.triton_api import interpreter as base
from attngen.interpreter.triton_api import tl

_BLOCK_INIT = tl.block_type.__init__
_TENSOR_INIT = tl.tensor.__init__
_TUPLE_INIT = tl.tuple.__init__
_TUPLE_FIELD = tl.tuple.__getattr__
_NUMPY_TYPE = base._get_np_dtype
_BLOCKS: dict[tuple[Any, ...], dict[str, Any]] = {}
_TENSORS: dict[str, dict[str, Any]] = {}


def replacements() -> list[tuple[Any, str, Any]]:
    """What to exchange, as (owner, name, replacement)."""
    return [
        (base, "_get_np_dtype", _numpy_type),
        (tl.block_type, "__init__", _block_init),
        (tl.tensor, "__init__", _tensor_init),
        (tl.tuple, "__init__", _tuple_init),
        (tl.tuple, "__getattr__", _tuple_field),
    ]


def _numpy_type(kind: Any) -> Any:
    scalar = kind.scalar
    return np.dtype(np.uint64) if isinstance(scalar, tl.pointer_type) else _numpy_scalar(scalar.name)


@cache
def _numpy_scalar(name: str) -> Any:
    return _NUMPY_TYPE(tl.dtype(name))


def _block_init(self: Any, element_ty: Any, shape: Any) -> None:
    key = (str(element_ty), *(getattr(extent, "value", extent) for extent in shape))
    if key not in _BLOCKS:
        _BLOCK_INIT(self, element_ty, shape)
        _BLOCKS[key] = dict(vars(self))
    vars(self).update(_BLOCKS[key], element_ty=element_ty)


def _tensor_init(self: Any, handle: Any, type: Any) -> None:
    known = _TENSORS.get(type.name)
    if known is None:
        _TENSOR_INIT(self, handle, type)
        known = _TENSORS[type.name] = {name: value for name, value in vars(self).items() if name not in ("handle", "type")}
    vars(self).update(known, handle=handle, type=type)


def _tuple_init(self: Any, args: Any, type: Any = None) -> None:
    if type is not None:
        _TUPLE_INIT(self, args, type)
    else:
        self.values = list(args)


def _tuple_field(self: Any, name: str) -> Any:
    """The type of a tuple, when it is asked for; else a named item."""
    if name != "type":
        return _TUPLE_FIELD(self, name)
    _TUPLE_INIT(self, self.values)
    return self.type
