"""The sections: the measurements of a problem, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from benchmarks.gpu import check, workloads
from benchmarks.gpu.budget import OutOfTime
from benchmarks.gpu.contenders import Built
from benchmarks.gpu.problems import Problem
from benchmarks.gpu.rows import Row
from benchmarks.gpu.run import Named, Run
from benchmarks.gpu.subprocesses import first_calls, gpu_tests


@dataclass(frozen=True, slots=True)
class Section:
    """One section: gives its rows."""

    name: str
    rows: Callable[[Run], Iterator[Row]]


def forward(run: Run) -> Iterator[Row]:
    """Inference, without gradients."""
    yield from run.each("forward", workloads.forward(), measure_forward, grad=False)


def backward(run: Run) -> Iterator[Row]:
    """Gradients of all arguments and trained captures, given an output."""
    yield from run.each("backward", workloads.backward(), measure_backward, grad=True)


def decode(run: Run) -> Iterator[Row]:
    """One query a sequence."""
    yield from run.each("decode", workloads.decode(), measure_decode, grad=False)


def memory(run: Run) -> Iterator[Row]:
    """A forward and a backward together."""
    yield from run.each("memory", workloads.memory(), measure_memory, grad=True)


def mask(run: Run) -> Iterator[Row]:
    """The setup cost of a mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    from benchmarks.mask_setup import masks, prepared

    device = run.machine.device
    for length in workloads.MASK_LENGTHS:
        for name in workloads.MASKS:
            mod = masks(length, device)[name]

            def block(mod: Callable[..., object] = mod, length: int = length) -> object:
                return create_block_mask(mod, None, None, length, length, device=str(device))  # pyright: ignore[reportArgumentType]

            def ours(name: str = name, length: int = length) -> tuple[float, int]:
                return prepared(name, length, device)

            for contender, action in (("attngen", ours), ("create_block_mask", block)):
                if ("mask", f"{name} n{length}", contender) in run.known:
                    continue
                row = _setup_row(run, Row("mask", f"{name} n{length}", contender), action)
                run.progress(f"mask  {row.workload}  {contender}: {row.ms if row.ms is None else round(row.ms, 3)} ms {row.note}")
                yield row


def _setup_row(run: Run, row: Row, action: Callable[[], object]) -> Row:
    if run.budget.left < 2.0:
        return replace(row, status="skipped", note="no time left")
    try:
        with run.guard(run.budget.left, row):
            found = action()
            if isinstance(found, tuple):
                return replace(row, ms=1e3 * found[0], peak_mb=found[1] / 1e6)
            return replace(row, ms=run.machine.milliseconds(action))
    except (OutOfTime, Exception) as error:
        return replace(row, status="failed", note=f"{type(error).__name__}: {error}"[:200])


# ---- measurements


def measure_forward(run: Run, problem: Problem, built: Built, named: Named) -> Row:
    """Check, then time."""
    with torch.no_grad():
        verdict, first_s = _checked_output(run, problem, built)
        if not verdict.right:
            return named.row(status="wrong", error=verdict.error, where=verdict.where, first_s=first_s)
        ms = run.machine.milliseconds(built.call)
    return _timed(run, problem, built, named, ms, verdict, first_s, backward=False)


def measure_backward(run: Run, problem: Problem, built: Built, named: Named) -> Row:
    """Check output and gradients, then time the gradients alone."""
    verdict, first_s = _checked_output(run, problem, built)
    if verdict.right:
        out = built.call()

        def grads() -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(out, problem.leaves, problem.cotangent, retain_graph=True)

        check.poison(problem.leaves)
        began = _now(run)
        found = grads()
        first_s += _now(run) - began
        verdict = check.gradients(problem, found)
        del found
        if verdict.right:
            ms = run.machine.milliseconds(grads)
            return _timed(run, problem, built, named, ms, verdict, first_s, backward=True)
    return named.row(status="wrong", error=verdict.error, where=verdict.where, first_s=first_s)


def measure_decode(run: Run, problem: Problem, built: Built, named: Named) -> Row:
    """Check, then time the call as it is and from a graph, which leaves the host out."""
    with torch.no_grad():
        verdict, first_s = _checked_output(run, problem, built)
        if not verdict.right:
            return named.row(status="wrong", error=verdict.error, where=verdict.where, first_s=first_s)
        ms, graph_ms = run.machine.milliseconds(built.call), run.machine.graph_milliseconds(built.call)
    cached = sum(tensor.numel() * tensor.element_size() for tensor in (problem.terms[0].k, problem.v))
    gb_per_s = cached / graph_ms / 1e6
    values = {"ms": ms, "graph_ms": graph_ms, "gb_per_s": gb_per_s, "share": gb_per_s / run.copy_gb_per_s}
    return named.row(**values, error=verdict.error, where=verdict.where, first_s=first_s)


def measure_memory(run: Run, problem: Problem, built: Built, named: Named) -> Row:
    """The peak of a forward with its backward, outputs and gradients included, after a first one."""

    def step() -> object:
        return torch.autograd.grad(built.call(), problem.leaves, problem.cotangent)

    verdict, first_s = _checked_output(run, problem, built)
    if not verdict.right:
        return named.row(status="wrong", error=verdict.error, where=verdict.where, first_s=first_s)
    step()
    return named.row(peak_mb=run.machine.peak_bytes(step) / 1e6, error=verdict.error, where=verdict.where, first_s=first_s)


def _checked_output(run: Run, problem: Problem, built: Built) -> tuple[check.BackwardChoice, float]:
    """The verdict on a first call into poisoned memory, and how long it took to get there, compilation included."""
    check.poison([problem.cotangent])
    began = _now(run)
    out = built.call()
    first_s = built.build_s + _now(run) - began
    return check.output(problem, out.detach()), first_s


def _timed(
    run: Run, problem: Problem, built: Built, named: Named, ms: float, verdict: check.BackwardChoice, first_s: float, *, backward: bool
) -> Row:
    tflops = problem.workload.flops(problem.pairs, len(problem.terms), backward) / ms / 1e9
    setup_ms = None if built.setup_s is None else 1e3 * built.setup_s
    values = {"ms": ms, "tflops": tflops, "share": tflops / run.product_tflops, "setup_ms": setup_ms, "first_s": first_s}
    return named.row(**values, error=verdict.error, where=verdict.where)


def _now(run: Run) -> float:
    run.machine.synchronize()
    return time.perf_counter()


SECTIONS: dict[str, Section] = {
    item.name: item
    for item in (
        Section("tests", gpu_tests),
        Section("forward", forward),
        Section("backward", backward),
        Section("mask", mask),
        Section("decode", decode),
        Section("first_call", first_calls),
        Section("memory", memory),
    )
}
