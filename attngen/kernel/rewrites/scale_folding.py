"""Scale folding: a positive scale is folded into the exponential, as an FMA, and the running maximum is taken of the unscaled tile.

x[m,n] = s[m,n] * c                      ->
w[m,n] = exp(x[m,n] - m_i[m])                 w[m,n] = exp(s[m,n] * c - m_i[m]),  m_i[m] the maximum of s[m,n], times c

Takes and gives a kernel with the same outputs. A scale of statically unknown sign is not folded.
"""

from __future__ import annotations

from dataclasses import replace

from attngen.ir import build
from attngen.ir.algebra import factors
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Read
from attngen.ir.printer import print_expr
from attngen.ir.signs import is_positive_constant
from attngen.ir.traverse import free_axes, names_read, step_reads
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import Note


def scale_folding(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel without steps that only scale an exponent, and a note for each exponent."""
    notes: list[Note] = []
    for step in kernel.steps:
        if not any(exponent_row(other, step) for other in kernel.steps):
            continue
        found = _scaled(step, kernel)
        if isinstance(found, str):
            notes.append(Note(step.name, kernel.role, False, found))
        else:
            kernel = _folded(kernel, step, *found)
            notes.append(Note(step.name, kernel.role, True, "a product less for each pair"))
    return kernel, tuple(notes)


def _scaled(step: Einsum, kernel: Kernel) -> tuple[Read, Expr] | str:
    """The tile and the scale of an exponent, or why it cannot be folded."""
    parts = factors(step.body)
    computed = {other.name for other in kernel.steps}
    reads = [part for part in parts if isinstance(part, Read) and part.kind == "float" and part.tensor in computed]
    tiles = [part for part in reads if set(step.axes) == set(free_axes(part))]
    rest = [part for part in parts if not any(part is one for one in tiles)]
    if step.over or len(tiles) != 1 or not rest:
        return f"{step.name} is no product of a tile and a scale"
    unsigned = next((part for part in rest if not is_positive_constant(part)), None)
    if unsigned is not None:
        return f"{print_expr(unsigned)} is not known to be a positive constant"
    others = read_by_others(step, kernel)
    if others:
        return f"{others} needs {step.name} itself"
    scale: Expr = rest[0]
    for part in rest[1:]:
        scale = build.mul(scale, part)
    return tiles[0], scale


def read_by_others(step: Einsum, kernel: Kernel) -> str:
    """Names of the readers of an exponent other than its exponentials."""
    others = [other.name for other in kernel.steps if step.name in step_reads(other) and exponent_row(other, step) is None]
    others += [gauge.offset for gauge in kernel.gauges if gauge.exponent == step.name and gauge.offset is not None]
    others += [name for name in kernel.outputs if name == step.name]
    return ", ".join(dict.fromkeys(others))


def exponent_row(reader: Einsum, step: Einsum) -> Expr | None:
    """r, if `reader` is exp(step - r) for an r with fewer axes; else None."""
    match reader.body:
        case Apply(op="exp", args=(Apply(op="sub", args=(Read(tensor=name), row)),)) if name == step.name:
            narrow = step.name not in names_read(row) and set(free_axes(row)) < set(step.axes)
            return row if narrow and not reader.over and step.name not in names_read(reader.where) else None
        case _:
            return None


def _folded(kernel: Kernel, step: Einsum, tile: Read, scale: Expr) -> Kernel:
    def changed(other: Einsum) -> Einsum:
        row = exponent_row(other, step)
        return other if row is None else replace(other, body=build.exp(build.sub(build.mul(tile, scale), row)))

    steps = tuple(changed(other) for other in kernel.steps if other is not step)
    gauges = tuple(replace(item, exponent=tile.tensor, scale=scale) if item.exponent == step.name else item for item in kernel.gauges)
    return replace(kernel, steps=steps, gauges=gauges)
