"""What a traced call cannot look at: types, devices, captured values, lengths."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.ir.cascade import Cascade
from attngen.runtime import arguments as binding
from attngen.runtime.ordering import without_order
from attngen.runtime.overflow import check_numbers


class Checks:
    """The checks of the calls of one variant; those of numbers are made once for equal numbers and lengths."""

    def __init__(self, spec: Spec, cascade: Cascade) -> None:
        self._spec = spec
        self._cascade = cascade
        self._check_numbers = functools.lru_cache(maxsize=64)(functools.partial(check_numbers, cascade))
        self._converted = binding.whole_only(spec.cascade)

    def __call__(self, tensors: Sequence[Tensor], extents: Mapping[str, int], captures: Mapping[str, object]) -> None:
        """Check one call.

        Args:
            tensors: its arguments. extents: of their axes. captures: what they hold at this call.

        Raises:
            ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentError, NotDifferentiable
        """
        spec = self._spec
        binding.check_types(spec.cascade.inputs[: len(tensors)], tensors, without_order(spec, captures))
        if spec.blocks is not None:
            spec.blocks.check(extents["m"], extents["n"])
        if spec.order is not None:
            spec.order.check(*(extents[axis] for axis in spec.order.axes))
        places = spec.order.places if spec.order is not None else None
        binding.check_captures(self._cascade, captures, extents, places)
        self._check_numbers(tuple((name, value) for name, value in captures.items() if type(value) is int), tuple(extents.items()))
        binding.refuse_lost_gradients(self._converted, spec.cascade, tensors, captures)
        binding.refuse_forward_mode([*tensors, *(value for value in captures.values() if isinstance(value, Tensor))])
