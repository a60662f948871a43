"""A plan bound to modules: what a call with these shapes, strides, dtypes, devices and flags does, with nothing left to look up.

Kernels are launched directly, with a gradient from within one `torch.autograd.Function` that takes and gives the user's tensors. Where
PyTorch looks into a call (compilers, modes, function transforms), operators stand in its place (`torch_op`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attngen.frontend.spec import Spec
from attngen.plan.call_plan import CallPlan, request_of
from attngen.plan.num_splits import num_splits
from attngen.plan.token_layout import Dense, TokenLayout
from attngen.runtime import arguments as binding
from attngen.runtime.kernel_table import KernelTable
from attngen.runtime.launcher import Bound, Kind, Launcher
from attngen.runtime.torch_op import given_cotangents, through_operator

Move = Callable[[Any, torch.device], Any]
_functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_below_autograd: Any = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_included: Callable[[Any], bool] = torch._C._dispatch_tls_is_dispatch_key_included  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_VMAP: Any = torch._C._parse_dispatch_key("VmapMode")  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
"""Where cotangents are batched: `torch.autograd.grad(..., is_grads_batched=True)`."""


def is_looked_into() -> bool:
    """Whether a compiler, a mode or a function transform sees what is called now."""
    return torch.compiler.is_compiling() or _modes() > 0 or _functorch.peek_interpreter_stack() is not None or _included(_VMAP)


class PreparedCall:
    """One kind of call of a spec.

    Args:
        spec: its words; of the layout.
        layout, table: of its tokens, with its programs.
        launcher: of the forward that the plan names.
        plan: of the call.
        tensors: arguments of the first call of the kind. extents: of their axes.
        return_lse: outputs on request are returned.
        move: brings captured values to the device of the arguments.
    """

    def __init__(
        self,
        spec: Spec,
        layout: TokenLayout,
        table: KernelTable,
        launcher: Launcher,
        plan: CallPlan,
        tensors: Sequence[Tensor],
        extents: Mapping[str, int],
        return_lse: bool,
        move: Move,
    ) -> None:
        self.spec, self.layout, self.table, self.plan, self.launcher = spec, layout, table, plan, launcher
        self.extents, self.move, self.device = dict(extents), move, tensors[0].device
        self.kind = Kind(request_of(layout, table, plan.facts), self.device)
        self.numbers = list(layout.lengths(extents).values())
        self.captured = tuple(capture.name for capture in spec.captures)
        given = [*(item.name for item in spec.arguments), *self.captured, *layout.numbers]
        self.places = tuple(given.index(item.name) for item in launcher.inputs)
        self.returned = tuple(
            (place, output) for place, output in enumerate(spec.outputs) if return_lse or output.name not in spec.on_request
        )
        self.saved = tuple((name, spec_place(spec, self.returned, name)) for name in launcher.saved)
        views, _ = binding.split(spec, tensors)
        # The graph holds one node for the whole call where arguments and results are those of the cascade but for their shapes.
        self.whole = isinstance(layout, Dense) and all(a.numel() == b.numel() for a, b in zip(tensors, views, strict=True))
        shapes = [view.shape if self.whole and view.shape != tensor.shape else None for tensor, view in zip(tensors, views, strict=True)]
        self.shapes = [shapes[place] if place < len(shapes) else None for place in self.places]
        self.shapes_back = [tensors[place].shape if self.shapes[i] is not None else None for i, place in enumerate(self.places)]
        self.differentiable = tuple(i for i, item in enumerate(launcher.inputs) if item.differentiable)
        self.bound: Bound | None = None
        self.splits: tuple[int, ...] = ()
        self.backwards: dict[tuple[tuple[bool, ...], bool], tuple[Kind, frozenset[str]]] = {}

    def __call__(self, tensors: Sequence[Tensor], captures: Mapping[str, Any]) -> Any:
        """The results of one call.

        Args:
            tensors: its arguments. captures: captured values by name, with the seed of dropout.
        """
        views = tensors if self.whole else self.layout.split(binding.split(self.spec, tensors)[0], self.extents, self.move)
        given: list[Any] = list(views)
        device, move = self.device, self.move
        given += [move(captures[name], device) for name in self.captured]
        given += self.numbers
        values = [given[place] for place in self.places]
        if self.plan.backward is None:
            results, _ = self.forward(values)
        else:
            results = _Call.apply(self, *values)  # pyright: ignore[reportUnknownMemberType]
        if not self.whole:
            results = [
                binding.join(self.layout.join(output.name, result, self.extents, move), output.pattern)
                for (_, output), result in zip(self.returned, results, strict=True)
            ]
        if self.spec.keys is not None:
            return dict(zip(self.spec.keys, results, strict=False))
        return results[0] if len(results) == 1 else tuple(results)

    def forward(self, values: Sequence[Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Results that are returned, and what is saved."""
        launcher = self.launcher
        while True:
            bound = self._bound_forward() if self.bound is None else self.bound
            try:
                # What is made here is no view to autograd, so that results may be changed in place.
                with _below_autograd():
                    found = launcher.forward(bound, self._cascades(values), self.splits)
                    results = tuple(
                        binding.join(found[place], output.pattern) if self.whole else found[place] for place, output in self.returned
                    )
                break
            except Exception as error:
                launcher.refuse(bound, self.kind.request, error)
                self.bound = None
        if self.plan.backward is None:
            return results, ()
        named = dict(zip(launcher.results, found, strict=True))
        return results, tuple(named[name] if place is None else results[place] for name, place in self.saved)

    def _bound_forward(self) -> Bound:
        self.bound = self.launcher.bound(self.kind)
        if self.launcher.key.split:
            kernel = self.launcher.program.kernels[0]
            rows = self.bound.loaded.tiles[kernel.role][f"BLOCK_{kernel.resident.upper()}"]
            extents = self.layout.extents(dict(self.plan.facts.extents))
            self.splits = (num_splits(self.table, extents, rows, self.plan.facts.sms),)
        return self.bound

    def _cascades(self, values: Sequence[Any]) -> list[Any]:
        """Values with the shapes that the cascade has."""
        return [value if shape is None else value.reshape(shape) for value, shape in zip(values, self.shapes, strict=True)]

    def backward(
        self, values: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None], needs: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of all values, None where there is none.

        Args:
            values, saved: of the forward. cotangents: of its results. needs: for each value, whether its gradient is asked for.
        """
        needed = tuple(needs[place] for place in self.differentiable)
        if torch.is_grad_enabled() or is_looked_into():
            return self._gradients(self._shaped(values, saved, cotangents, needed), needed, operator=True)
        with _below_autograd():
            return self._gradients(self._shaped(values, saved, cotangents, needed), needed, operator=False)

    def _shaped(
        self, values: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None], needed: Sequence[bool]
    ) -> tuple[list[Any], list[Tensor], list[Tensor]]:
        """Values, saved tensors and cotangents as the cascade has them."""
        launcher, mine = self.launcher, self._cascades(values)
        extents = launcher.extents(mine) if self.whole else {}
        kept = list(saved)
        every: dict[str, Tensor | None] = dict.fromkeys(launcher.outputs)
        for (_, output), grad in zip(self.returned, cotangents, strict=True):
            every[output.name] = grad
        if self.whole:
            places = zip(self.saved, saved, strict=True)
            kept = [tensor if place is None else self._apart(name, tensor, extents) for (name, place), tensor in places]
            every = {name: None if grad is None else self._apart(name, grad, extents) for name, grad in every.items()}
        given = given_cotangents(launcher, mine, needed, [every[name] for name, _ in launcher.cotangents])
        return mine, kept, given

    def _apart(self, name: str, tensor: Tensor, extents: Mapping[str, int]) -> Tensor:
        """A result with one dimension an axis."""
        return tensor.reshape([extents[axis] for axis in self.launcher.forward_axes[name]])

    def _gradients(
        self, call: tuple[list[Any], list[Tensor], list[Tensor]], needed: tuple[bool, ...], *, operator: bool
    ) -> list[Tensor | None]:
        launcher, (values, saved, cotangents) = self.launcher, call
        if operator:
            found = through_operator(launcher, values, saved, cotangents, needed)
        else:
            kind, names = self._kind_of_backward(needed)
            found = launcher.launch(kind, lambda bound: launcher.backward(bound, values, saved, cotangents, names))
        every: list[Tensor | None] = [None] * len(values)
        for place, grad in zip(self.differentiable, found, strict=True):
            shape = self.shapes_back[place]
            every[place] = grad if grad is None or shape is None else grad.reshape(shape)
        return every

    def _kind_of_backward(self, needed: tuple[bool, ...]) -> tuple[Kind, frozenset[str]]:
        key = (needed, torch.are_deterministic_algorithms_enabled())
        if key not in self.backwards:
            names = frozenset(item.name for item, wanted in zip(self.launcher.differentiable, needed, strict=True) if wanted)
            self.backwards[key] = Kind(self.kind.request, self.device, names, key[1]), names
        return self.backwards[key]


def spec_place(spec: Spec, returned: Sequence[tuple[int, Any]], name: str) -> int | None:
    """Where a saved step is among the results of a call, None if it is none."""
    return next((place for place, (_, output) in enumerate(returned) if output.name == name), None)


class _Call(torch.autograd.Function):
    """A call with gradients as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: PreparedCall, *values: Any) -> tuple[Tensor, ...]:
        results, saved = call.forward(values)
        ctx.call = call
        ctx.plain = [None if isinstance(value, Tensor) else value for value in values]
        ctx.save_for_backward(*(value for value in values if isinstance(value, Tensor)), *saved)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        kept = iter(ctx.saved_tensors)
        values = [next(kept) if value is None else value for value in ctx.plain]
        return None, *ctx.call.backward(values, list(kept), cotangents, ctx.needs_input_grad[1:])
