"""The host side of a module: lengths, allocation, launches, and the last sums of gradients that kernels leave as partials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from attngen.alternates.known_alternates import ALTERNATES
from attngen.emit import chunks
from attngen.emit.context import AlternateText, Finish, HostContext, Launch
from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.int32_offsets import near_lines
from attngen.emit.kernel_text import Lowered
from attngen.emit.params import Param
from attngen.emit.placement import Shapes
from attngen.emit.positions import on_host
from attngen.emit.tile_list import NARROW_TILES, names_of
from attngen.ir.cascade import Cascade, Input, operand_of
from attngen.ir.expr import OPS, Apply, Expr, Index, Read
from attngen.ir.traverse import free_axes, walk
from attngen.kernel.partition import DocumentExtents, Kernel
from attngen.schedule.tile_schedule import FLAGS
from attngen.transform.autodiff.differentiate import Gradient


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the host side depends on.

    Attributes:
        inputs: the user's arguments and captures, in call order.
        outputs: results of the forward; `saved` steps follow them.
        cotangents: (output, name of its cotangent).
        features: feature axes.
        forward, backward: kernels with their lowered form.
        gradients: how each is completed, where a kernel does not store all of it.
        axes: of the gradient cascade, for partial gradients.
        shapes: what the kernels were lowered for.
        alternates: of kernels that have some.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    saved: tuple[str, ...]
    cotangents: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    forward: tuple[tuple[Kernel, Lowered], ...]
    backward: tuple[tuple[Kernel, Lowered], ...]
    gradients: tuple[Gradient, ...]
    axes: Mapping[str, tuple[str, ...]]
    shapes: Shapes
    alternates: tuple[AlternateText, ...]


def host_context(plan: Plan) -> HostContext:
    """The launching functions for a plan."""
    inputs = [Code(tensor_name(item.name)) for item in plan.inputs]
    extra = [Code(tensor_name(name)) for name in plan.saved if name not in plan.outputs]
    results = [Code(tensor_name(name)) for name in plan.outputs]
    cotangents = [Code(tensor_name(name)) for _, name in plan.cotangents]
    titles = ", ".join((*results, *extra))
    tensors = [item.name for item in plan.inputs if not item.by_value]
    listed = any(kernel.tile_list_of for kernel, _ in (*plan.forward, *plan.backward))
    options = (Code("lists=None"),) if listed else ()
    return HostContext(
        forward_title=Code(f"Returns {titles}."),
        forward_params=(*inputs, Code("tiles"), *(Code("parts") for _ in _parts(plan)), *options),
        forward_near=near_lines((kernel for kernel, _ in plan.forward), tensors),
        lengths=tuple(_lengths(plan)),
        document_extents=any(kernel.document_extents for kernel, _ in (*plan.forward, *plan.backward)),
        pieces=bool(plan.shapes.pieces),
        tiled=any(lowered.tiled for _, lowered in (*plan.forward, *plan.backward)),
        choosers=tuple(dict.fromkeys(alternate.chooser for alternate in plan.alternates)),
        flags=Code(", ".join(f'"{flag.upper()}"' for flag in (*FLAGS, *ALTERNATES))),
        listed=listed,
        chunks=any(kernel.in_chunks for kernel, _ in plan.backward),
        forward=tuple(_launch(plan, kernel, lowered, frozenset()) for kernel, lowered in plan.forward),
        forward_results=(*results, *extra),
        differentiable=bool(plan.backward),
        backward_title=Code("Gradients of the inputs named in `needed`, by name."),
        backward_params=(
            *inputs,
            *(Code(tensor_name(name)) for name in plan.saved),
            *cotangents,
            *(Code(name) for name in ("tiles", "needed")),
            *options,
        ),
        backward_near=near_lines((kernel for kernel, _ in plan.backward), {*tensors, *(name for _, name in plan.cotangents)}),
        backward=tuple(_launch(plan, kernel, lowered, _targets(plan, kernel)) for kernel, lowered in plan.backward),
        finish=tuple(_finish(plan)),
    )


def _parts(plan: Plan) -> list[str]:
    """The axis of the parts that the stream is divided into, if it is."""
    return list(dict.fromkeys(kernel.split_axis for kernel, _ in plan.forward if kernel.split_axis))


# ---- lengths and allocation


def _lengths(plan: Plan) -> list[Code]:
    lines: dict[str, Code] = {}
    for item in plan.inputs:
        for position, axis in enumerate(item.axes or ()):
            lines.setdefault(axis, Code(f"len_{axis} = {tensor_name(item.name)}.shape[{position}]"))
    for kernel, _ in (*plan.forward, *plan.backward):
        for step in kernel.steps:
            for node in (*walk(step.body), *(walk(step.where) if step.where is not None else ())):
                item = next((i for i in plan.inputs if isinstance(node, Read) and i.name == node.tensor and i.axes is None), None)
                if item is not None and isinstance(node, Read):
                    for position, at in enumerate(node.at):
                        if isinstance(at, Index):
                            lines.setdefault(at.axis, Code(f"len_{at.axis} = {tensor_name(item.name)}.shape[{position}]"))
    used = {name for _, lowered in (*plan.forward, *plan.backward) for name in lowered.constexprs}
    for axis in plan.features:
        names = [name.lower() for name in plan.shapes.constants(axis) if name in used]
        if len(names) == 1:
            lines[names[0]] = Code(f"{names[0]} = triton.next_power_of_2(max(len_{axis}, 16))")
        elif names:
            lines[names[0]] = Code(f"{', '.join(names)} = pieces(len_{axis})")
    lines |= {part: Code(f"len_{part} = parts") for part in _parts(plan)}
    lines |= {runs.first: _runs(runs) for kernel, _ in (*plan.forward, *plan.backward) for runs in kernel.document_extents}
    first = tensor_name(_model(plan))
    accumulator = Code(f"accumulator = torch.float64 if {first}.dtype == torch.float64 else torch.float32")
    return [*lines.values(), accumulator]


def _runs(runs: DocumentExtents) -> Code:
    names = ", ".join(map(tensor_name, runs.names))
    return Code(f"{names} = runs({tensor_name(runs.values)}, {tensor_name(runs.keys)})")


def _model(plan: Plan) -> str:
    """The argument that dtype and device are taken from."""
    return operand_of(plan.inputs, plan.features).name


def _empty(plan: Plan, name: str, axes: tuple[str, ...], *, atomic_adds: bool) -> Code:
    """Memory for a result: that to which programs add begins at 0 and is as wide as their sums."""
    model = tensor_name(_model(plan))
    wide = any(axis in plan.features for axis in axes) and not atomic_adds and name not in plan.shapes.states
    shape = ", ".join(f"len_{axis}" for axis in axes) + ("," if len(axes) == 1 else "")
    dtype = f"{model}.dtype" if wide else "accumulator"
    return Code(f"{tensor_name(name)} = torch.{'zeros' if atomic_adds else 'empty'}(({shape}), dtype={dtype}, device={model}.device)")


def _allocate(plan: Plan, kernel: Kernel) -> list[Code]:
    lines: list[Code] = []
    model = tensor_name(_model(plan))
    if kernel.tile_list_of:
        return _allocate_lists(kernel, model)
    for name in kernel.outputs:
        place = next((item for item in kernel.scatters if item.step == name), None)
        if place is None:
            lines.append(_empty(plan, name, kernel.axes(name), atomic_adds=name in kernel.atomic_adds))
            continue
        target = tensor_name(place.target.name)
        dtype = f"{target}.dtype" if place.form == "stored" else "accumulator"
        lines.append(Code(f"{tensor_name(name)} = torch.zeros({target}.shape, dtype={dtype}, device={model}.device)"))
    return [*lines, *(chunks.begin(kernel) if kernel.in_chunks else [])]


def _allocate_lists(kernel: Kernel, model: str) -> list[Code]:
    """A row for each resident tile of a head, as long as there are tiles to visit; two bytes a tile while their numbers fit."""
    heads = "".join(f"len_{axis}, " for axis in kernel.grid)
    resident, streamed = (f'triton.cdiv(len_{axis}, tile["BLOCK_{axis.upper()}"])' for axis in (kernel.resident, kernel.streamed or ""))
    lists, counts = names_of(kernel.tile_list_of)
    return [
        Code(f"rows = ({heads}{resident}{'' if heads else ','})"),
        Code(f"list_length = {streamed}"),
        Code(f"list_dtype = torch.int16 if list_length <= {NARROW_TILES} else torch.int32"),
        Code(f"{lists} = torch.empty((*rows, list_length), dtype=list_dtype, device={model}.device)"),
        Code(f"{counts} = torch.empty((*rows, 2), dtype=torch.int32, device={model}.device)"),
    ]


# ---- launches


def _launch(plan: Plan, kernel: Kernel, lowered: Lowered, targets: frozenset[str]) -> Launch:
    axis = kernel.resident
    rows = "chunk" if kernel.in_chunks else f"len_{axis}"
    grid = " * ".join([f'triton.cdiv({rows}, tile["BLOCK_{axis.upper()}"])', *(f"len_{name}" for name in kernel.grid)])
    model = tensor_name(_model(plan))
    constants = [f'"DIM_{a.upper()}": len_{a}' for a in kernel.features if f"DIM_{a.upper()}" in lowered.constexprs]
    tiles = [name for axis in kernel.features for name in plan.shapes.constants(axis)]
    constants += [f'"{name}": {name.lower()}' for name in tiles if name in lowered.constexprs]
    constants += [f'"DTYPE": TYPES[{model}.dtype]', '"ACC": TYPES[accumulator]']
    constants += [f'"SILENT": not ({_truth(kernel.seeing)})'] if "SILENT" in lowered.context.flags else []
    needed = ", ".join(f'"{tensor_name(name)}"' for name in sorted(targets))
    lists = ", ".join(names_of(kernel.tile_list_of or kernel.role))
    tile = f'plain(tiles["{kernel.tile_list_of}"])' if kernel.tile_list_of else f'tiles["{kernel.role}"]'
    takes = any(other.tile_list_of == kernel.role for other, _ in (*plan.forward, *plan.backward))
    conditions = ([f"needed & {{{needed}}}"] if targets else []) + (
        [f'"{kernel.tile_list_of}" not in lists'] if kernel.tile_list_of else []
    )
    chosen = [alternate.choice for alternate in plan.alternates if alternate.plain == lowered.context.name]
    return Launch(
        kernel=Code("kernel") if chosen else lowered.context.name,
        tile=Code(f"described({tile}, {', '.join(lowered.tiled)})" if lowered.tiled else tile),
        allocate=(*chosen, *([Code(f'{lists} = lists["{kernel.role}"]')] if takes else []), *_allocate(plan, kernel)),
        chunks=Code(f"chunk_begin in range(0, len_{axis}, chunk_rows)" if kernel.in_chunks else ""),
        chunk=tuple(chunks.chunk(kernel, model) if kernel.in_chunks else ()),
        programs=Code(grid),
        arguments=tuple(map(_argument, lowered.params)),
        constants=Code(f"{{{', '.join(constants)}}}"),
        keep=(Code(f'lists["{kernel.tile_list_of}"] = {lists}'),) if kernel.tile_list_of else tuple(chunks.added(kernel)),
        condition=Code(" and ".join(conditions)),
    )


def _argument(param: Param) -> Code:
    """What the host passes for one kernel parameter."""
    match param.kind:
        case "pointer" | "result":
            return Code(param.tensor)
        case "stride":
            return Code(f"{param.tensor}.stride({param.dim})")
        case "size":
            return Code(f"{param.tensor}.shape[{param.dim}]")
        case "number" | "bound" | "length":
            return param.name


def _targets(plan: Plan, kernel: Kernel) -> frozenset[str]:
    """Inputs whose gradients need this kernel, directly or through a value it prepares."""
    steps = set(kernel.outputs)
    if kernel.tile_list_of:
        return next(_targets(plan, other) for other, _ in plan.backward if other.role == kernel.tile_list_of)
    for other, _ in plan.backward:
        if other is not kernel and steps & {item.name for item in other.inputs}:
            steps |= set(other.outputs)
    return frozenset(gradient.target for gradient in plan.gradients if gradient.step in steps)


# ---- completing gradients


def _finish(plan: Plan) -> list[Finish]:
    by_target: dict[str, list[Gradient]] = {}
    for gradient in plan.gradients:
        by_target.setdefault(gradient.target, []).append(gradient)
    inputs = {item.name: item for item in plan.inputs}
    result: list[Finish] = []
    for target, gradients in by_target.items():
        name = tensor_name(target)
        lines: list[str] = []
        for number_, gradient in enumerate(gradients):
            lines += _complete(plan, inputs[target], gradient)
            sign = "=" if number_ == 0 else "+="
            lines.append(f'gradients["{name}"] {sign} {tensor_name(gradient.step)}.to({name}.dtype)')
        result.append(Finish(Code(name), tuple(Code(line) for line in lines)))
    return result


def _complete(plan: Plan, item: Input, gradient: Gradient) -> list[str]:
    if any(gradient.step == item.step for kernel, _ in plan.backward for item in kernel.scatters):
        return []
    step, axes = tensor_name(gradient.step), plan.axes[gradient.step]
    if gradient.at is None:
        kept = tuple(axis for axis in axes if axis in (item.axes or ()))
        lines = _summed(step, axes, kept)
        order = tuple(kept.index(axis) for axis in item.axes or ())
        return lines if order == tuple(range(len(order))) else [*lines, f"{step} = {step}.permute({', '.join(map(str, order))})"]
    position = {axis for at in gradient.at for axis in free_axes(at)}
    kept = tuple(axis for axis in axes if axis in position)
    lines = _summed(step, axes, kept)
    if not gradient.at:
        return lines
    name, model = tensor_name(item.name), tensor_name(_model(plan))
    for i, axis in enumerate(kept):
        view = ", ".join("-1" if j == i else "1" for j in range(len(kept)))
        lines.append(f"at_{axis} = torch.arange(len_{axis}, device={model}.device).view({view})")
    for i, at in enumerate(gradient.at):
        if kept:
            constant = "" if free_axes(at) else f" + 0 * at_{kept[0]}"
            lines.append(f"index_{i} = {on_host(at)}{constant}")
        else:
            lines.append(f"index_{i} = torch.as_tensor({on_host(at)}, device={model}.device)")
        lines.append(f"index_{i} = index_{i}.clamp(-{name}.shape[{i}], {name}.shape[{i}] - 1)")
    lines.append(f"index = torch.broadcast_tensors({', '.join(f'index_{i}' for i, _ in enumerate(gradient.at))})")
    lines.append(f"scattered = torch.zeros({name}.shape, dtype={step}.dtype, device={step}.device)")
    lines.append(f"{step} = scattered.index_put_(index, {step}, accumulate=True)")
    return lines


def _summed(step: str, axes: tuple[str, ...], kept: tuple[str, ...]) -> list[str]:
    gone = [str(i) for i, axis in enumerate(axes) if axis not in kept]
    dims = f"({', '.join(gone)})" if len(gone) > 1 else "".join(gone)
    return [f"{step} = {step}.sum({dims})"] if gone else []


def _truth(comparisons: Iterable[Expr]) -> str:
    """Whether comparisons of lengths and captured numbers all hold."""
    sides = ((part.op, *part.args) for part in comparisons if isinstance(part, Apply))
    return " and ".join(f"{on_host(a)} {OPS[op].symbol} {on_host(b)}" for op, a, b in sides)


def gradient_axes(cascade: Cascade) -> dict[str, tuple[str, ...]]:
    """Axes of every step of the gradient cascade and of every cotangent, which may be a gradient itself."""
    found = {item.name: item.axes for item in cascade.inputs if item.axes is not None}
    return {**found, **{step.name: step.axes for step in cascade.steps}}
