"""The compiler on one page: a cascade in, the source of a module out. Each line is a step that `explain` can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TypeVar

from attngen.analysis.axis_roles import roles
from attngen.emit.context import ModuleContext
from attngen.emit.format import WIDTH
from attngen.emit.host import Plan, gradient_axes, host_context
from attngen.emit.identifiers import Code, comment, folded
from attngen.emit.kernel_text import Lowered, listings, lower_kernel
from attngen.emit.placement import Shapes, shapes
from attngen.emit.render import helper_sources, render
from attngen.emit.specialised import Form, specialise
from attngen.errors import UnsupportedError
from attngen.ir.cascade import Cascade
from attngen.kernel.dense_rows import unspecialised
from attngen.kernel.feature_tiles import Cuts
from attngen.kernel.fused_backward import fused as fused_kernels
from attngen.kernel.partition import Kernel, backward_kernels, forward_kernel
from attngen.kernel.rewrites.bias_as_dot import bias_as_dot
from attngen.kernel.rewrites.bias_separation import bias_separation
from attngen.kernel.rewrites.cse import cse
from attngen.kernel.rewrites.document_extents import with_document_extents
from attngen.kernel.rewrites.float_distances import float_distances
from attngen.kernel.rewrites.join_dots import join_dots
from attngen.kernel.rewrites.note import Note
from attngen.kernel.rewrites.scale_folding import scale_folding
from attngen.kernel.rewrites.static_max import static_max
from attngen.kernel.split_kv import MERGE, PARTS, split_forward
from attngen.transform.autodiff.differentiate import Backward, differentiate
from attngen.transform.autodiff.precise_delta import cancellation, cancelling_gradient
from attngen.transform.canonicalize import canonicalize
from attngen.transform.factor import factor
from attngen.transform.streaming.streaming import Streamed, streaming
from attngen.version import VERSION

FORWARD = frozenset(("forward", PARTS, MERGE))
"""Roles of the kernels that the forward launches."""
STEPS = ("trace", "canonicalize", "streaming", "differentiate", "factor", "partition", "rewrite")
"""Names of the steps whose results can be looked at."""
_T = TypeVar("_T")
Observe = Callable[[str, _T], _T]


def ignore(name: str, value: _T) -> _T:
    """The observer that looks at nothing."""
    return value


@dataclass(frozen=True, slots=True)
class Program:
    """The kernels of a variant before they have tiles, and what led to them.

    Attributes:
        parts: the kernels before rewrites. kernels: after them.
        dtype: of the arguments that `kernels` are for; "" for all dtypes alike.
        refused: inputs whose gradients no kernel computes, with the reason. The rest has them all the same.
        divided: whether the forward is `forward_parts` and `forward_merge`, and no backward follows.
        delta: why delta is summed over the keys, "" where it is a sum over the features of an output.
    """

    cascade: Cascade
    streamed: Streamed
    backward: Backward | None
    gradient: Cascade | None
    features: tuple[str, ...]
    parts: tuple[Kernel, ...]
    without: frozenset[str]
    asked: frozenset[str]
    kernels: tuple[Kernel, ...] = ()
    rewrites: tuple[tuple[str, tuple[Note, ...]], ...] = ()
    dtype: str = ""
    divided: bool = False
    delta: str = ""
    refused: tuple[tuple[str, UnsupportedError], ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """An emitted module: its text, the role and signature of each kernel, the program behind it, the shapes it is for, and whether its
    forward has the warp-specialised form too."""

    text: str
    program: Program
    lowered: tuple[tuple[Kernel, Lowered], ...]
    shapes: Shapes
    specialised: bool


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rewrite of kernels that changes neither meaning nor partition, the dtypes whose precision allows it (none for all), and what is
    done where a user asks for it by name, if that differs."""

    apply: Callable[[Kernel], tuple[Kernel, tuple[Note, ...]]]
    dtypes: frozenset[str] = frozenset()
    asked: Callable[[Kernel], tuple[Kernel, tuple[Note, ...]]] | None = None


REWRITES: dict[str, Rewrite] = {
    "static_max": Rewrite(static_max, frozenset({"bfloat16"})),
    "join_dots": Rewrite(join_dots),
    "bias_separation": Rewrite(bias_separation, frozenset({"float16", "bfloat16"}), partial(bias_separation, asked=True)),
    "bias_as_dot": Rewrite(bias_as_dot, frozenset({"bfloat16"})),
    "scale_folding": Rewrite(scale_folding),
    "float_distances": Rewrite(float_distances),
}
"""In the order in which they are tried, by the names under which they can be left out."""


