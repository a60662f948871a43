"""A kernel as the template wants it: sections of statements, segments, parameters and stores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attngen.emit.addressing import scaled
from attngen.emit.atomic_adds import add_parts
from attngen.emit.bias_dot import is_nested
from attngen.emit.builder import Writer
from attngen.emit.context import FunctionContext, KernelContext
from attngen.emit.dialect import PLAIN, Dialect
from attngen.emit.format import WIDTH
from attngen.emit.gradient_scatter import store_tiles
from attngen.emit.identifiers import Code, folded, identifier, tensor_name
from attngen.emit.loop_bounds import Bounds, bounds
from attngen.emit.lower import Lowering
from attngen.emit.params import Param, ParamKind, length, result, stride
from attngen.emit.placement import Shapes, Stage
from attngen.emit.segments import Segments, guarded, offsets, segments_of, turn, turns, walk
from attngen.emit.tile_list import listing_kernel, write_lists
from attngen.facts.kernel_facts import KernelFacts, kernel_facts
from attngen.ir.expr import Read
from attngen.ir.printer import print_expr
from attngen.kernel.feature_tiling import split
from attngen.kernel.partition import Kernel

_PER_CALL: frozenset[ParamKind] = frozenset({"number", "size", "bound", "length"})
"""What differs from call to call, and no alignment rests on."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """A kernel's context and what the host must pass to it, in order; `limits` are the bounds of its walks, `tiled` the tensors whose
    tiles a descriptor may fetch."""

    context: KernelContext
    params: tuple[Param, ...]
    constexprs: tuple[str, ...]
    helpers: frozenset[str]
    limits: Bounds
    tiled: tuple[str, ...]


def lower_kernel(facts: KernelFacts, shapes: Shapes, before: Iterable[Lowered] = ()) -> Lowered:
    """Statements of one kernel.

    Args:
        facts: of what to compute.
        shapes: padding and ownership.
        before: kernels of the same module, whose functions this one may call.

    Raises:
        NotAContraction, UnsupportedError: a step has no form in a tile.
    """
    written = statements(facts, shapes, before)
    lowered = _assemble(facts.kernel, written)
    if written.prefetched is not None:
        context = replace(lowered.context, products=(written.prefetched,), flags=(*written.flags, *lowered.context.flags))
        lowered = replace(lowered, context=context)
    return replace(lowered, context=replace(lowered.context, bounds=())) if written.known else lowered


@dataclass(frozen=True, slots=True)
class Written:
    """The statements of a kernel, section by section.

    Attributes:
        writer: that holds them. segments: the walks of its stream.
        limits: of these walks. known: whether another kernel has the function that finds them.
        prefetched: the function of what goes ahead. flags: that choose a form of it.
    """

    writer: Writer
    segments: Segments | None
    limits: Bounds
    known: bool
    prefetched: FunctionContext | None
    flags: tuple[Code, ...]


def statements(facts: KernelFacts, shapes: Shapes, before: Iterable[Lowered] = (), dialect: Dialect = PLAIN) -> Written:
    """The statements of one kernel in a dialect; arguments and errors as for `lower_kernel`."""
    kernel, segments = facts.kernel, segments_of(facts)
    parts = split(kernel, {axis: names for axis, names in shapes.pieces if axis in kernel.features})
    tiled = facts if parts.kernel == kernel else kernel_facts(parts.kernel)
    lowering = Lowering(tiled, shapes, segments.full if segments is not None else None, dialect)
    writer = lowering.run()
    store_tiles(lowering)
    for name in kernel.atomic_adds:
        add_parts(lowering, name, kernel.axes(name), parts.stored[name])
    prefetched = lowering.prefetched.function(segments) if segments is not None else None
    known = [item.limits.function for item in before if item.limits.function is not None]
    limits = bounds(writer, segments, known) if segments is not None else Bounds(Stage.PROLOGUE, ())
    for name in kernel.outputs:
        if name not in {*kernel.atomic_adds, *(item.step for item in kernel.scatters)}:
            for part in parts.stored[name]:
                if part.tensor in writer.steps:
                    lowering.masks.stored_outside(name, part, writer.steps[part.tensor])
                _store(writer, name, kernel.axes(name), part)
    if limits.stage == Stage.PROLOGUE:
        writer.sections.prologue += limits.lines
        limits = replace(limits, lines=())
    return Written(writer, segments, limits, limits.function in known, prefetched, lowering.prefetched.flags)


def listings(facts: KernelFacts, shapes: Shapes) -> list[tuple[Kernel, Lowered]]:
    """The kernel that lists the tiles of a kernel, where that walks over a list."""
    segments = segments_of(facts)
    if segments is None or not segments.listed:
        return []
    listing = listing_kernel(facts.kernel)
    writer = Writer(listing, shapes, None)
    segments = Segments(segments.ranges, 1)
    limits = bounds(writer, segments)
    writer.sections.prologue += limits.lines
    write_lists(writer, listing)
    return [(listing, _assemble(listing, Written(writer, segments, replace(limits, lines=()), False, None, ())))]


def _store(writer: Writer, name: str, axes: tuple[str, ...], part: Read) -> None:
    """Write a finished row or tile of an output, or a piece of it, in its own layout."""
    value = writer.steps.get(part.tensor) or writer.loads.load(part)
    layout = writer.layout(part)
    pointer = writer.parameter(result(tensor_name(name)))
    vectors = [scaled(writer.loads.lifted(f"range_{layout[0]}", layout[:1], layout), _row_stride(writer, axes, layout[0]))]
    masks = [writer.loads.lifted(f"ok_{layout[0]}", layout[:1], layout)]
    for axis in layout[1:]:
        stride = _row_stride(writer, axes, writer.whole.get(axis, axis))
        vectors.append(scaled(writer.loads.lifted(f"offs_{axis}", (axis,), layout), stride))
        if axis in writer.shapes.padded:
            masks.append(writer.loads.lifted(f"ok_{axis}", (axis,), layout))
    text = value.code if value.layout == layout else writer.printer.broadcast(str(value.code), value.layout, layout)
    address = f"{pointer} + {writer.loads.horner(axes)}"
    if address not in writer.addresses:
        start = writer.addresses[address] = writer.name(f"{value.code.removesuffix(writer.numbers(layout))}_start")
        fits = len(f"{start} = {address}") <= WIDTH - 4
        lines = [f"{start} = {address}"] if fits else [f"{start} = {pointer}", f"{start} += {address.removeprefix(f'{pointer} + ')}"]
        writer.sections.stores += map(Code, lines)
    pointers = writer.name(f"{value.code}_ptrs")
    stored = writer.dialect.stored(f"{text}.to({pointer}.dtype.element_ty)", layout)
    writer.sections.stores += [
        Code(f"{pointers} = {writer.addresses[address]} + {' + '.join(vectors)}"),
        Code(f"tl.store({pointers}, {stored}, mask={' & '.join(masks)})"),
    ]


def _row_stride(writer: Writer, axes: tuple[str, ...], axis: str) -> str:
    after = axes[axes.index(axis) + 1 :]
    return " * ".join(writer.length(inner) for inner in after) or "1"


def _assemble(kernel: Kernel, written: Written) -> Lowered:
    """Sections to a context. What is left of the lines of the limits depends on the turn of an outer loop, and so may operands."""
    writer, segments, limits, late = written.writer, written.segments, written.limits, written.limits.lines
    nested = bool(kernel.loops) and (bool(late) or is_nested(kernel))
    resident, streamed = kernel.resident, kernel.streamed
    params = _parameters(kernel, writer)
    features = features_of(kernel, writer)
    dims = [f"DIM_{axis.upper()}" for axis in features if axis in writer.dims]
    tiles = [name for axis in features for name in writer.shapes.constants(axis)]
    blocks = [f"BLOCK_{axis.upper()}" for axis in (resident, *((streamed,) if streamed else ()))]
    types = ["DTYPE", "ACC"]
    constexprs = (*dims, *tiles, *blocks, *types)
    flags = (*((Code("TMA"),) if writer.tiled else ()), *writer.flags)
    outer = _outer_strides(kernel)
    unspecialized = [param.name for param in params if param.kind in _PER_CALL or param.is_chunk_stride or param in outer]
    sections = writer.sections
    tile = guarded(offsets(segments) + sections.tile, segments) if segments else ()
    below = (*sections.prologue, *sections.init, *sections.loop, *late, *tile, *sections.epilogue, *sections.stores)
    context = KernelContext(
        bounds=(limits.function,) if limits.function is not None else (),
        products=(),
        name=identifier(f"{kernel.role}_kernel"),
        title=Code(_TITLES["list" if kernel.tile_list_of else kernel.role.rstrip("_0123456789")]),
        summary=tuple(line for text in _summary(kernel) for line in folded(text, WIDTH - 4)),
        params=tuple(param.name for param in params),
        constexprs=tuple(Code(name) for name in constexprs),
        flags=flags,
        unspecialized=tuple(Code(f'"{name}"') for name in unspecialized),
        place=_used(place(kernel, writer, segments), below),
        keeps=bool(sections.prologue),
        prologue=tuple(sections.prologue),
        carries=bool(sections.init),
        init=tuple(sections.init),
        flat=bool(kernel.loops) and not nested,
        nested=nested,
        loop_count=_turns(kernel),
        loop=(*_decode_loop(kernel, segments if not nested else None), *sections.loop, *late),
        indent=Code("    " if nested else ""),
        streamed=streamed is not None,
        segments=segments.count if segments else 0,
        segment_note=segments.note if segments else Code(""),
        walk=walk(segments) if segments else Code(""),
        turn=turn(segments) if segments else Code(""),
        steps=turns(segments)[0] if segments else Code(""),
        tile=tile,
        epilogue=tuple(sections.epilogue),
        stores=tuple(sections.stores),
    )
    return Lowered(context, params, constexprs, frozenset(writer.helpers), limits, tuple(writer.tiled))


def features_of(kernel: Kernel, writer: Writer) -> list[str]:
    """The feature axes that its statements speak of."""
    pieces = dict(writer.shapes.pieces)
    return [axis for axis in kernel.features if {axis, *pieces.get(axis, ())} & set(writer.dims)]


def _summary(kernel: Kernel) -> list[str]:
    """What a kernel computes, in the notation of the cascade."""
    if not kernel.tile_list_of:
        return [str(step) for step in kernel.steps]
    texts = ["every pair" if part is None else print_expr(part) for part in (kernel.may_mask, kernel.must_mask)]
    return [f"visited for {texts[0]}", *([] if texts[0] == texts[1] else [f"full for {texts[1]}"])]


def _outer_strides(kernel: Kernel) -> frozenset[Param]:
    """Strides of values without features, but for the last: they are products of lengths, and no alignment rests on them."""
    rows = [item for item in kernel.inputs if item.axes is not None and not set(item.axes) & set(kernel.features)]
    return frozenset(stride(tensor_name(item.name), dim, axis) for item in rows for dim, axis in enumerate((item.axes or ())[:-1]))


def _parameters(kernel: Kernel, writer: Writer) -> tuple[Param, ...]:
    """Tensors, results, numbers, then strides and sizes, then lengths."""
    lengths = dict.fromkeys((*kernel.grid, *kernel.loops, kernel.resident, *writer.lengths))
    return (*sorted(writer.parameters.values(), key=lambda param: param.order), *map(length, lengths))


def place(kernel: Kernel, writer: Writer, segments: Segments | None) -> list[Code]:
    """Statements that find which tile this program owns, and the offsets inside of it."""
    axis = kernel.resident
    block = f"BLOCK_{axis.upper()}"
    lines = ["pid = tl.program_id(0)", f"tiles_{axis} = tl.cdiv(len_{axis}, {block})"]
    tiles, begin = f"tiles_{axis}", ""
    if kernel.in_chunks:
        tiles, begin = "chunk_tiles", "chunk_begin + "
        lines.append(f"{tiles} = tl.cdiv(chunk_end - chunk_begin, {block})")
    # The tiles with the most to do start first, so that none of them is left for the end.
    heaviest_first = segments is not None and segments.grows
    turn = f"({tiles} - 1 - pid % {tiles})" if heaviest_first else f"pid % {tiles}"
    lines.append(f"first_{axis} = {begin}{turn} * {block}")
    if segments is not None:
        lines.append(f"last_{axis} = tl.minimum(first_{axis} + {block}, len_{axis}) - 1")
    # Without a sign its upper half is 0, and takes no register.
    lines += [f"start_{axis} = tl.cast(tl.cast(first_{axis}, tl.uint32), tl.int64)", f"outer = pid // {tiles}"]
    rest = "outer"
    for i, name in enumerate(reversed(kernel.grid)):
        outermost = i == len(kernel.grid) - 1
        lines.append(f"{identifier(name)} = tl.cast({rest}{'' if outermost else f' % len_{name}'}, tl.int64)")
        if not outermost:
            lines.append(f"rest = {rest} // len_{name}")
            rest = "rest"
    lines.append(f"range_{axis} = {writer.dialect.positions(axis, '0', block)}")
    lines += [f"offs_{axis} = first_{axis} + range_{axis}", f"ok_{axis} = offs_{axis} < len_{axis}"]
    if kernel.streamed is not None:
        lines.append(f"range_{kernel.streamed} = {writer.dialect.positions(kernel.streamed, '0', f'BLOCK_{kernel.streamed.upper()}')}")
    lines += [line for feature in features_of(kernel, writer) for line in _columns(feature, writer)]
    return [Code(line) for line in lines]


def _columns(feature: str, writer: Writer) -> list[str]:
    """Offsets along a feature axis: a piece begins where the one before it ends."""
    dim, shapes = f"DIM_{feature.upper()}", writer.shapes
    before: list[str] = []
    lines: list[str] = []
    for part, size in zip(dict(shapes.pieces).get(feature, (feature,)), shapes.constants(feature) or (dim,), strict=True):
        first = " + ".join(before) or "0"
        lines.append(f"offs_{part} = {writer.dialect.positions(part, first, ' + '.join((*before, size)))}")
        if part in shapes.padded:
            lines.append(f"ok_{part} = offs_{part} < {dim}")
        before.append(size)
    return lines


def _used(lines: list[Code], below: tuple[Code, ...]) -> tuple[Code, ...]:
    """Assignments without those to names that nothing below reads."""
    text = "\n".join(below)
    kept: list[Code] = []
    for line in reversed(lines):
        if re.search(rf"\b{line.partition(' = ')[0]}\b", text):
            kept.append(line)
            text += f"\n{line.partition(' = ')[2]}"
    return tuple(reversed(kept))


def _turns(kernel: Kernel) -> Code:
    """The number of turns over the summed axes."""
    return Code(" * ".join(f"len_{axis}" for axis in kernel.loops))


def _decode_loop(kernel: Kernel, flat: Segments | None) -> list[Code]:
    """Positions along the summed axes from the number of the item; `flat`: also the variable of the stream, which shares the loop. Its
    turns are the inner ones, but where tiles are summed."""
    if not kernel.loops:
        return []
    lines: list[Code] = []
    rest = "item // steps" if flat and not kernel.sums_tiles else "item"
    for i, axis in enumerate(reversed(kernel.loops)):
        outermost = i == len(kernel.loops) - 1 and not kernel.sums_tiles
        lines.append(Code(f"{identifier(axis)} = tl.cast({rest if outermost else f'{rest} % len_{axis}'}, tl.int64)"))
        rest = f"({rest}) // len_{axis}"
    if flat:
        step = f"item // ({_turns(kernel)})" if len(kernel.loops) > 1 else f"item // {_turns(kernel)}"
        lines.append(Code(f"{turn(flat)} = {turns(flat, step if kernel.sums_tiles else 'item % steps')[1]}"))
    return lines


_TITLES = {
    "list": "Which tiles the mask leaves to visit: one row of the list for each resident tile.",
    "forward": "Rows stay, the streamed axis passes: outputs and row statistics.",
    "forward_parts": "Rows stay, a part of the streamed axis passes: what the forward carries, as far as it got.",
    "forward_merge": "Rows stay, the parts pass: what they carried as one, then outputs and row statistics.",
    "backward_prepare": "Row values of the backward that need a whole row of features.",
    "backward_statistics": "Rows stay, the streamed axis passes: row values that the kernels after this one read.",
    "backward_rows": "Rows stay, the streamed axis passes: gradients of what belongs to rows.",
    "backward_columns": "The streamed axis stays, rows pass: gradients of what belongs to it.",
    "backward_fused": "The streamed axis stays, rows pass: gradients of what belongs to it, parts of those of rows.",
    "backward_finish": "What is left to do with gradients of rows once all parts are added up.",
    "backward_pairs": "Rows stay, the streamed axis passes: gradients of what belongs to pairs, by tiles.",
}
