"""Gradients that a call asks for and no kernel computes: refused by name, instead of being zero or wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attngen.errors import NotDifferentiable, UnsupportedError
from attngen.ir.cascade import Cascade
from attngen.ir.expr import Apply, Expr, Read, kind_of
from attngen.ir.traverse import children, step_reads
from attngen.source import SourceLoc


def refuse_transforms(tensors: Sequence[Tensor]) -> None:
    """Gradients that torch.func takes would meet an operator that has none of that kind, and forward-mode derivatives silently be zero.

    Raises:
        NotDifferentiable
    """
    functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    levels = functorch.get_interpreter_stack() or ()
    kinds = {level.key().name for level in levels}
    if "Grad" in kinds and any(map(functorch.is_gradtrackingtensor, tensors)):
        raise NotDifferentiable(
            "gradients by torch.func (grad, vjp, jacrev, ...) are not available",
            remedy="Use torch.autograd.grad or backward, with is_grads_batched=True for several cotangents, or attend.reference(...).",
        )
    for tensor in tensors:
        if torch.autograd.forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotDifferentiable(
                "forward-mode derivatives are not available",
                remedy="Use reverse mode (backward), or attend.reference(...) for small checks.",
            )


def whole_only(cascade: Cascade) -> dict[str, SourceLoc | None]:
    """Float inputs that are converted to whole numbers wherever they are read, with the place of the first conversion.

    Their gradients would be zero without a word. In a comparison PyTorch says nothing either, so that one is no conversion.
    """
    converted: dict[str, SourceLoc | None] = {}
    others: set[str] = set()

    def visit(expr: Expr, loc: SourceLoc | None, inside: bool) -> None:
        match expr:
            case Read(tensor=name, at=at, kind="float"):
                if inside:
                    converted.setdefault(name, loc)
                else:
                    others.add(name)
                for position in at:
                    visit(position, loc, False)
            case _:
                rounds = isinstance(expr, Apply) and expr.op == "to_int"
                compares = isinstance(expr, Apply) and kind_of(expr) == "bool"
                for child in children(expr):
                    visit(child, loc, (inside or rounds) and not compares)

    for step in cascade.steps:
        for part in (step.body, *([step.where] if step.where is not None else [])):
            visit(part, step.loc, False)
    inputs = {item.name for item in cascade.inputs if item.differentiable}
    return {name: loc for name, loc in converted.items() if name in inputs - others}


def refuse_lost_gradients(
    converted: Mapping[str, SourceLoc | None], cascade: Cascade, tensors: Sequence[Tensor], captures: Mapping[str, object]
) -> None:
    """A tensor that requires a gradient and is only ever converted to whole numbers (`whole_only`) would silently get zeros.

    Raises:
        NotDifferentiable
    """
    values = {**{item.name: tensor for item, tensor in zip(cascade.inputs, tensors, strict=False)}, **captures}
    for name, loc in converted.items():
        value = values.get(name)
        if isinstance(value, Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise NotDifferentiable(
                f"{name} requires a gradient, but is only converted to whole numbers, which have none",
                loc=loc,
                remedy=f"Pass {name}.detach(), or integers.",
            )


def refuse_gradients(
    refused: Sequence[tuple[str, UnsupportedError]], cascade: Cascade, tensors: Sequence[Tensor], captures: Mapping[str, object]
) -> None:
    """Tensors that require a gradient which no kernel computes.

    Raises:
        NotDifferentiable
    """
    if not refused or not torch.is_grad_enabled():
        return
    values = {**{item.name: tensor for item, tensor in zip(cascade.inputs, tensors, strict=False)}, **captures}
    for name, error in refused:
        value = values.get(name)
        if isinstance(value, Tensor) and value.requires_grad:
            raise no_gradient(name, error, cascade)


def no_gradient(name: str, error: UnsupportedError, cascade: Cascade) -> NotDifferentiable:
    """The refusal of one gradient, at the user's line that the reason is about, or the first that reads the tensor."""
    readers = (step.loc for step in cascade.steps if step.loc is not None and name in step_reads(step))
    return NotDifferentiable(
        f"{name} requires a gradient, but no kernel computes it: {error.rule}",
        loc=error.loc if error.loc is not None else next(readers, None),
        remedy=f"Pass {name}.detach(), or call under torch.no_grad(), if nobody needs it. {error.remedy}".rstrip(),
    )


def no_gradient_through(output: str, cascade: Cascade) -> NotDifferentiable:
    """The refusal of a gradient through an output that depends on a maximum over keys."""
    step = cascade.step(output)
    return NotDifferentiable(
        f"the output {output} depends on a maximum over keys, through which no kernel computes gradients",
        loc=None if step is None else step.loc,
        remedy=f"Use {output}.detach() in the loss, or attngen.logsumexp, which has a gradient.",
    )


def asks_gradient(values: Iterable[object]) -> bool:
    """Whether a call with these arguments and captures asks for a gradient."""
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values)
