"""Prefetched dots, for software pipelining: the score dots of tile j + 1 overlap the softmax of tile j.

    s = q k[j]                                 s = s_next
    w = exp(s - m)                  ->         s_next = q k[j + 1]     on the tensor cores
    acc = acc + w v[j]                         w = exp(s - m)          concurrently
                                               acc = acc + w v[j]

That pays if the exponentials depend on every dot of the scores. A kernel with an independent dot to overlap them, such as dP in a backward,
gains nothing.
"""

from __future__ import annotations

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Index, Read
from attngen.ir.traverse import free_axes, reads, step_reads, walk
from attngen.kernel.partition import Kernel, addends
from attngen.targets.sfu_cost import SFU_OPS


def prefetchable_dots(kernel: Kernel) -> tuple[str, ...]:
    """The steps to prefetch, in order: score dots, their sums and their bias dots; () if that gains nothing."""
    if kernel.streamed is None or kernel.loops:
        return ()
    found, products = _independent(kernel), _products(kernel)
    alone = products <= set(found) and not _read_by_others(kernel, found)
    if not products or not alone or not all(_feeds_a_function(name, kernel) for name in products):
        return ()
    return (*found, *(bias_dot.step for bias_dot in kernel.bias_dots if bias_dot.tile.tensor in found))


def issue_order(kernel: Kernel) -> tuple[Einsum, ...]:
    """Steps in issue order: independent dots first, so that one overlaps the pointwise work on another; in a backward each accumulation as
    soon as its tile is ready, so that it overlaps the work for the next."""
    first, variant = _independent(kernel), _loop_variant(kernel)
    steps = tuple(sorted(kernel.steps, key=lambda step: step.name in variant and step.name not in first))
    return steps if kernel.gauges else _when_ready(kernel, steps)


def _when_ready(kernel: Kernel, steps: tuple[Einsum, ...]) -> tuple[Einsum, ...]:
    """Sums after all tiles, each as early as its operands allow, then atomic adds: earlier they would cost registers, now they overlap the
    accumulations that are still in flight."""
    place = {step.name: i for i, step in enumerate(steps)}
    sums = {step.name for step in steps if kernel.streamed is not None and kernel.streamed in step.over}
    finished = set(sums)
    for step in steps:
        finished |= {step.name} if finished & set(step_reads(step)) else set()

    def rank(step: Einsum) -> tuple[int, int]:
        if step.name in sums:
            return 1, max((place[name] for name in step_reads(step) if name in place), default=-1)
        return (2, 0) if step.name in kernel.atomic_adds else (3, 0) if step.name in finished else (0, 0)

    return tuple(sorted(steps, key=rank))


def _products(kernel: Kernel) -> set[str]:
    """The dots over features whose result is a tile of pairs."""
    pair = {kernel.resident, kernel.streamed}
    return {step.name for step in kernel.steps if pair <= set(step.axes) and step.over and kernel.streamed not in step.over}


def _loop_variant(kernel: Kernel) -> set[str]:
    """Steps along the loop axis, and all that depend on them."""
    found: set[str] = set()
    for step in kernel.steps:
        if kernel.streamed in (*step.axes, *step.over) or found & set(step_reads(step)):
            found.add(step.name)
    return found


def _independent(kernel: Kernel) -> dict[str, Einsum]:
    """The dots of pairs, and their sums, that depend on nothing in their iteration but rows in memory."""
    products, variant = _products(kernel), _loop_variant(kernel)
    found: dict[str, Einsum] = {}
    for step in kernel.steps:
        waits = (variant & set(step_reads(step))) - set(found)
        joined = bool(addends(step)) and set(addends(step)) <= set(found)
        if (step.name in products or joined) and not waits and _from_rows(step, kernel):
            found[step.name] = step
    return found


def _from_rows(step: Einsum, kernel: Kernel) -> bool:
    """Whether a step reads streamed tensors at their own positions only."""
    streamed = [read for read in reads(step.body) if kernel.streamed in free_axes(read)]
    return all(isinstance(at, Index) for read in streamed for at in read.at)


def _read_by_others(kernel: Kernel, found: dict[str, Einsum]) -> bool:
    """Whether another step of the iteration reads a streamed operand of the prefetched dots."""
    inputs = {item.name for item in kernel.inputs}

    def streamed(step: Einsum) -> set[str]:
        return {read.tensor for read in reads(step.body) if read.tensor in inputs and kernel.streamed in free_axes(read)}

    operands = {name for step in found.values() for name in streamed(step)}
    return any(operands & streamed(step) for step in kernel.steps if step.name not in found)


def _feeds_a_function(name: str, kernel: Kernel) -> bool:
    """Whether a special function (SFU) depends on a step."""
    waiting = {name}
    for step in kernel.steps:
        if waiting & set(step_reads(step)):
            waiting.add(step.name)
            if any(isinstance(node, Apply) and node.op in SFU_OPS and _reads(node, waiting) for node in walk(step.body)):
                return True
    return any(gauge.exponent in waiting for gauge in kernel.gauges)


def _reads(node: Apply, names: set[str]) -> bool:
    return any(isinstance(inner, Read) and inner.tensor in names for inner in walk(node))
