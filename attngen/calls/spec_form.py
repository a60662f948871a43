"""One form of a variant: its spec with or without logsumexp and dropout, the layouts that its tokens may have, the checks of calls."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from attngen.calls import arguments as binding
from attngen.calls import refused_gradients
from attngen.calls.launcher import Launcher, origins_of
from attngen.calls.overflow import WholeNumbers
from attngen.calls.torch_op import Operators, announce, operators
from attngen.frontend.spec import Spec
from attngen.interpreter.torch_reference import reference as evaluate
from attngen.ir.cascade import operand_of, without_features
from attngen.plan.call_plan import CallFacts
from attngen.plan.dilated import dilated, residue_classes
from attngen.plan.feature_lengths import check_features
from attngen.plan.options import Options
from attngen.plan.packed_gqa import PackedGQA, packed_gqa
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.plan.short_captures import Short, indexed, short_tensors
from attngen.plan.token_layout import Dense, Permuted, TokenLayout
from attngen.runtime.devices import Follower, multiprocessors
from attngen.runtime.kernel_table import KernelTable, kernel_table

Values = Mapping[str, Any]
"""Captures by name."""


class SpecForm:
    """Attributes:
    spec: of the form. options: of `compile`.
    table: its programs, with tokens as they are or as the user ordered them. layout: that layout.
    """

    def __init__(self, spec: Spec, options: Options) -> None:
        self.spec, self.options = spec, options
        self.table = kernel_table(spec.cascade, spec.name, options)
        self.cascade = self.table.start.cascade
        self.layout: TokenLayout = Dense(spec, self.cascade) if spec.order is None else Permuted(spec, self.cascade, spec.order)
        self.captured = tuple(capture.name for capture in spec.captures)
        self.on_device = Follower().on
        given = [*(item.name for item in spec.arguments), *self.captured]
        self.places = tuple(given.index(item.name) for item in self.cascade.inputs)
        self._dilated: dict[int, tuple[TokenLayout, KernelTable] | None] = {}
        self._launchers: dict[tuple[str, ProgramKey], Launcher] = {}
        self.numbers = WholeNumbers(self.cascade)
        self.operators: Operators | None = None
        announce(self.table)

    # ---- layouts

    @functools.cached_property
    def packed(self) -> tuple[PackedGQA, KernelTable] | None:
        """Heads of groups packed into rows, where heads share keys."""
        layout = packed_gqa(self.spec, self.cascade)
        return None if layout is None else (layout, self._table(layout))

    @functools.cached_property
    def residue_classes(self) -> str | int:
        """How many classes the mask suggests: a number, 0 for none, or the name of a captured integer."""
        return residue_classes(self.spec, self.cascade)

    def divisor(self, captures: Values) -> int:
        """How many classes a call has."""
        number = self.residue_classes
        value = captures.get(number, 0) if isinstance(number, str) else number
        return value if type(value) is int else 0

    def dilated(self, captures: Values) -> tuple[TokenLayout, KernelTable] | None:
        """Tokens in residue classes, where the mask holds for equal remainders only; their number may be a captured one."""
        number, value = self.residue_classes, self.divisor(captures)
        if value not in self._dilated:
            numbers = {number: value} if isinstance(number, str) else {}
            layout = dilated(self.spec, self.cascade, numbers) if value > 1 else None
            self._dilated[value] = None if layout is None else (layout, self._table(layout))
        return self._dilated[value]

    def layouts(self, captures: Values) -> list[tuple[TokenLayout, KernelTable]]:
        """All of them, in the order in which plans ask; the last one serves every call."""
        others = [self.dilated(captures), self.packed]
        return [*(pair for pair in others if pair is not None), (self.layout, self.table)]

    def _table(self, layout: TokenLayout) -> KernelTable:
        return kernel_table(layout.cascade, self.spec.name, self.options, canonical=True)

    def launcher(self, layout: TokenLayout, table: KernelTable, key: ProgramKey) -> Launcher:
        """What launches a program, which a plan names with a dtype."""
        found = (str(layout), ProgramKey("", key.gradients, key.split))
        if found not in self._launchers:
            self._launchers[found] = Launcher(table, found[1])
        return self._launchers[found]

    # ---- checks of what a recorded call cannot look at: types, devices, captured values, lengths

    @functools.cached_property
    def _indexed(self) -> Any:
        return indexed(self.cascade)

    @functools.cached_property
    def _converted(self) -> Any:
        return refused_gradients.whole_only(self.spec.cascade)

    @functools.cached_property
    def _singles(self) -> frozenset[str]:
        return frozenset(item.name for item in without_features(self.cascade.inputs, self.table.axes.features))

    @functools.cached_property
    def _operand(self) -> str:
        return operand_of(self.cascade.inputs, self.table.axes.features).name

    @functools.cached_property
    def _captured_axes(self) -> dict[str, tuple[str, int]]:
        """Axes that captured tensors alone have, and where."""
        inputs = self.cascade.inputs
        return {axis: (inputs[at].name, dim) for axis, (at, dim) in origins_of(self.cascade).items() if inputs[at].axes is None}

    def check_lengths(self, extents: Mapping[str, int], captures: Values) -> Short:
        """Check what the lengths of a call alone decide: what is read at its positions reaches as far.

        Args:
            extents: of all axes but features.
            captures: what they hold at this call.

        Returns:
            The captured tensors that only reach as far as the mask lets positions count.

        Raises:
            ShapeMismatch, ArgumentError
        """
        spec = self.spec
        if spec.blocks is not None:
            spec.blocks.check(extents["m"], extents["n"], extents["b"], extents["g"] * extents["r"])
        if spec.order is not None:
            spec.order.check(*(extents[axis] for axis in spec.order.axes))
        self.numbers.check(captures, extents)
        return short_tensors(self._indexed, captures, extents, None if spec.order is None else spec.order.places)

    def check(self, tensors: Sequence[Tensor], extents: Mapping[str, int], captures: Values) -> Short:
        """Check one call.

        Args:
            tensors: its arguments. extents: of their axes. captures: what they hold at this call.

        Returns:
            As `check_lengths`.

        Raises:
            ShapeMismatch, DtypeMismatch, DeviceMismatch, ArgumentError, NotDifferentiable
        """
        spec = self.spec
        inputs = spec.cascade.inputs[: len(tensors)]
        # The order of tokens follows the arguments to their device.
        places = None if spec.order is None else spec.order.places
        binding.check_types(
            inputs, tensors, {name: value for name, value in captures.items() if places is None or value is not places},
            self._operand, self._singles,
        )  # fmt: skip
        if refused_gradients.asks_gradient((*tensors, *captures.values())):
            refused_gradients.refuse_gradients(self.table.program(ProgramKey()).refused, spec.cascade, tensors, captures)
            refused_gradients.refuse_lost_gradients(self._converted, spec.cascade, tensors, captures)
        refused_gradients.refuse_transforms([*tensors, *(value for value in captures.values() if isinstance(value, Tensor))])
        return self.check_lengths(extents, captures)

    def facts(
        self,
        tensors: Sequence[Tensor],
        extents: Mapping[str, int],
        captures: Values,
        *,
        repeatable: bool,
        return_lse: bool,
        short: Short,
    ) -> CallFacts:
        """What the plan of a call is made of."""
        values = {**dict(zip((item.name for item in self.spec.arguments), tensors, strict=True)), **captures}
        known = {axis: values[name].shape[dim] for axis, (name, dim) in self._captured_axes.items()}
        model = values[self._operand]
        target = self.table.target(model.device)
        check_features((axis, {**known, **extents}[axis]) for axis in self.table.axes.features)
        wanted = FORWARD_ONLY
        if refused_gradients.asks_gradient(values.values()):
            wanted = frozenset(item.name for item in self.cascade.inputs if item.differentiable and values[item.name].requires_grad)
        return CallFacts(
            extents=tuple({**known, **extents}.items()),
            dtype=str(model.dtype).removeprefix("torch."),
            target=target,
            sms=multiprocessors(target, model.device),
            gradients=wanted,
            singles=tuple(name for name in self._ordered_singles if values[name].dtype != model.dtype),
            interpreted=model.device.type == "cpu" or self.table.knobs.interpret,
            in_order=self.table.runs_in_order(model.device),
            repeatable=repeatable,
            return_lse=return_lse,
            dropout=self.spec.seed is not None,
            short=short,
        )

    @functools.cached_property
    def _ordered_singles(self) -> tuple[str, ...]:
        return tuple(item.name for item in without_features(self.cascade.inputs, self.table.axes.features))

    # ---- calls that PyTorch looks into, and the oracle

    def registered(self) -> Operators:
        """The operators, which compilers of bytecode do not see being made."""
        self.operators = operators(self.table)
        return self.operators

    def recorded(self, views: Sequence[Tensor], extents: Mapping[str, int], captures: Values, return_lse: bool) -> Any:
        """The results of a call by the forward operator, from tensors whose dimensions are axes; `captures` has the seed."""
        tensors = self.layout.split(views, extents, self.on_device)
        device = views[0].device
        values = [*tensors, *(self.on_device(captures[name], device) for name in self.captured)]
        forward = self.registered().forward if self.operators is None else self.operators.forward
        results = forward(*(values[place] for place in self.places))
        return self.returned(results if isinstance(results, tuple) else (results,), extents, return_lse)

    def evaluated(self, views: Sequence[Tensor], extents: Mapping[str, int], captures: Values, return_lse: bool) -> Any:
        """The same in plain PyTorch."""
        tensors = self.layout.split(views, extents, self.on_device)
        names = [argument.name for argument in self.spec.arguments]
        values = {**dict(zip(names, tensors, strict=True)), **{name: captures[name] for name in self.captured}}
        found = evaluate(self.spec.cascade, values)
        return self.returned([found[output.name] for output in self.spec.outputs], extents, return_lse)

    def returned(self, results: Sequence[Tensor], extents: Mapping[str, int], return_lse: bool) -> Any:
        """Outputs of the cascade as the user gets them."""
        shaped = [
            binding.join(self.layout.join(output.name, result, extents, self.on_device), output.pattern)
            for output, result in zip(self.spec.outputs, results, strict=False)
            if return_lse or output.name not in self.spec.on_request
        ]
        if self.spec.keys is not None:
            return dict(zip(self.spec.keys, shaped, strict=False))
        return shaped[0] if len(shaped) == 1 else tuple(shaped)


def programs_of_few(spec: Spec, arch: str | None) -> KernelTable:
    """The programs of calls of few queries: with heads packed where they share keys."""
    form = SpecForm(spec, Options(arch))
    return form.table if form.packed is None else form.packed[1]
