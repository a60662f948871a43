"""The warp-specialised forward in Gluon, for sm90: a producer warp and two consumer groups of four warps.

    kernel      finds its tile and the loop bounds, allocates the rings in shared memory, and partitions its warps
    loader      the producer: fills the rings, first for the prefetched dots, then for the rest of the iteration
    worker      a consumer with half of the rows: starts the dots of the next iteration, and computes the softmax meanwhile

Partitions receive scalars only; a worker recomputes the vectors it needs. Each function therefore has those statements of the plain kernel
on which its own depend.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from attngen.alternates.warp_specialization.specialised_forward import WORKERS, SpecialisedForward
from attngen.emit.context import AlternateText
from attngen.emit.environment import render_template
from attngen.emit.gluon.gluon_context import CallContext, PartitionContext, RingContext, WarpSpecialisedContext
from attngen.emit.gluon.gluon_dialect import LANGUAGES, MMA, Gluon, Ring, parted
from attngen.emit.identifiers import Code
from attngen.emit.kernel_text import Lowered, Written, place, statements
from attngen.emit.placement import Shapes
from attngen.emit.segments import Segments, first_tile, guarded, next_tile, offsets, turn, walk
from attngen.emit.software_pipeline import free
from attngen.errors import InternalError
from attngen.facts.kernel_facts import KernelFacts
from attngen.kernel.feature_tiling import split
from attngen.kernel.partition import Kernel

PARTS = tuple(str(worker) for worker in range(WORKERS))
"""The workers."""
_WARPS = "[4, 1]"
"""Warps of the partitions beside the first worker: the second worker, and the loader."""
_REGISTERS = "[240, 24]"
"""Registers of their threads; the first worker keeps as many as the second has."""
_ALTERNATE = SpecialisedForward()
_MAKERS = frozenset({"arange", "full", "zeros", "shared"})
_REDUCTIONS = frozenset({"min", "max", "sum"})


def specialised_text(facts: KernelFacts, shapes: Shapes, plain: Lowered) -> AlternateText:
    """The warp-specialised alternate of a forward.

    Args:
        facts, shapes: as for `lower_kernel`.
        plain: what that gave, with whose arguments this kernel is launched.

    Raises:
        InternalError: it multiplies with something else than tiles as they lie in memory, which `why_ineligible` should have said.
    """
    kernel = facts.kernel
    parts = split(kernel, {axis: names for axis, names in shapes.pieces if axis in kernel.features})
    dialect = Gluon(parts.kernel, shapes)
    written = statements(facts, shapes, [plain], dialect)
    segments, writer = written.segments, written.writer
    if segments is None or written.prefetched is None or not set(writer.parameters.values()) <= set(plain.params):
        raise InternalError(f"the specialised form of {kernel.role} has no products to begin, or other arguments than the plain one")
    before = [*place(kernel, writer, segments), *writer.sections.prologue]
    local = local_names(before)
    rings = list(dialect.rings.values())
    walks = [line for line in before if target(line) in ("begins", "ends")]
    loader = _loader(kernel, segments, parted(dialect.rings, written.prefetched.body), walks)
    worker = _worker(kernel, written, dialect, [line for line in before if target(line) in local])
    shared = {name for ring in rings for name in ring.names}
    wanted = [name for partition in (loader, worker) for name in partition.values if name not in shared]
    wanted += [ring.rows.name for ring in rings]
    resident = f"range_{kernel.resident}"
    block = f"BLOCK_{kernel.resident.upper()}"
    own = f"{resident} = gl.arange(0, {block}, gl.BlockedLayout([1], [32], [4], [0]))"
    context = WarpSpecialisedContext(
        plain=plain.context,
        name=Code(_ALTERNATE.function),
        scores=written.prefetched,
        place=needed([Code(own) if target(line) == resident else line for line in before], wanted),
        rings=tuple(_ring(ring) for ring in rings),
        workers=len(PARTS),
        warps=Code(_WARPS),
        registers=Code(_REGISTERS),
        segments=segments.count,
        turn=turn(segments),
        walk=walk(segments),
        loader=loader,
        worker=worker,
        calls=(*(_call(worker, {"PART": part, block: f"{block} // {len(PARTS)}"}) for part in PARTS), _call(loader, {})),
    )
    return AlternateText(
        flag=_ALTERNATE.flag,
        plain=plain.context.name,
        text=_rendered("warp_specialised", context),
        helpers=frozenset(writer.helpers),
        imports=tuple(map(Code, _rendered("imports", context).split("\n"))),
        legend=tuple(map(Code, _rendered("legend", context).split("\n"))),
        chooser=_rendered("choose_kernel", context),
        choice=Code(f"kernel, tile = of_form(tile, {plain.context.name}, {context.name})"),
    )


def _rendered(template: str, context: WarpSpecialisedContext) -> Code:
    return Code(render_template(f"gluon/{template}.py.j2", kernel=context).removesuffix("\n"))


def _ring(ring: Ring) -> RingContext:
    slots, ready, free_slots = ring.names
    return RingContext(Code(ring.rows.name), slots, ready, free_slots, Code(", ".join(ring.rows.blocks)))


def _loader(kernel: Kernel, segments: Segments, rings: tuple[list[Ring], list[Ring]], walks: list[Code]) -> PartitionContext:
    """The producer: it fills the rings in the order in which the workers consume them."""
    streamed = kernel.streamed or ""
    first, beginning = first_tile(segments)
    following, position = next_tile(segments)

    def put(ring: Ring, turn: str, start: str) -> Code:
        return Code(f"put({', '.join((*ring.names, turn, ring.rows.name, start, 'STAGES'))})")

    prefetched, behind = rings
    starts = [item for item in offsets(segments) if target(item[0]) == f"start_{streamed}"]
    tile = (
        *guarded(starts, segments),
        *map(Code, following),
        *(put(ring, "turn + 1", position) for ring in prefetched),
        *(put(ring, "turn", f"start_{streamed}") for ring in behind),
        Code("turn += 1"),
    )
    before = (*walks, Code("turn = 0"), *map(Code, first), *(put(ring, "turn", beginning) for ring in prefetched))
    name, title = Code(f"{kernel.role}_loader"), Code("Fills the rings, as the workers take tiles.")
    return _partition((name, title), segments, before, (), tile, ())


def _worker(kernel: Kernel, written: Written, dialect: Gluon, vectors: list[Code]) -> PartitionContext:
    """A consumer, which computes half of the rows."""
    segments, sections = written.segments, written.writer.sections
    if segments is None:
        raise InternalError("nothing streams")
    after = (*sections.epilogue, *sections.stores)
    read = {*_read(code for code, _ in sections.tile), *_read(after)}
    places: list[tuple[Code, int | None]] = []
    for line, walked in reversed(offsets(segments)):
        if target(line) in read or target(line) == f"start_{segments.ranges.stream}":
            places.insert(0, (line, walked))
            read |= {*_read((line,))}
    tile = guarded(places + sections.tile, segments)
    before = needed(vectors, [*_read((*sections.init, *tile, *after)), "begins", "ends"])
    pairs = Code(f"PAIRS: gl.constexpr = {MMA.format(columns=f'BLOCK_{segments.ranges.stream.upper()}')}")
    layouts = (pairs, *(Code(f"{name}: gl.constexpr = {form}") for name, form in sorted(dialect.layouts.items())))
    name, title = Code(f"{kernel.role}_worker"), Code("Computes BLOCK_M rows of its own, half of those of the program.")
    return _partition((name, title), segments, (*layouts, *before), tuple(sections.init), tile, after)


def _call(partition: PartitionContext, known: Mapping[str, str]) -> CallContext:
    """A partition with its arguments: parameters by their own names, but for those that are known."""
    params = (*partition.values, *partition.constants)
    return CallContext(partition.name, tuple(Code(known.get(param, param)) for param in params))


def _partition(
    names: tuple[Code, Code],
    segments: Segments,
    before: tuple[Code, ...],
    init: tuple[Code, ...],
    tile: tuple[Code, ...],
    after: tuple[Code, ...],
) -> PartitionContext:
    loop = [Code(f"for {turn(segments)} in range({walk(segments)}):"), *(Code(f"    {line}") for line in tile)]
    walks = [Code(f"for segment in gl.static_range({segments.count}):"), *(Code(f"    {line}") for line in loop)]
    params = free([*before, *init, *walks, *after], {*LANGUAGES, "range"})
    values, constants = ([param for param in params if param.isupper() == upper] for upper in (False, True))
    return PartitionContext(*names, tuple(map(Code, values)), tuple(map(Code, constants)), before, init, tile, after)


# ---- which statements a function needs


def target(line: Code) -> str:
    """The name that a statement assigns, "" if it assigns none or several."""
    head = line.lstrip().partition("=")[0].rstrip("+-*/& ").partition(":")[0].strip()
    return head if head.isidentifier() else ""


def local_names(lines: Iterable[Code]) -> set[str]:
    """Names of vectors, tiles, operands in shared memory and tuples, which each partition recomputes."""
    found: set[str] = set()
    for line in lines:
        for node in ast.parse(line).body:
            value = getattr(node, "value", None)
            if value is not None and (isinstance(value, ast.Tuple) or _is_local(value, found)):
                found.add(target(line))
    return found


def _is_local(value: ast.expr, known: set[str]) -> bool:
    if isinstance(value, ast.Call) and _called(value) in _REDUCTIONS and isinstance(value.func, ast.Attribute):
        return False
    names = {node.id for node in ast.walk(value) if isinstance(node, ast.Name)}
    return bool(names & known) or any(_called(node) in _MAKERS for node in ast.walk(value) if isinstance(node, ast.Call))


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _read(lines: Iterable[Code]) -> list[str]:
    """Names that statements read."""
    nodes = ast.walk(ast.parse("\n".join(lines)))
    return [node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]


def needed(lines: Iterable[Code], wanted: Iterable[str]) -> tuple[Code, ...]:
    """The statements that the wanted names are made by, in order."""
    names = set(wanted)
    kept: list[Code] = []
    for line in reversed(list(lines)):
        nodes = [node for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Name)]
        if any(isinstance(node.ctx, ast.Store) and node.id in names for node in nodes):
            kept.append(line)
            names |= {node.id for node in nodes if isinstance(node.ctx, ast.Load)}
    return tuple(reversed(kept))
