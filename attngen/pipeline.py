"""The compiler on one page: a cascade in, the source of a module out. Each line is a step that `explain` can show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache, partial

from attngen.analysis.axis_roles import roles
from attngen.emit.alternate_text import alternate_texts
from attngen.emit.context import AlternateText, ModuleContext
from attngen.emit.format import WIDTH
from attngen.emit.host import Plan, gradient_axes, host_context
from attngen.emit.identifiers import Code, comment, folded
from attngen.emit.kernel_text import Lowered, listings, lower_kernel
from attngen.emit.placement import Shapes, shapes
from attngen.emit.render import helper_sources, render
from attngen.errors import UnsupportedError
from attngen.facts.kernel_facts import KernelFacts, kernel_facts
from attngen.ir.cascade import Cascade
from attngen.kernel.feature_tiles import Cuts, cuts
from attngen.kernel.fused_backward import fused as fused_kernels
from attngen.kernel.partition import Kernel, backward_kernels, forward_kernel
from attngen.kernel.rewrites.bias_as_dot import bias_as_dot
from attngen.kernel.rewrites.bias_separation import bias_separation
from attngen.kernel.rewrites.cse import cse
from attngen.kernel.rewrites.document_extents import with_document_extents
from attngen.kernel.rewrites.float_distances import float_distances
from attngen.kernel.rewrites.join_dots import join_dots
from attngen.kernel.rewrites.note import Note, Rewrite
from attngen.kernel.rewrites.scale_folding import scale_folding
from attngen.kernel.rewrites.static_max import static_max
from attngen.kernel.split_kv import MERGE, PARTS, split_forward
from attngen.schedule.choose import Choice, Request, choose, nothing_refused, with_asked
from attngen.schedule.ranking import Refused
from attngen.schedule.tables import table
from attngen.schedule.tuned import TunedTable
from attngen.stages.observe import Observe, Seen, ignore
from attngen.stages.program import LoweredKernels, Program, Source
from attngen.tile.lowering import tile_programs
from attngen.transform.autodiff.differentiate import Backward, differentiate
from attngen.transform.autodiff.precise_delta import cancellation, cancelling_gradient
from attngen.transform.canonicalize import canonicalize
from attngen.transform.factor import factor
from attngen.transform.streaming.streaming import Streamed, streaming
from attngen.version import VERSION

FORWARD = frozenset(("forward", PARTS, MERGE))
"""Roles of the kernels that the forward launches."""


REWRITES: dict[str, Rewrite] = {
    "static_max": Rewrite(static_max, frozenset({"bfloat16"})),
    "join_dots": Rewrite(join_dots),
    "bias_separation": Rewrite(bias_separation, frozenset({"float16", "bfloat16"}), partial(bias_separation, asked=True)),
    "bias_as_dot": Rewrite(bias_as_dot, frozenset({"bfloat16"})),
    "scale_folding": Rewrite(scale_folding),
    "float_distances": Rewrite(float_distances),
}
"""In the order in which they are tried, by the names under which they can be left out."""


# ---- the page


def stream(cascade: Cascade, observe: Observe = ignore, *, canonical: bool = False) -> Program:
    """From a traced cascade to its one-pass form, which every program of a variant starts from.

    Args:
        cascade: TracedForm, with the outputs that the module shall return.
        observe: called with the name and the result of every step.
        canonical: it is in CanonicalForm already.
    """
    if not canonical:
        traced = observe("trace", cascade)
        cascade = observe("canonicalize", canonicalize(traced))
    axes = roles(cascade)
    streamed = observe("streaming", streaming(cascade, axes.resident, axes.streamed, _spread(cascade, axes.grid)))
    return Program(cascade, streamed, None, None, axes.features, (), frozenset(), frozenset())


def analyse(
    cascade: Cascade | Program,
    observe: Observe = ignore,
    wanted: frozenset[str] | None = None,
    without: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
    divided: bool = False,
    precise_delta: bool | None = None,
) -> Program:
    """From a traced cascade to kernels and their facts.

    Args:
        cascade: TracedForm, with the outputs that the module shall return; or what `stream` made of it.
        observe: called with the name and the result of every step.
        wanted: inputs to differentiate by; None for all that have kernels for their gradients.
        without: names of `REWRITES` to leave out. asked: those to carry out even where that is no gain.
        divided: whether programs share the stream of the forward; for `wanted` that is empty.
        precise_delta: whether delta is summed over the keys; None where the derivation knows that it matters.
    """
    start = cascade if isinstance(cascade, Program) else stream(cascade, observe)
    start = replace(start, without=without, asked=asked, divided=divided)
    wrt = tuple(item.name for item in start.cascade.inputs if item.differentiable and (wanted is None or item.name in wanted))
    return (_with_gradients if wanted is None else _derived)(start, wrt, precise_delta, observe)


def _derived(program: Program, wrt: tuple[str, ...], precise_delta: bool | None, observe: Observe) -> Program:
    """A streamed forward with its kernels and those of some gradients."""
    features = program.features
    backward = observe("differentiate", _gradients(program.streamed, wrt, precise_delta))
    gradient = observe("factor", factor(backward.cascade, features))
    parts = observe("partition", partition(backward, gradient, features))
    return _rewritten(replace(program, streamed=backward.forward, backward=backward, gradient=gradient, parts=parts), observe)


def _rewritten(program: Program, observe: Observe) -> Program:
    """A program with its kernels after all rewrites but those to leave out, what became of each, and their facts."""
    done = tuple(rewriting(program))
    kernels = observe("rewrite", finished(done[-1][1] if done else program.parts, divided=program.divided))
    facts = observe("facts", tuple(map(kernel_facts, kernels)))
    return replace(program, facts=facts, rewrites=tuple((name, notes) for name, _, notes in done))


def schedule(
    program: Program,
    request: Request,
    tuned: TunedTable | None = None,
    refused: Refused = nothing_refused,
    asked: object = None,
    observe: Observe = ignore,
) -> Choice:
    """Tiles for every kernel, with the reasons.

    Args:
        program: result of `analyse`.
        request: lengths, dtype and target that tiles are for.
        tuned: what GPUs said of tiles, which goes before the table of measurements.
        refused: tiles that a compiler failed on.
        asked: a user's `schedule=` for kernels of the program, None for none.
        observe: called with the choice.

    Raises:
        DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
    """
    choice = choose(program.facts, request, table(), tuned, refused)
    return observe("schedule", choice if asked is None else with_asked(choice, program.facts, request, asked))


def build(program: Program, name: str, cuts: Cuts = (), alternates: frozenset[str] = frozenset(), observe: Observe = ignore) -> Source:
    """From kernels to the text of a module.

    Args:
        program: result of `analyse`.
        name: of the variant, for the module's title.
        cuts: of the feature axes that are not one tile of their own length.
        alternates: flags of the alternate kernels that the module has as well, where a kernel has them.
        observe: called with the kernels' statements, and with the text.
    """
    own = _shapes(program, cuts)
    written = observe("lower", lowered(program.facts, own))
    others = tuple(other for facts in program.facts for other in alternate_texts(facts, own, _plain(written, facts.role), alternates))
    text = observe("print", render(_module(program, name, own, written, others)))
    return Source(text, program, written, own, frozenset(other.flag for other in others))


def compiled(cascade: Cascade, name: str, request: Request, observe: Observe = ignore) -> Source:
    """From a traced cascade to the text of a module with the tiles that are best for a request: every step, in order."""
    program = for_dtype(analyse(cascade, observe), request.dtype, observe)
    choice = schedule(program, request, observe=observe)
    observe("tile", tile_programs(program.facts))
    return build(program, name, cuts(request.extents), choice.schedule.alternates, observe)


# ---- forms of a program


def fused(program: Program, observe: Observe = ignore) -> Program | None:
    """The program with the other form of its backward, None where it has none."""
    parts = fused_kernels(program.parts).kernels
    return _rewritten(replace(program, parts=parts), observe) if parts else None


def for_dtype(program: Program, dtype: str, observe: Observe = ignore) -> Program:
    """The program with all rewrites that the precision of a dtype allows; itself where these are those of every dtype."""
    more = any(dtype in rewrite.dtypes for rewrite in REWRITES.values())
    return _rewritten(replace(program, dtype=dtype), observe) if more else program


def rewriting(program: Program) -> Iterator[tuple[str, tuple[Kernel, ...], tuple[Note, ...]]]:
    """The rewrites of a program in turn, each with the kernels after it and what became of it."""
    kernels = program.parts
    for name, rewrite in REWRITES.items():
        if name not in program.without and (not rewrite.dtypes or program.dtype in rewrite.dtypes):
            apply = rewrite.asked if rewrite.asked is not None and name in program.asked else rewrite.apply
            done = [apply(kernel) for kernel in kernels]
            kernels = tuple(kernel for kernel, _ in done)
            yield name, kernels, tuple(note for _, notes in done for note in notes)


def finished(kernels: tuple[Kernel, ...], *, divided: bool) -> tuple[Kernel, ...]:
    """Kernels after the last rewrite: the forward divided where programs share its stream, common parts named, document extents bound."""
    kernels = (*split_forward(kernels[0]), *kernels[1:]) if divided else kernels
    return tuple(with_document_extents(cse(kernel)) for kernel in kernels)


def partition(backward: Backward, gradient: Cascade, features: tuple[str, ...]) -> tuple[Kernel, ...]:
    """The kernel of a forward, which saves what its gradients read, and the kernels of these."""
    forward = forward_kernel(backward.forward, tuple(item.name for item in backward.saved), features)
    return (forward, *backward_kernels(backward, gradient, features))


# ---- which gradients there are


def _spread(canonical: Cascade, grid: tuple[str, ...]) -> tuple[str, ...]:
    """The axes of the grid that an output has."""
    return tuple(axis for axis in grid if any(axis in canonical.axes(name) for name in canonical.outputs))


def _gradients(streamed: Streamed, wrt: tuple[str, ...], precise_delta: bool | None) -> Backward:
    """The gradients, with delta summed over the keys where that is asked for or matters."""
    why = "it is asked for" if precise_delta else cancellation(streamed) if precise_delta is None else ""
    backward = differentiate(streamed, wrt, precise_delta=bool(why))
    if why or precise_delta is not None:
        return replace(backward, delta=why)
    why = cancelling_gradient(streamed, wrt)
    precise = differentiate(streamed, wrt, precise_delta=True) if why else backward
    if not why or not set(precise.saved) <= set(backward.saved):
        return backward
    # A call that does not want this gradient reads what the plain form saves.
    return replace(precise, forward=backward.forward, saved=backward.saved, delta=why)


def _with_gradients(program: Program, wrt: tuple[str, ...], precise_delta: bool | None, observe: Observe) -> Program:
    """A streamed forward with its kernels and those of all gradients that have any: who asks for no other misses nothing."""
    try:
        return _attempt(program, wrt, precise_delta, observe)
    except UnsupportedError:
        kept: tuple[str, ...] = ()
    refused: list[tuple[str, UnsupportedError]] = []
    for name in wrt:
        try:
            _attempt(program, (*kept, name), precise_delta, ignore)
            kept = (*kept, name)
        except UnsupportedError as error:
            refused.append((name, error))
    return replace(_attempt(program, kept, precise_delta, observe), refused=tuple(refused))


def _attempt(program: Program, wrt: tuple[str, ...], precise_delta: bool | None, observe: Observe) -> Program:
    """The program with these gradients, observed unless it is refused: then the next attempt is.

    Raises:
        UnsupportedError: some step has no form in a tile.
    """
    seen = Seen()
    try:
        return _emitted(_derived(program, wrt, precise_delta, seen))
    except UnsupportedError:
        seen = Seen()
        raise
    finally:
        # Also of what fails otherwise: a result that has not its form tells why.
        seen.tell(observe)


def _emitted(program: Program) -> Program:
    """The program, whose backward kernels have been written once.

    Raises:
        UnsupportedError: a step of one of them has no form in a tile.
    """
    own = _shapes(program, ())
    try:
        host_context(_plan(program, own, lowered(program.facts, own)))
    except UnsupportedError:
        if _has_forward(program):
            raise
    return program


def _has_forward(program: Program) -> bool:
    """Whether each step of the forward has a form in a tile; if not, whoever builds it hears of that."""
    try:
        lowered(program.facts[:1], _shapes(program, ()))
    except UnsupportedError:
        return False
    return True


# ---- the parts of a module


def _module(program: Program, name: str, own: Shapes, written: LoweredKernels, others: tuple[AlternateText, ...]) -> ModuleContext:
    helpers = frozenset().union(*(item.helpers for _, item in written), *(other.helpers for other in others))
    return ModuleContext(
        title=Code(f"Attention variant `{comment(name)}`: fused forward and backward."),
        version=Code(VERSION),
        cascade=tuple(part for line in str(program.cascade).splitlines() for part in folded(line, WIDTH)),
        helpers=tuple(Code(text) for text in helper_sources(helpers)),
        kernels=tuple(item.context for _, item in written),
        alternates=tuple(other.text for other in others),
        imports=tuple(dict.fromkeys(line for other in others for line in other.imports)),
        legend=tuple(dict.fromkeys(line for other in others for line in other.legend)),
        host=host_context(_plan(program, own, written, others)),
    )


def _plain(written: LoweredKernels, role: str) -> Lowered:
    return next(item for kernel, item in written if kernel.role == role)


def _plan(program: Program, own: Shapes, written: LoweredKernels, alternates: tuple[AlternateText, ...] = ()) -> Plan:
    """What the host side of a module depends on."""
    backward = program.backward
    forward = tuple(item for item in written if FORWARD & {item[0].role, item[0].tile_list_of})
    return Plan(
        inputs=tuple(item for item in program.cascade.inputs),
        outputs=program.cascade.outputs,
        saved=tuple(item.name for item in backward.saved) if backward is not None else (),
        cotangents=backward.cotangents if backward is not None else (),
        features=program.features,
        forward=forward,
        backward=tuple(item for item in written if item not in forward),
        gradients=backward.gradients if backward is not None else (),
        axes=gradient_axes(program.gradient) if program.gradient is not None else {},
        shapes=own,
        alternates=alternates,
    )


def _shapes(program: Program, cuts: Cuts) -> Shapes:
    """What the text of a program depends on besides its kernels, for these cuts of feature axes."""
    saved = tuple(item.name for item in program.backward.saved) if program.backward is not None else ()
    states = frozenset(step for kernel in program.kernels for step in kernel.outputs if kernel.role == PARTS)
    owned = frozenset({*saved, *(step for kernel in program.kernels for step in kernel.outputs)}) - states
    return shapes(owned, cuts, {axis for kernel in program.kernels for axis in (*kernel.grid, *kernel.loops, *kernel.features)}, states)


@lru_cache(maxsize=64)
def lowered(facts: tuple[KernelFacts, ...], own: Shapes) -> LoweredKernels:
    """Kernels with their statements, and before those that walk over lists the kernels that make these."""
    found: list[tuple[Kernel, Lowered]] = []
    for item in facts:
        before = [other for _, other in found]
        found += [*listings(item, own), (item.kernel, lower_kernel(item, own, before))]
    return tuple(found)
