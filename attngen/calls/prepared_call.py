"""A plan bound to modules: what a call with these shapes, strides, dtypes, devices and flags does, with nothing left to look up.

Kernels are launched directly, with a gradient from within one `torch.autograd.Function` that takes and gives the user's tensors. Where
PyTorch looks into a call (compilers, modes, function transforms), operators stand in its place (`torch_op`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attngen.calls import arguments as binding
from attngen.calls.launcher import Bound, Kind, Launcher
from attngen.calls.torch_op import check_cotangents, given_cotangents, through_operator
from attngen.frontend.spec import Pattern, Spec
from attngen.plan.call_plan import CallPlan, request_of
from attngen.plan.num_splits import num_splits
from attngen.plan.token_layout import Dense, TokenLayout
from attngen.runtime.kernel_table import KernelTable

Move = Callable[[Any, torch.device], Any]
_functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_untracked: Any = torch._C._AutoDispatchBelowADInplaceOrView  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
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
        self.in_order = self.places == tuple(range(len(given)))
        self.returned = tuple(
            (place, output) for place, output in enumerate(spec.outputs) if return_lse or output.name not in spec.on_request
        )
        self.bound: Bound | None = None
        self.splits: tuple[int, ...] = ()
        self.backwards: dict[tuple[tuple[bool, ...], bool], Bound] = {}
        self._shape(tensors)

    def _shape(self, tensors: Sequence[Tensor]) -> None:
        """Find what is reshaped within the node of the graph, which holds the whole call where the layout only changes shapes."""
        spec, launcher = self.spec, self.launcher
        views, _ = binding.split(spec, tensors)
        self.whole = isinstance(self.layout, Dense) and all(a.numel() == b.numel() for a, b in zip(tensors, views, strict=True))
        changed = [self.whole and view.shape != tensor.shape for tensor, view in zip(tensors, views, strict=True)]
        # For each input of the cascade: the shape that it has there, and the user's.
        arguments = [(i, place) for i, place in enumerate(self.places) if place < len(views)]
        self.reshaped = tuple((i, views[place].shape, tensors[place].shape) for i, place in arguments if changed[place])
        self.back = {i: shape for i, _, shape in self.reshaped}
        # Strides of captured tensors do not matter, and those of arguments are the same in every call of the kind.
        ready = [views[place] if place < len(views) else None for place in self.places]
        self.copies = not self.whole or any(mine is not given for mine, given in zip(launcher.ready(ready), ready, strict=True))
        extents = {**dict(self.plan.facts.extents), **self.extents}
        shapes = {name: tuple(extents[axis] for axis in launcher.forward_axes[name]) for name in launcher.results} if self.whole else {}
        self.joined = tuple((place, _flat(shapes[output.name], output.pattern) if self.whole else None) for place, output in self.returned)
        where = {output.name: i for i, (_, output) in enumerate(self.returned)}
        # For each saved tensor and each cotangent: which result it is or goes with, and its shape in the cascade.
        self.saved = tuple((name, where.get(name), shapes.get(name)) for name in launcher.saved)
        self.given = tuple((name, where.get(name), shapes.get(name)) for name, _ in launcher.cotangents)
        self.flat = tuple(
            (i, shape) for i, (_, place, shape) in enumerate(self.saved) if place is not None and self.joined[place][1] and shape
        )
        self.dtypes = {name: launcher.dtype_of(name, views[self.places[launcher.operand]]) for name, _ in launcher.cotangents}
        self.refuses = bool(launcher.program.refused or launcher.ungraded)
        self.by_value = tuple(i for i, item in enumerate(launcher.inputs) if item.by_value)

    def __call__(self, tensors: Sequence[Tensor], captures: Mapping[str, Any]) -> Any:
        """The results of one call.

        Args:
            tensors: its arguments. captures: captured values by name, with the seed of dropout.
        """
        views = tensors if self.whole else self.layout.split(binding.split(self.spec, tensors)[0], self.extents, self.move)
        values: list[Any] = [*views]
        if self.captured:
            values += [self.move(captures[name], self.device) for name in self.captured]
        values += self.numbers
        if not self.in_order:
            values = [values[place] for place in self.places]
        graded = self.plan.backward is not None
        results = _Call.apply(self, *values) if graded else self.forward(values)[0]  # pyright: ignore[reportUnknownMemberType]
        if not self.whole:
            results = [
                binding.join(self.layout.join(output.name, result, self.extents, self.move), output.pattern)
                for (_, output), result in zip(self.returned, results, strict=True)
            ]
        if self.spec.keys is not None:
            return dict(zip(self.spec.keys, results, strict=False))
        return results[0] if len(results) == 1 else tuple(results)

    def forward(self, values: Sequence[Any]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """All results, and those that are returned."""
        launcher = self.launcher
        while True:
            bound = self._bound_forward() if self.bound is None else self.bound
            try:
                # What is made here is no view to autograd, so that results may be changed in place.
                with _untracked():
                    mine = self._cascades(values)
                    found = launcher.forward(bound, mine, launcher.ready(mine) if self.copies else mine, self.splits)
                    results = tuple(found[place] if shape is None else found[place].view(shape) for place, shape in self.joined)
                return results, found
            except Exception as error:
                launcher.refuse(bound, self.kind.request, error)
                self.bound = None

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
        found = list(values)
        for i, shape, _ in self.reshaped:
            found[i] = found[i].reshape(shape)
        return found

    def kept(self, results: Sequence[Tensor], found: Sequence[Tensor]) -> list[Tensor]:
        """What the backward needs: of tensors that are returned these themselves, as autograd wants it."""
        named = dict(zip(self.launcher.results, found, strict=True))
        return [named[name] if place is None else results[place] for name, place, _ in self.saved]

    def backward(
        self, values: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None], needs: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of all values, None where there is none.

        Args:
            values, saved: of the forward. cotangents: of its results. needs: for each value, whether its gradient is asked for.
        """
        launcher = self.launcher
        needed = tuple([needs[place] for place in launcher.places])
        grads = [None if place is None else cotangents[place] for _, place, _ in self.given]
        if self.refuses:
            check_cotangents(launcher, needed, grads)
        if torch.is_grad_enabled() or is_looked_into():
            mine, kept, given = self._shaped(values, saved, grads)
            return self._gradients(through_operator(launcher, mine, kept, given, needed))
        key = (needed, torch.are_deterministic_algorithms_enabled())
        while True:
            bound = self.backwards[key] if key in self.backwards else self._bound_backward(key)
            try:
                with _untracked():
                    mine, kept, given = self._shaped(values, saved, grads)
                    ready = launcher.ready(mine) if self.copies else mine
                    return self._gradients(launcher.backward(bound, mine, ready, kept, given))
            except Exception as error:
                launcher.refuse(bound, self.kind.request, error)
                self.backwards.clear()

    def _bound_backward(self, key: tuple[tuple[bool, ...], bool]) -> Bound:
        names = frozenset(item.name for item, wanted in zip(self.launcher.differentiable, key[0], strict=True) if wanted)
        self.backwards[key] = self.launcher.bound(Kind(self.kind.request, self.device, names, key[1]))
        return self.backwards[key]

    def _shaped(
        self, values: Sequence[Any], saved: Sequence[Tensor], cotangents: Sequence[Tensor | None]
    ) -> tuple[list[Any], list[Tensor], list[Tensor]]:
        """Values, saved tensors and cotangents as the cascade has them, with zeros for cotangents that nobody gave."""
        mine = self._cascades(values)
        if not self.whole:
            return mine, list(saved), given_cotangents(self.launcher, mine, cotangents)
        kept = list(saved)
        for i, shape in self.flat:
            kept[i] = kept[i].reshape(shape)
        given: list[Tensor] = []
        for grad, (name, _, shape) in zip(cotangents, self.given, strict=True):
            if grad is None:
                given.append(torch.zeros(shape or (), dtype=self.dtypes[name], device=self.device))
            else:
                given.append(grad if shape is None or grad.shape == shape else grad.reshape(shape))
        return mine, kept, given

    def _gradients(self, found: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of the differentiable inputs as those of all values, in the user's shapes."""
        every: list[Tensor | None] = [None] * len(self.places)
        for place, grad in zip(self.launcher.places, found, strict=True):
            every[place] = grad if grad is None or place not in self.back else grad.reshape(self.back[place])
        return every


def _flat(shape: Sequence[int], pattern: Pattern) -> tuple[int, ...] | None:
    """The shape of a result with composite dimensions flattened, None if it has none."""
    if all(len(dim) == 1 for dim in pattern):
        return None
    sizes = iter(shape)
    return tuple(math.prod(next(sizes) for _ in dim) for dim in pattern)


class _Call(torch.autograd.Function):
    """A call with gradients as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, call: PreparedCall, *values: Any) -> tuple[Tensor, ...]:
        results, found = call.forward(values)
        ctx.call = call
        ctx.plain = {place: values[place] for place in call.by_value}
        kept = call.kept(results, found)
        ctx.save_for_backward(*(None if place in ctx.plain else value for place, value in enumerate(values)), *kept)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        call, saved = ctx.call, ctx.saved_tensors
        count = len(call.places)
        values = list(saved[:count])
        for place, value in ctx.plain.items():
            values[place] = value
        return None, *call.backward(values, saved[count:], cotangents, ctx.needs_input_grad[1:])
