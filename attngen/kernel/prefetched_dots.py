"""The products that a turn of a stream can form before its time: of the next tile, beside the weights of this one.

    s = q k[j]                                 s = ahead
    w = exp(s - m)                  ->         ahead = q k[j + 1]      runs on the matrix unit
    acc = acc + w v[j]                         w = exp(s - m)          meanwhile
                                               acc = acc + w v[j]

That helps where everything a turn multiplies for its scores must be there before its exponentials can begin. A kernel that has another
product to run beside them, as the gradients of weights have, gains nothing.
"""

from __future__ import annotations

from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Index, Read
from attngen.ir.traverse import free_axes, reads, step_reads, walk
from attngen.kernel.partition import Kernel, addends
from attngen.targets.sfu_cost import SFU_OPS


def prefetchable_dots(kernel: Kernel) -> tuple[str, ...]:
    """The steps that go ahead, in order: products of pairs, their sums and the biases folded into them; () where that gains nothing."""
    if kernel.streamed is None or kernel.loops:
        return ()
    found, products = _early(kernel), _products(kernel)
    alone = products <= set(found) and not _read_by_others(kernel, found)
    if not products or not alone or not all(_feeds_a_function(name, kernel) for name in products):
        return ()
    return (*found, *(bias_dot.step for bias_dot in kernel.bias_dots if bias_dot.tile.tensor in found))


def products_first(kernel: Kernel) -> tuple[Einsum, ...]:
    """Steps in the order in which a turn has them: the products of rows before all else, so that one runs beside what follows from the
    other, and the sums of a backward as their tiles become ready, so that one runs beside what is left to compute for the next."""
    early, turning = _early(kernel), _turning(kernel)
    steps = tuple(sorted(kernel.steps, key=lambda step: step.name in turning and step.name not in early))
    return steps if kernel.gauges else _when_ready(kernel, steps)


def _when_ready(kernel: Kernel, steps: tuple[Einsum, ...]) -> tuple[Einsum, ...]:
    """Sums after all tiles, each as early as what it reads is there; then what leaves the turn: earlier that would cost registers, while
    what is carried to the next turn can still be under way behind it."""
    place = {step.name: i for i, step in enumerate(steps)}
    sums = {step.name for step in steps if kernel.streamed is not None and kernel.streamed in step.over}
    late = set(sums)
    for step in steps:
        late |= {step.name} if late & set(step_reads(step)) else set()

    def rank(step: Einsum) -> tuple[int, int]:
        if step.name in sums:
            return 1, max((place[name] for name in step_reads(step) if name in place), default=-1)
        return (2, 0) if step.name in kernel.atomic_adds else (3, 0) if step.name in late else (0, 0)

    return tuple(sorted(steps, key=rank))


def _products(kernel: Kernel) -> set[str]:
    """Products of pairs over features."""
    pair = {kernel.resident, kernel.streamed}
    return {step.name for step in kernel.steps if pair <= set(step.axes) and step.over and kernel.streamed not in step.over}


def _turning(kernel: Kernel) -> set[str]:
    """Steps whose values change with the stream, or come of what does."""
    found: set[str] = set()
    for step in kernel.steps:
        if kernel.streamed in (*step.axes, *step.over) or found & set(step_reads(step)):
            found.add(step.name)
    return found


def _early(kernel: Kernel) -> dict[str, Einsum]:
    """Products of pairs, and their sums, that need nothing of their turn but rows in memory."""
    products, turning = _products(kernel), _turning(kernel)
    found: dict[str, Einsum] = {}
    for step in kernel.steps:
        waits = (turning & set(step_reads(step))) - set(found)
        joined = bool(addends(step)) and set(addends(step)) <= set(found)
        if (step.name in products or joined) and not waits and _from_rows(step, kernel):
            found[step.name] = step
    return found


def _from_rows(step: Einsum, kernel: Kernel) -> bool:
    """Whether what streams into a step are rows at their own positions."""
    streamed = [read for read in reads(step.body) if kernel.streamed in free_axes(read)]
    return all(isinstance(at, Index) for read in streamed for at in read.at)


def _read_by_others(kernel: Kernel, found: dict[str, Einsum]) -> bool:
    """Whether a tile of a product serves a later step of its turn as well."""
    inputs = {item.name for item in kernel.inputs}

    def streamed(step: Einsum) -> set[str]:
        return {read.tensor for read in reads(step.body) if read.tensor in inputs and kernel.streamed in free_axes(read)}

    ahead = {name for step in found.values() for name in streamed(step)}
    return any(ahead & streamed(step) for step in kernel.steps if step.name not in found)


def _feeds_a_function(name: str, kernel: Kernel) -> bool:
    """Whether a function that the special unit computes waits for a step."""
    waiting = {name}
    for step in kernel.steps:
        if waiting & set(step_reads(step)):
            waiting.add(step.name)
            if any(isinstance(node, Apply) and node.op in SFU_OPS and _reads(node, waiting) for node in walk(step.body)):
                return True
    return any(gauge.exponent in waiting for gauge in kernel.gauges)


def _reads(node: Apply, names: set[str]) -> bool:
    return any(isinstance(inner, Read) and inner.tensor in names for inner in walk(node))
