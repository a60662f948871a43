"""The backward in one walk: a kernel of columns that computes the gradients of rows as well, as sums that programs add up in memory.

    backward_rows       dq[m]    = sum[n] dx[m,n] * k[n]            dx is formed twice, by programs for m and by programs for n
    backward_columns    dk[n]    = sum[m] dx[m,n] * q[m]
                                                                    ->
    backward_fused      dk[n]    = sum[m] dx[m,n] * q[m]            dx is formed once, by programs for n
                        dq_sum[m] += sum[n of the tile] dx[m,n] * k[n]
    backward_finish     dq[m]    = dq_sum[m] * scale                what is left to do with a whole sum, if anything

What plain attention multiplies falls from seven products a tile to five. In return the sums pass through memory once for each tile of keys,
in an order that nothing fixes: results differ in their last bits from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attngen.ir.cascade import Einsum, Input
from attngen.ir.traverse import step_reads
from attngen.kernel.kernel import Kernel
from attngen.kernel.liveness import live
from attngen.kernel.partition import visited

ROWS, COLUMNS, FUSED, FINISH = "backward_rows", "backward_columns", "backward_fused", "backward_finish"


@dataclass(frozen=True, slots=True)
class Fused:
    """The kernels of the other form, () where there is none, and why kernels of rows stayed what they are."""

    kernels: tuple[Kernel, ...]
    refused: tuple[str, ...]


def fused(kernels: Sequence[Kernel]) -> Fused:
    """The kernels in which those of columns took over what kernels of rows compute, as far as they can.

    Args:
        kernels: of `backward_kernels`, before rewrites, with whatever goes before them.
    """
    columns = {kernel.role: kernel for kernel in kernels if _is(kernel, COLUMNS)}
    refused: list[str] = []
    merged: dict[str, Kernel] = {}
    finishes: dict[str, Kernel | None] = {}
    for rows in kernels:
        if not _is(rows, ROWS):
            continue
        reasons = {role: _obstacle(rows, kernel) for role, kernel in columns.items()}
        role = next((role for role, reason in reasons.items() if not reason), None)
        if role is None:
            refused.append(f"{rows.role}: {next(iter(reasons.values()), 'no kernel walks over its tiles the other way round')}")
            continue
        merged[role] = _joined(merged.get(role, columns[role]), rows)
        finishes[rows.role] = _finish(rows)
    found: list[Kernel] = []
    for kernel in kernels:
        if kernel.role in merged:
            found.append(visited(replace(merged[kernel.role], role=kernel.role.replace(COLUMNS, FUSED))))
        elif kernel.role not in finishes:
            found.append(kernel)
    found += [kernel for kernel in finishes.values() if kernel is not None]
    return Fused(tuple(found) if merged else (), tuple(refused))


def _is(kernel: Kernel, role: str) -> bool:
    return kernel.role.rstrip("_0123456789") == role


def _sums(rows: Kernel) -> tuple[Einsum, ...]:
    """What a kernel of rows accumulates along its stream."""
    return tuple(step for step in rows.steps if rows.streamed in step.over)


def _obstacle(rows: Kernel, columns: Kernel) -> str:
    """Why a kernel of columns cannot compute what a kernel of rows does; "" if it can."""
    if rows.scatters:
        return "it stores tiles of gradients by pairs"
    walked = {*columns.grid, *columns.loops}
    for step in _sums(rows):
        if step.reduce != "sum":
            return f"{step.name} is no plain sum"
        visits = {*step.axes, *step.over} - {rows.resident, rows.streamed, *rows.features}
        if visits != walked:
            return f"{step.name} takes part in all of {', '.join(sorted(visits))}, {columns.role} in all of {', '.join(sorted(walked))}"
        if set(step.over) & set(rows.features):
            return f"{step.name} sums over features"
    early = {step.name for step in rows.steps} - _late(rows)
    if any(name in rows.outputs and name not in {step.name for step in _sums(rows)} for name in early):
        return "it stores a value of its own that is no sum"
    return ""


def _late(rows: Kernel) -> set[str]:
    """The sums, and what is computed from whole sums."""
    found = {step.name for step in _sums(rows)}
    for step in rows.steps:
        if found & set(step_reads(step)):
            found.add(step.name)
    return found


def _joined(columns: Kernel, rows: Kernel) -> Kernel:
    """The kernel of columns with the sums of a kernel of rows."""
    late, sums = _late(rows), tuple(step.name for step in _sums(rows))
    mine = {step.name for step in columns.steps}
    steps = tuple(step for step in rows.steps if step.name not in mine and (step.name not in late or step.name in sums))
    known = {item.name for item in columns.inputs}
    return replace(
        columns,
        inputs=(*columns.inputs, *(item for item in rows.inputs if item.name not in known)),
        steps=(*columns.steps, *steps),
        outputs=(*columns.outputs, *sums),
        atomic_adds=(*columns.atomic_adds, *sums),
        silent=tuple(dict.fromkeys((*columns.silent, *rows.silent))),
        seeing=columns.seeing or rows.seeing,
    )


def _finish(rows: Kernel) -> Kernel | None:
    """The kernel that computes what a kernel of rows does with whole sums; None if that is nothing."""
    sums = tuple(step.name for step in _sums(rows))
    outputs = tuple(name for name in rows.outputs if name not in sums)
    if not outputs:
        return None
    inputs = (*rows.inputs, *(Input(name, rows.axes(name), len(rows.axes(name))) for name in sums))
    role = rows.role.replace(ROWS, FINISH)
    axes = dict.fromkeys(axis for name in outputs for axis in rows.axes(name))
    grid = tuple(axis for axis in axes if axis != rows.resident and axis not in rows.features)
    return live(Kernel(role, rows.resident, None, grid, (), rows.features, inputs, rows.steps, outputs))