def analyse(
    cascade: Cascade,
    observe: Observe[object] = ignore,
    wanted: frozenset[str] | None = None,
    without: frozenset[str] = frozenset(),
    asked: frozenset[str] = frozenset(),
    divided: bool = False,
    precise_delta: bool | None = None,
) -> Program:
    """From a traced cascade to kernels.

    Args:
        cascade: TracedForm, with the outputs that the module shall return.
        observe: called with the name and the result of every step.
        wanted: inputs to differentiate by; None for all that have kernels for their gradients.
        without: names of `REWRITES` to leave out. asked: those to carry out even where that is no gain.
        divided: whether programs share the stream of the forward; for `wanted` that is empty.
        precise_delta: whether delta is summed over the keys; None where the derivation knows that it matters.
    """
    observe("trace", cascade)
    canonical = canonicalize(cascade)
    observe("canonicalize", canonical)
    axes = roles(canonical)
    spread = tuple(axis for axis in axes.grid if any(axis in canonical.axes(name) for name in canonical.outputs))
    streamed = streaming(canonical, axes.resident, axes.streamed, spread)
    observe("streaming", streamed)
    start = Program(canonical, streamed, None, None, axes.features, (), without, asked, divided=divided)
    wrt = tuple(item.name for item in canonical.inputs if item.differentiable and (wanted is None or item.name in wanted))
    program = _differentiated(start, wrt, precise_delta) if wanted is not None else _with_gradients(start, wrt, precise_delta)
    assert program.backward is not None
    observe("differentiate", program.backward)
    observe("factor", program.gradient)
    observe("partition", program.parts)
    observe("rewrite", program.kernels)
    return program


def _gradients(streamed: Streamed, wrt: tuple[str, ...], precise_delta: bool | None) -> tuple[Backward, str]:
    """The gradients, and why delta is summed over the keys, if it is."""
    why = "it is asked for" if precise_delta else cancellation(streamed) if precise_delta is None else ""
    backward = differentiate(streamed, wrt, precise_delta=bool(why))
    if why or precise_delta is not None:
        return backward, why
    why = cancelling_gradient(streamed, wrt)
    precise = differentiate(streamed, wrt, precise_delta=True) if why else backward
    if not why or not set(precise.saved) <= set(backward.saved):
        return backward, ""
    # A call that does not want this gradient reads what the plain form saves.
    return replace(precise, forward=backward.forward, saved=backward.saved), why


def _differentiated(program: Program, wrt: tuple[str, ...], precise_delta: bool | None) -> Program:
    """A streamed forward with its kernels and those of some gradients."""
    features = program.features
    backward, delta = _gradients(program.streamed, wrt, precise_delta)
    gradient = factor(backward.cascade, features)
    forward = forward_kernel(backward.forward, tuple(item.name for item in backward.saved), features)
    parts = (forward, *backward_kernels(backward, gradient, features))
    return _rewritten(replace(program, streamed=backward.forward, backward=backward, gradient=gradient, parts=parts, delta=delta))


def _with_gradients(program: Program, wrt: tuple[str, ...], precise_delta: bool | None) -> Program:
    """A streamed forward with its kernels and those of all gradients that have any: who asks for no other misses nothing."""
    try:
        return _emitted(_differentiated(program, wrt, precise_delta))
    except UnsupportedError:
        done = _differentiated(program, (), precise_delta)
    kept: tuple[str, ...] = ()
    refused: list[tuple[str, UnsupportedError]] = []
    for name in wrt:
        try:
            done, kept = _emitted(_differentiated(program, (*kept, name), precise_delta)), (*kept, name)
        except UnsupportedError as error:
            refused.append((name, error))
    return replace(done, refused=tuple(refused))


def _emitted(program: Program) -> Program:
    """The program, whose backward kernels have been written once.

    Raises:
        UnsupportedError: a step of one of them has no form in a tile.
    """
    own = _shapes(program, ())
    try:
        host_context(_plan(program, own, lowered(program.kernels, own)))
    except UnsupportedError:
        if _has_forward(program):
            raise
    return program


