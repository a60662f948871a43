"""What a traced call cannot look at: types, devices, captured values, lengths."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.ir.cascade import operand_of, without_features
from attngen.pipeline import Program
from attngen.runtime import arguments as binding
from attngen.runtime.ordering import without_order
from attngen.runtime.overflow import check_numbers
from attngen.runtime.reach import Short, indexed, short_tensors


class Checks:
    """The checks of the calls of one variant; those of numbers are made once for equal numbers and lengths."""

    def __init__(self, spec: Spec, program: Program) -> None:
        cascade, self._refused = program.cascade, program.refused
        self._operand = operand_of(cascade.inputs, program.features).name
        self._singles = frozenset(item.name for item in without_features(cascade.inputs, program.features))
        self._spec = spec
        self._indexed = indexed(cascade)
        self._check_numbers = functools.lru_cache(maxsize=64)(functools.partial(check_numbers, cascade))
        self._converted = binding.whole_only(spec.cascade)

    def lengths(self, extents: Mapping[str, int], captures: Mapping[str, object]) -> Short:
        """Check what the lengths of a call alone decide: what is read at its positions reaches as far.

        Args:
            extents: of all axes but features.
            captures: what they hold at this call.

        Returns:
            The captured tensors that only reach as far as the mask lets positions count.

        Raises:
            ShapeMismatch, ArgumentError
        """
        spec = self._spec
        if spec.blocks is not None:
            spec.blocks.check(extents["m"], extents["n"], extents["b"], extents["g"] * extents["r"])
        if spec.order is not None:
            spec.order.check(*(extents[axis] for axis in spec.order.axes))
        places = spec.order.places if spec.order is not None else None
        self._check_numbers(tuple((name, value) for name, value in captures.items() if type(value) is int), tuple(extents.items()))
        return short_tensors(self._indexed, captures, extents, places)

    def __call__(self, tensors: Sequence[Tensor], extents: Mapping[str, int], captures: Mapping[str, object]) -> Short:
        """Check one call.

        Args:
            tensors: its arguments. extents: of their axes. captures: what they hold at this call.

        Returns:
            As `lengths`.

        Raises:
            ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentError, NotDifferentiable
        """
        spec = self._spec
        inputs = spec.cascade.inputs[: len(tensors)]
        binding.check_types(inputs, tensors, without_order(spec, captures), self._operand, self._singles)
        binding.refuse_gradients(self._refused, spec.cascade, tensors, captures)
        binding.refuse_lost_gradients(self._converted, spec.cascade, tensors, captures)
        binding.refuse_transforms([*tensors, *(value for value in captures.values() if isinstance(value, Tensor))])
        return self.lengths(extents, captures)
