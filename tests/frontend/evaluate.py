"""Runs a function twice, on tensors and traced, and compares: the traced expression is evaluated by the interpreter of cascades."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch

from attngen.frontend.captures.captures import Lifter
from attngen.frontend.captures.origins import Root
from attngen.frontend.tracing.trace import Trace, kind_of_dtype
from attngen.frontend.tracing.trace_call import call, until_settled
from attngen.frontend.tracing.tracer import Traced, lift
from attngen.ir import build
from attngen.ir.cascade import Einsum, Input
from attngen.ir.eval.interpret import interpret


def traced_value(function: Callable[..., Any], *tensors: torch.Tensor) -> np.ndarray:
    """`function` of 1-D tensors of one length, by tracing and interpreting."""
    names = [f"a{position}" for position in range(len(tensors))]
    inputs = tuple(Input(name, ("i",), 1, kind_of_dtype(tensor.dtype)) for name, tensor in zip(names, tensors, strict=True))

    def attempt(keep: frozenset[Hashable]) -> tuple[Trace, Callable[[], Any]]:
        trace = Trace(inputs, ("i",))
        arguments = tuple(Traced(build.read(item.name, ("i",), item.kind), trace) for item in inputs)

        def run() -> Any:
            result = lift(call(Lifter(trace, keep).lift(function, Root("function"), "function"), arguments, trace), trace)
            trace.add(Einsum("result", ("i",), result.expr))
            return trace.finish(("result",))

        return trace, run

    cascade, captures = until_settled(attempt)
    values = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    values |= {item.name: item.value.detach().numpy() if isinstance(item.value, torch.Tensor) else item.value for item in captures}
    return np.asarray(interpret(cascade, values)["result"])


def assert_traces_to_itself(function: Callable[..., Any], *tensors: torch.Tensor) -> None:
    """The traced function computes what the function computes, and results have the same kind."""
    expected = function(*(tensor.clone() for tensor in tensors))
    found = traced_value(function, *tensors)
    assert found.dtype.kind == {"float": "f", "int": "i", "bool": "b"}[kind_of_dtype(expected.dtype)]
    np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-6, atol=1e-6)


def mask_values(cascade: Any, extents: dict[str, int], captures: Any) -> np.ndarray:
    """The predicate of the step x over [b, h, m, n]."""
    step = cascade.step("x")
    predicate = build.TRUE if step.where is None else step.where
    axes = ("b", "g", "r", "m", "n")
    mask = Einsum("mask", axes, build.apply("where", predicate, build.ONE, build.ZERO))
    shapes = {item.name: tuple(extents[axis] for axis in item.axes) for item in cascade.inputs if item.axes is not None}
    values: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}
    values |= {item.name: item.value.numpy() if isinstance(item.value, torch.Tensor) else item.value for item in captures}
    found = np.asarray(interpret(type(cascade)(cascade.inputs, (mask,), ("mask",)), values)["mask"])
    whole = np.broadcast_to(found, tuple(extents[axis] for axis in axes))
    return whole.reshape(extents["b"], extents["g"] * extents["r"], extents["m"], extents["n"]) != 0