def _has_forward(program: Program) -> bool:
    """Whether each step of the forward has a form in a tile; if not, whoever builds it hears of that."""
    try:
        lowered(program.kernels[:1], _shapes(program, ()))
    except UnsupportedError:
        return False
    return True


def fused(program: Program) -> Program | None:
    """The program with the other form of its backward, None where it has none."""
    parts = fused_kernels(program.parts).kernels
    return _rewritten(replace(program, parts=parts)) if parts else None


def for_dtype(program: Program, dtype: str) -> Program:
    """The program with all rewrites that the precision of a dtype allows; itself where these are those of every dtype."""
    more = any(dtype in rewrite.dtypes for rewrite in REWRITES.values())
    return _rewritten(replace(program, dtype=dtype)) if more else program


def rewriting(program: Program) -> Iterator[tuple[str, tuple[Kernel, ...], tuple[Note, ...]]]:
    """The rewrites of a program in turn, each with the kernels after it and what became of it."""
    kernels = program.parts
    for name, rewrite in REWRITES.items():
        if name not in program.without and (not rewrite.dtypes or program.dtype in rewrite.dtypes):
            apply = rewrite.asked if rewrite.asked is not None and name in program.asked else rewrite.apply
            done = [apply(kernel) for kernel in kernels]
            kernels = tuple(kernel for kernel, _ in done)
            yield name, kernels, tuple(note for _, notes in done for note in notes)


def _rewritten(program: Program) -> Program:
    """Kernels after all rewrites but those to leave out, and what became of each."""
    done = list(rewriting(program))
    kernels = done[-1][1] if done else program.parts
    kernels = (*split_forward(kernels[0]), *kernels[1:]) if program.divided else kernels
    told = tuple((name, notes) for name, _, notes in done)
    return replace(program, kernels=tuple(with_document_extents(cse(kernel)) for kernel in kernels), rewrites=told)


def build(program: Program, name: str, cuts: Cuts = (), specialised: bool = False) -> Source:
    """From kernels to the text of a module.

    Args:
        program: result of `analyse`.
        name: of the variant, for the module's title.
        cuts: of the feature axes that are not one tile of their own length.
        specialised: whether the forward has its warp-specialised form as well.
    """
    own = _shapes(program, cuts)
    written = lowered(program.kernels, own)
    forms = [specialise(kernel, own, plain) for kernel, plain in written if specialised and not unspecialised(kernel)]
    helpers = frozenset().union(*(item.helpers for _, item in written), *(form.helpers for form in forms))
    module = ModuleContext(
        title=Code(f"Attention variant `{comment(name)}`: fused forward and backward."),
        version=Code(VERSION),
        cascade=tuple(part for line in str(program.cascade).splitlines() for part in folded(line, WIDTH)),
        helpers=tuple(Code(text) for text in helper_sources(helpers)),
        kernels=tuple(item.context for _, item in written),
        specialised=tuple(form.context for form in forms),
        host=host_context(_plan(program, own, written, forms)),
    )
    return Source(render(module), program, written, own, bool(forms))


def _plan(program: Program, own: Shapes, written: tuple[tuple[Kernel, Lowered], ...], forms: Sequence[Form] = ()) -> Plan:
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
        specialised={form.context.plain.name: form.context.name for form in forms},
        workers=max((form.context.workers for form in forms), default=0),
    )


def _shapes(program: Program, cuts: Cuts) -> Shapes:
    """What the text of a program depends on besides its kernels, for these cuts of feature axes."""
    saved = tuple(item.name for item in program.backward.saved) if program.backward is not None else ()
    states = frozenset(step for kernel in program.kernels for step in kernel.outputs if kernel.role == PARTS)
    owned = frozenset({*saved, *(step for kernel in program.kernels for step in kernel.outputs)}) - states
    return shapes(owned, cuts, {axis for kernel in program.kernels for axis in (*kernel.grid, *kernel.loops, *kernel.features)}, states)


@lru_cache(maxsize=64)
def lowered(kernels: tuple[Kernel, ...], own: Shapes) -> tuple[tuple[Kernel, Lowered], ...]:
    """Kernels with their statements, and before those that walk over lists the kernels that make these."""
    found: list[tuple[Kernel, Lowered]] = []
    for kernel in kernels:
        before = [item for _, item in found]
        found += [*listings(kernel, own), (kernel, lower_kernel(kernel, own, before))]
    return tuple(found)
