"""One variant as it was traced, compiled: what runs for the lengths of a call, for given values of its captures.

Several forms of it come about on demand: with its logsumexp, without dropout, with tokens in classes or heads in rows, with its stream in
parts. They are variants themselves, and take the values that were read once for a call.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from attngen.frontend.dropout import without_dropout
from attngen.frontend.spec import Spec, captured_lengths, with_lse
from attngen.interpreter.torch_reference import reference as evaluate
from attngen.pipeline import Program, Source
from attngen.runtime import arguments as binding
from attngen.runtime.checks import Checks
from attngen.runtime.classes import classes_pay, in_classes, number_of_classes
from attngen.runtime.devices import Follower
from attngen.runtime.forms import settle_forms
from attngen.runtime.handle import feature_lengths, given_lengths
from attngen.runtime.options import Options, forward_only, in_parts_only
from attngen.runtime.ordering import lengths, put_back, taken
from attngen.runtime.packing import are_stored, few, in_rows
from attngen.runtime.reach import Short, guarded
from attngen.runtime.shared import shared_kernels
from attngen.runtime.splitting import is_divided
from attngen.runtime.torch_op import operators
from attngen.targets import table as targets

Values = Mapping[str, Any]
"""Captures by name."""


class Variant:
    """Attributes:
    spec: what was compiled.
    options: with which options.
    """

    def __init__(self, spec: Spec, options: Options) -> None:
        self.spec = spec
        self.options = options
        self._captured = tuple(capture.name for capture in spec.captures)
        given = [*(item.name for item in spec.arguments), *self._captured]
        self._places = tuple(given.index(item.name) for item in spec.cascade.inputs)
        self._on_device = Follower().on
        self._kernels = shared_kernels(spec.cascade, spec.name, options)
        self._operators = operators(self._kernels)
        self._check = Checks(spec, self.program)
        self._guarded: dict[Short, Variant] = {}
        self._of_classes: dict[int, Variant | None] = {}

    @property
    def program(self) -> Program:
        """The analysed variant: cascades, kernels, saved state."""
        return self._kernels.program

    # ---- forms

    def _asked(self, return_lse: bool, training: bool) -> Variant:
        """The form for the options of a call."""
        chosen = self if training or self.spec.seed is None else self._without_dropout
        return chosen._with_lse if return_lse and not chosen.spec.on_request else chosen

    @functools.cached_property
    def _with_lse(self) -> Variant:
        """The same variant with its one logsumexp as an extra output."""
        return Variant(with_lse(self.spec), self.options)

    @functools.cached_property
    def _without_dropout(self) -> Variant:
        """The same variant for inference."""
        return Variant(without_dropout(self.spec), self.options)

    def _reaching(self, short: Short) -> Variant:
        """The variant whose loads of these captured tensors look at their sizes."""
        if short and short not in self._guarded:
            self._guarded[short] = Variant(guarded(self.spec, short), self.options)
        return self._guarded[short] if short else self

    @functools.cached_property
    def _number_of_classes(self) -> str | int:
        return number_of_classes(self.spec)

    def _in_classes(self, captures: Values | None = None) -> Variant | None:
        """The variant with tokens in classes of equal remainder, where its mask has such gaps; their number may be a captured one."""
        number = self._number_of_classes
        given = {capture.name: capture.value for capture in self.spec.captures} if captures is None else captures
        value = given.get(number, 0) if isinstance(number, str) else number
        if type(value) is not int:
            return None
        if value not in self._of_classes:
            spec = in_classes(self.spec, {number: value} if isinstance(number, str) else {}) if value > 1 else None
            self._of_classes[value] = None if spec is None else Variant(spec, self.options)
        return self._of_classes[value]

    @functools.cached_property
    def _in_rows(self) -> Variant | None:
        """The variant without gradients whose rows are pairs of position and head, where heads share what is streamed."""
        spec = in_rows(self.spec)
        options = replace(self.options, schedule=forward_only(self.options.schedule), gradients=False)
        return None if spec is None else Variant(spec, options)

    @functools.cached_property
    def _in_parts(self) -> Variant:
        """The variant without gradients whose stream programs share."""
        return Variant(self.spec, replace(self.options, schedule=in_parts_only(self.options.schedule), gradients=False, divided=True))

    def _suited(self, extents: Mapping[str, int], tensors: Sequence[Tensor] = (), captures: Values | None = None) -> Variant:
        """What runs for these lengths: this, the variant with tokens in classes, or that with heads in rows, which has no gradients."""
        target, classes = targets.get(self.options.arch or "sm90"), self._in_classes(captures)
        if classes is not None and classes.spec.classes is not None and classes_pay(classes.spec.classes, extents, target):
            return classes
        rows = self._in_rows if few(extents[self.program.streamed.resident]) else None
        if rows is None or rows.spec.packing is None or extents.get(rows.spec.packing.heads, 1) == 1:
            return self
        return self if self._asks_gradient(tensors, captures) else self._if_stored(rows, extents, tensors)

    def _divided(self, extents: Mapping[str, int], tensors: Sequence[Tensor], captures: Values | None = None) -> Variant:
        """This, or with its stream in parts, where its programs would leave the device idle."""
        divided = is_divided(self.spec, self._kernels, extents, tensors[0].device)
        if not divided or self._asks_gradient(tensors, captures):
            return self
        return self._if_stored(self._in_parts, extents, tensors)

    def _asks_gradient(self, tensors: Sequence[Tensor], captures: Values | None) -> bool:
        given = (capture.value for capture in self.spec.captures) if captures is None else captures.values()
        return binding.asks_gradient((*tensors, *given))

    def _if_stored(self, other: Variant, extents: Mapping[str, int], tensors: Sequence[Tensor]) -> Variant:
        """Another form of this, unless strict mode lacks its kernels."""
        strict = bool(tensors) and other._kernels.knobs.strict
        return self if strict and not are_stored(other._kernels, other.spec, self.dims(extents=extents), extents, tensors) else other

    # ---- running

    def _run(self, views: Sequence[Tensor], extents: Mapping[str, int], captures: Values, return_lse: bool, seed: Tensor | None) -> Any:
        """The results of a call, from tensors whose dimensions are the axes of the cascade."""
        tensors = taken(self.spec, views, extents, self._on_device)
        device = views[0].device
        given = self._completed(captures, extents, seed)
        values = [*tensors, *(self._on_device(given[name], device) for name in self._captured)]
        results = self._operators.forward(*(values[place] for place in self._places))
        return self._returned(results if isinstance(results, tuple) else (results,), extents, return_lse)

    def _evaluated(
        self, views: Sequence[Tensor], extents: Mapping[str, int], captures: Values, return_lse: bool, seed: Tensor | None
    ) -> Any:
        """The same in plain PyTorch."""
        views = taken(self.spec, views, extents, self._on_device)
        names = [argument.name for argument in self.spec.arguments]
        given = self._completed(captures, extents, seed)
        values = {**dict(zip(names, views, strict=True)), **{name: given[name] for name in self._captured}}
        found = evaluate(self.spec.cascade, values)
        return self._returned([found[output.name] for output in self.spec.outputs], extents, return_lse)

    def _completed(self, captures: Values, extents: Mapping[str, int], seed: Tensor | None) -> Values:
        if seed is None and self.spec.packing is None and self.spec.classes is None:
            return captures
        given = {**captures, **lengths(self.spec, extents)}
        return given | {self.spec.seed: seed} if self.spec.seed is not None and seed is not None else given

    def _returned(self, results: Sequence[Tensor], extents: Mapping[str, int], return_lse: bool) -> Any:
        shaped = [
            binding.join(put_back(self.spec, output.name, result, extents, self._on_device), output.pattern)
            for output, result in zip(self.spec.outputs, results, strict=False)
            if return_lse or output.name not in self.spec.on_request
        ]
        if self.spec.keys is not None:
            return dict(zip(self.spec.keys, shaped, strict=False))
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    # ---- building

    def _built(self, dtype: str, dims: Mapping[str, int], captures: Values) -> Source:
        """The source of the module for these lengths, with its tiles settled; and that of tokens in classes."""
        kernels = self._kernels.at(dtype)
        settle_forms(kernels, dims, dtype, targets.get(self.options.arch or "sm90"))
        if (classes := self._in_classes(captures)) is not None:
            classes._built(dtype, classes.dims(extents=dims), captures)
        return kernels.source(dims)

    def dims(self, head_dim: int | tuple[int, ...] | None = None, extents: Mapping[str, int] | None = None) -> dict[str, int]:
        """Feature axis -> length."""
        features, known = self.program.features, captured_lengths(self.spec)
        return feature_lengths(features, head_dim, known) if extents is None else given_lengths(features, extents, known)
