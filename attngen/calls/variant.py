"""One variant as it was traced, compiled: its forms by what a call asks for, and the plans of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Buffer, Parameter

from attngen.calls import arguments as binding
from attngen.calls import refused_gradients
from attngen.calls.prepared_call import PreparedCall, is_looked_into
from attngen.calls.seeds import drawn, followed
from attngen.calls.spec_form import SpecForm, Values
from attngen.errors import ArgumentError
from attngen.frontend.dropout import without_dropout
from attngen.frontend.spec import Spec, captured_lengths, with_lse
from attngen.pipeline import Program, Source
from attngen.plan.call_plan import CallPlan, plan_call
from attngen.plan.feature_lengths import feature_lengths, given_lengths
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.plan.short_captures import Short, guarded
from attngen.schedule.choose import Request
from attngen.targets import table as targets

_PLAIN = frozenset((Tensor, Parameter, Buffer))
_MOST = 256
"""Plans that are kept at once."""


class Variant:
    """Attributes:
    spec: what was compiled.
    options: with which options.
    """

    def __init__(self, spec: Spec, options: Options) -> None:
        self.spec = spec
        self.options = options
        self._forms: dict[tuple[bool, bool, Short], SpecForm] = {}
        self._calls: dict[tuple[Any, ...], tuple[SpecForm, PreparedCall] | None] = {}
        self.whole = self._forms[False, True, frozenset()] = SpecForm(spec, options)

    @property
    def program(self) -> Program:
        """The analysed variant: cascades, kernels, saved state."""
        return self.whole.table.program(ProgramKey())

    def form(self, return_lse: bool, training: bool, short: Short = frozenset()) -> SpecForm:
        """The form for a call.

        Args:
            return_lse: with its one logsumexp as an output. training: with its dropout.
            short: captured tensors whose loads look at their size.

        Raises:
            ArgumentError: it has no logsumexp, several, or returns it anyway.
        """
        key = (return_lse and not self.spec.on_request, training or self.spec.seed is None, short)
        if key not in self._forms:
            spec = self.spec if key[1] else without_dropout(self.spec)
            spec = with_lse(spec) if key[0] else spec
            self._forms[key] = SpecForm(guarded(spec, short) if short else spec, self.options)
        return self._forms[key]

    def prepare_graphs(self) -> None:
        """Make the forms and operators that a compiler of bytecode may meet in a call."""
        for return_lse in (False, True):
            for training in (True, False):
                try:
                    self.form(return_lse, training).registered()
                except ArgumentError:
                    # Its calls are refused when they are made.
                    continue

    # ---- running

    def call(
        self,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        captures: Values,
        *,
        return_lse: bool,
        seed: int | Tensor | None,
        return_seed: bool,
        training: bool,
    ) -> Any:
        """The results of a call of the user's, whose captures have these values."""
        tensors = binding.autocast(binding.bind(self.spec, args, kwargs), self.spec, self.whole.table.axes.features)
        found = None if is_looked_into() else self._prepared(tensors, captures, return_lse, training)
        if found is None:
            return self._recorded(tensors, captures, return_lse, seed, return_seed, training)
        form, call = found
        used = drawn(form.spec, seed if training else None, return_seed, call.device)
        if used is not None:
            captures = {**captures, form.spec.seed or "": used}
        form.numbers.check(captures, call.extents)
        if call.plan.facts.short:
            # What counts of a short tensor depends on the values of others.
            self.form(return_lse, training).check_lengths(call.extents, captures)
        if torch.autograd.forward_ad._current_level >= 0:
            refused_gradients.refuse_transforms([*tensors, *(value for value in captures.values() if isinstance(value, Tensor))])
        result = call(tensors, captures)
        return followed(result, used) if return_seed else result

    def _recorded(
        self, tensors: list[Tensor], captures: Values, return_lse: bool, seed: int | Tensor | None, return_seed: bool, training: bool
    ) -> Any:
        """A call that PyTorch looks into."""
        form = self.form(return_lse, training)
        views, extents = binding.split(form.spec, tensors)
        used = drawn(form.spec, seed if training else None, return_seed, views[0].device)
        if not binding.is_symbolic(extents):
            form = self.form(return_lse, training, form.check(tensors, extents, captures))
        result = form.recorded(views, extents, _seeded(form, captures, used), return_lse)
        return followed(result, used) if return_seed else result

    def evaluate(
        self,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        captures: Values,
        *,
        return_lse: bool,
        seed: int | Tensor | None,
        return_seed: bool,
        training: bool,
    ) -> Any:
        """The same in plain PyTorch."""
        form = self.form(return_lse, training)
        views, extents = binding.split(form.spec, binding.bind(form.spec, args, kwargs))
        used = drawn(form.spec, seed if training else None, return_seed, views[0].device)
        result = form.evaluated(views, extents, _seeded(form, captures, used), return_lse)
        return followed(result, used) if return_seed else result

    # ---- plans

    def plan(self, tensors: list[Tensor], captures: Values, *, return_lse: bool, training: bool, on_target: bool) -> CallPlan:
        """The plan of a call with these arguments; `on_target` as if they lay on a GPU."""
        tensors = binding.autocast(tensors, self.spec, self.whole.table.axes.features)
        return self._planned(tensors, captures, return_lse, training, on_target=on_target)[1]

    def _prepared(
        self, tensors: Sequence[Tensor], captures: Values, return_lse: bool, training: bool
    ) -> tuple[SpecForm, PreparedCall] | None:
        """The plan of a call bound to modules, from the cache; None where tensors have no memory of their own."""
        graded = torch.is_grad_enabled()
        key: list[Any] = [return_lse, training, graded, graded and torch.are_deterministic_algorithms_enabled()]
        for tensor in tensors:
            if type(tensor) not in _PLAIN:
                return None
            key += (tensor.shape, tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad)
        for value in captures.values():
            if isinstance(value, Tensor):
                if type(value) not in _PLAIN:
                    return None
                key += (value.shape, value.dtype, value.device, value.requires_grad)
            else:
                key.append(type(value))
        if self.whole.residue_classes:
            key.append(self.whole.divisor(captures))
        known = tuple(key)
        found = self._calls.get(known)
        if found is None and known not in self._calls:
            found = self._bind(tensors, captures, return_lse, training)
            if len(self._calls) >= _MOST:
                self._calls.clear()
            self._calls[known] = found
        return found

    def _planned(
        self, tensors: Sequence[Tensor], captures: Values, return_lse: bool, training: bool, *, on_target: bool = False
    ) -> tuple[SpecForm, CallPlan, dict[str, int]]:
        form = self.form(return_lse, training)
        views, extents = binding.split(form.spec, tensors)
        short = form.check(views, extents, captures)
        form = self.form(return_lse, training, short)
        repeatable = torch.are_deterministic_algorithms_enabled()
        facts = form.facts(views, extents, captures, repeatable=repeatable, return_lse=return_lse, short=short)
        facts = replace(facts, in_order=False) if on_target else facts
        return form, plan_call(form.layouts(captures), facts), extents

    def _bind(self, tensors: Sequence[Tensor], captures: Values, return_lse: bool, training: bool) -> tuple[SpecForm, PreparedCall] | None:
        if tensors[0].device.type == "meta":
            return None
        form, plan, extents = self._planned(tensors, captures, return_lse, training)
        layout, table = next(pair for pair in form.layouts(captures) if str(pair[0]) == plan.layout)
        launcher = form.launcher(layout, table, plan.forward)
        if plan.backward is not None and not launcher.cotangents:
            return None
        return form, PreparedCall(form.spec, layout, table, launcher, plan, tensors, extents, return_lse, form.on_device)

    # ---- building

    def built(self, dtype: str, dims: Mapping[str, int], captures: Values) -> Source:
        """The source of the module for these lengths, with its tiles settled; and that of tokens in residue classes."""
        target = targets.get(self.options.arch or "sm90")
        other = self.whole.dilated(captures)
        for _, table in (*([] if other is None else [other]), (self.whole.layout, self.whole.table)):
            lengths = given_lengths(table.axes.features, dims, captured_lengths(self.spec))
            request = Request(tuple(lengths.items()), dtype, target)
            table.settle(request, repeatable=torch.are_deterministic_algorithms_enabled())
        return self.whole.table.kernels(ProgramKey(dtype)).source(dims)

    def dims(self, head_dim: int | tuple[int, ...] | None = None, extents: Mapping[str, int] | None = None) -> dict[str, int]:
        """Feature axis -> length."""
        features, known = self.whole.table.axes.features, captured_lengths(self.spec)
        return feature_lengths(features, head_dim, known) if extents is None else given_lengths(features, extents, known)


def _seeded(form: SpecForm, captures: Values, seed: Tensor | None) -> Values:
    return captures if seed is None else {**captures, form.spec.seed or "": seed}
