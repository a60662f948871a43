"""The fused backward: the dK/dV kernel computes dQ as well, by atomic adds.

    backward_rows       dq[m]    = sum[n] dx[m,n] * k[n]            split: dx is computed twice, by programs over m and over n
    backward_columns    dk[n]    = sum[m] dx[m,n] * q[m]
                                                                    ->
    backward_fused      dk[n]    = sum[m] dx[m,n] * q[m]            fused: dx is computed once, by programs over n
                        dq_sum[m] += sum[n of the tile] dx[m,n] * k[n]
    backward_finish     dq[m]    = dq_sum[m] * scale                the epilogue of the finished sums, if any

Plain attention needs five dots a tile instead of seven. In return dq is accumulated in memory once per KV tile, in no fixed order: results
are not bitwise reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from attngen.ir.cascade import Einsum, Input
from attngen.ir.traverse import step_reads
from attngen.kernel.kernel import Kernel
from attngen.kernel.liveness import live
from attngen.kernel.partition import with_tile_masks

ROWS, COLUMNS, FUSED, FINISH = "backward_rows", "backward_columns", "backward_fused", "backward_finish"


@dataclass(frozen=True, slots=True)
class Fused:
    """The kernels of the fused backward, () if nothing can be fused, and why row kernels were not."""

    kernels: tuple[Kernel, ...]
    refused: tuple[str, ...]


def fused(kernels: Sequence[Kernel]) -> Fused:
    """Fuse the row kernels of a backward into its column kernels, as far as possible.

    Args:
        kernels: those of `backward_kernels`, before rewrites, in order.
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
            refused.append(f"{rows.role}: {next(iter(reasons.values()), 'no kernel loops over the same tiles along the other axis')}")
            continue
        merged[role] = _joined(merged.get(role, columns[role]), rows)
        finishes[rows.role] = _finish(rows)
    found: list[Kernel] = []
    for kernel in kernels:
        if kernel.role in merged:
            found.append(with_tile_masks(replace(merged[kernel.role], role=kernel.role.replace(COLUMNS, FUSED))))
        elif kernel.role not in finishes:
            found.append(kernel)
    found += [kernel for kernel in finishes.values() if kernel is not None]
    return Fused(tuple(found) if merged else (), tuple(refused))


def _is(kernel: Kernel, role: str) -> bool:
    return kernel.role.rstrip("_0123456789") == role


def _sums(rows: Kernel) -> tuple[Einsum, ...]:
    """The accumulators of a row kernel."""
    return tuple(step for step in rows.steps if rows.streamed in step.over)


def _obstacle(rows: Kernel, columns: Kernel) -> str:
    """Why a row kernel cannot be fused into a column kernel; "" if it can."""
    if rows.scatters:
        return "it scatters gradients of pairs"
    covered = {*columns.grid, *columns.loops}
    for step in _sums(rows):
        if step.reduce != "sum":
            return f"{step.name} is not a sum"
        visits = {*step.axes, *step.over} - {rows.resident, rows.streamed, *rows.features}
        if visits != covered:
            return f"{step.name} covers {', '.join(sorted(visits))}, {columns.role} covers {', '.join(sorted(covered))}"
        if set(step.over) & set(rows.features):
            return f"{step.name} sums over features"
    before = {step.name for step in rows.steps} - _finished(rows)
    if any(name in rows.outputs and name not in {step.name for step in _sums(rows)} for name in before):
        return "it stores a value that is not a sum"
    return ""


def _finished(rows: Kernel) -> set[str]:
    """The sums and the steps of the epilogue that depend on them."""
    found = {step.name for step in _sums(rows)}
    for step in rows.steps:
        if found & set(step_reads(step)):
            found.add(step.name)
    return found


def _joined(columns: Kernel, rows: Kernel) -> Kernel:
    """The column kernel with the sums of a row kernel as atomic adds."""
    finished, sums = _finished(rows), tuple(step.name for step in _sums(rows))
    mine = {step.name for step in columns.steps}
    steps = tuple(step for step in rows.steps if step.name not in mine and (step.name not in finished or step.name in sums))
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
    """The rowwise kernel of the epilogue of a row kernel; None if there is no epilogue."""
    sums = tuple(step.name for step in _sums(rows))
    outputs = tuple(name for name in rows.outputs if name not in sums)
    if not outputs:
        return None
    inputs = (*rows.inputs, *(Input(name, rows.axes(name), len(rows.axes(name))) for name in sums))
    role = rows.role.replace(ROWS, FINISH)
    axes = dict.fromkeys(axis for name in outputs for axis in rows.axes(name))
    grid = tuple(axis for axis in axes if axis != rows.resident and axis not in rows.features)
    return live(Kernel(role, rows.resident, None, grid, (), rows.features, inputs, rows.steps, outputs))
