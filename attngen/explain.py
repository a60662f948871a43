"""Why a variant became the kernels it is: the derivation, the kernels, the tiles.

Takes a traced cascade, its analysed program and a choice of tiles, gives an `Explanation`: facts as plain values, as text on one screen,
or in full. Nothing is computed anew but the ranges of masks and the number of passes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attngen.analysis.congruence import common_divisor
from attngen.analysis.kv_ranges import describe, loop_ranges
from attngen.analysis.pass_count import pass_count
from attngen.emit.segments import segments_of
from attngen.errors import ArgumentError, InvalidKnob
from attngen.ir.cascade import Cascade, Einsum, operand_of, without_features
from attngen.ir.masks import unlifted_masks
from attngen.ir.printer import print_expr, print_step
from attngen.ir.traverse import free_axes
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import told
from attngen.kernel.stage_forms import verify_step
from attngen.knobs import Knobs
from attngen.pipeline import STEPS, Observe, Program, analyse, ignore
from attngen.savings import savings
from attngen.schedule.choose import Choice
from attngen.transform.autodiff.differentiate import Backward
from attngen.transform.streaming.streaming import Streamed


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """One kernel: the axis that stays, the one that passes, what programs are spread over and sum over, its steps, where it looks."""

    role: str
    stays: str
    passes: str | None
    programs_over: tuple[str, ...]
    sums_over: tuple[str, ...]
    stores: tuple[str, ...]
    steps: tuple[str, ...]
    visits: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All facts about one variant on one target.

    Attributes:
        traced, canonical, one_pass, gradient: cascades, line by line.
        streamed: the axis that passes. passes: how often the cascade as written would sweep over it; the kernels do once.
        ranks: for each reduction the number of sums it separates into.
        gauges: shifts that exponentials share.
        saved: what the backward reads of the forward; of it, `rows` are numbers a row and `extra` tensors with features, both no output.
        kernels: in launch order.
        tiles: the choice, first line of each kernel. candidates: the same with what lost.
        captured: how the gradient of each captured tensor is formed.
        order: which order tokens are taken in, where that is not theirs.
        rewrites: what each saved, or why it was not done.
        few: what else runs for few queries.
        form: of the backward, and why it is that.
        masks: those that bound no tiles, for they are numbers to the kernels, each with the user's line and the reason.
        delta: why delta is summed over the keys, "" where it is not.
        refused: gradients that there are not, and why. dtypes: which arguments may be fp32 beside others.
    """

    traced: tuple[str, ...]
    canonical: tuple[str, ...]
    streamed: str
    passes: int
    ranks: tuple[tuple[str, int], ...]
    gauges: tuple[str, ...]
    one_pass: tuple[str, ...]
    saved: tuple[str, ...]
    rows: tuple[str, ...]
    extra: tuple[str, ...]
    gradient: tuple[str, ...]
    kernels: tuple[KernelFacts, ...]
    tiles: tuple[str, ...]
    candidates: tuple[str, ...]
    captured: tuple[str, ...]
    order: str = ""
    rewrites: tuple[str, ...] = ()
    few: tuple[str, ...] = ()
    form: str = ""
    masks: tuple[str, ...] = ()
    delta: str = ""
    refused: tuple[str, ...] = ()
    dtypes: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)

    def text(self, full: bool = False) -> str:
        """One screen, or everything."""
        times = "pass" if self.passes == 1 else "passes"
        blocks = [
            _block("cascade, as traced", self.traced),
            *([_block("cascade, canonical", self.canonical)] if full else []),
            _block(f"{self.passes} {times} over {self.streamed} as written, 1 in the kernels", [*self._sums(), *self.gauges]),
            *([_block("one-pass form", self.one_pass)] if full else []),
            _block("saved for the backward", self._kept()),
            *([_block("gradients", self.gradient)] if full else []),
            *([_block("backward", [line for line in (self.form, self.delta) if line])] if self.form or self.delta else []),
            *([_block("dtypes", (self.dtypes,))] if self.dtypes else []),
            *([_block("gradients that no kernel computes", self.refused)] if self.refused else []),
            _block("kernels", [line for kernel in self.kernels for line in _kernel_lines(kernel, full)]),
            *([_block("masks that stay numbers, so that their tiles are visited", self.masks)] if self.masks else []),
            *([_block("rewrites", self.rewrites)] if self.rewrites else []),
            _block("tiles", self.candidates if full else self.tiles),
            *([_block("gradients of captured tensors", self.captured)] if self.captured else []),
            *([_block("order of tokens", (self.order,))] if self.order else []),
            *([_block("few queries", self.few)] if self.few else []),
        ]
        return "\n".join(blocks)

    def _sums(self) -> list[str]:
        return [f"{name} separates into {count} sum{'s' * (count > 1)}" for name, count in self.ranks]

    def _kept(self) -> list[str]:
        notes = {**dict.fromkeys(self.rows, "  (one number a row)"), **dict.fromkeys(self.extra, "  (extra, as large as an output)")}
        return [f"{item}{notes.get(item, '  (an output)')}" for item in self.saved] or ["nothing"]


def explain(
    traced: Cascade, program: Program, choice: Choice, order: str = "", few: tuple[str, ...] = (), why_form: str = ""
) -> Explanation:
    """Collect the facts.

    Args:
        traced: the cascade before any pass.
        program: made of it.
        choice: tiles for its kernels.
        order: what is to be said about the order of tokens.
        few: what is to be said about calls with few queries.
        why_form: why the backward has its form.
    """
    streamed, backward = program.streamed, program.backward
    saved = backward.saved if backward is not None else ()
    features = set(program.features)
    kept = [item.name for item in saved if not item.is_output]
    shown = {item.name: _with_axes(streamed.cascade, item.name) for item in saved}
    return Explanation(
        traced=_lines(traced),
        canonical=_lines(program.cascade),
        streamed=streamed.streamed,
        passes=pass_count(program.cascade, streamed.streamed),
        ranks=streamed.ranks,
        gauges=tuple(f"{item.name} is the running maximum of {item.exponent}; the backward reads {item.value}" for item in streamed.gauges),
        one_pass=_lines(streamed.cascade),
        saved=tuple(shown.values()),
        rows=tuple(shown[name] for name in kept if not features & set(streamed.cascade.axes(name))),
        extra=tuple(shown[name] for name in kept if features & set(streamed.cascade.axes(name))),
        gradient=_lines(program.gradient) if program.gradient is not None else (),
        kernels=tuple(_facts(kernel) for kernel in program.kernels),
        tiles=choice.heads(),
        candidates=choice.lines(),
        captured=_captured(program),
        order=order or _gaps(program),
        rewrites=_rewrites(program),
        few=few,
        form=_form(program, why_form),
        masks=tuple(dict.fromkeys(f"{_line(step)}: {why}" for step, why in unlifted_masks(program.cascade))),
        delta=f"delta is summed over {streamed.streamed} by backward_statistics: {program.delta}" if program.delta else "",
        dtypes=_dtypes(program),
        refused=_refused(program),
    )


def after(cascade: Cascade, step: str) -> str:
    """The result of one step of the pipeline, as text.

    Args:
        cascade: as traced.
        step: its name, one of `STEPS`.

    Raises:
        ArgumentError: listing the steps.
    """
    if step not in STEPS:
        raise ArgumentError(f"the pipeline has no step {step!r}", remedy=f"Its steps are {', '.join(STEPS)}.")
    results: dict[str, str] = {}

    def observe(name: str, value: object) -> object:
        results[name] = _result(value)
        return value

    analyse(cascade, observe)
    return results[step]


def watching(knobs: Knobs) -> Observe[object]:
    """The observer that the knobs ask for: `verify` holds the result of each step against its Form, `dump` prints those of some to stderr.

    Raises:
        InvalidKnob: `dump` names something that is no step; and from the observer, InternalError: a result has another Form.
    """
    for name in knobs.dump:
        if name not in STEPS:
            raise InvalidKnob(f"ATTNGEN_DUMP names {name!r}, which is no step", remedy=f"The steps are {', '.join(STEPS)}.")

    def observe(name: str, value: object) -> object:
        if name in knobs.dump:
            print(f"# attngen: after {name}\n{_result(value)}", file=sys.stderr, flush=True)
        if knobs.verify:
            verify_step(name, value)
        return value

    return observe if knobs.dump or knobs.verify else ignore


def _result(value: object) -> str:
    """What a step gave, as text: a cascade, a value around one, or kernels."""
    if isinstance(value, tuple):
        return "\n".join(_kernel_text(item) for item in value)
    return str(value.cascade if isinstance(value, Streamed | Backward) else value)


def visits(kernel: Kernel) -> str:
    """Which part of the passing axis a kernel looks at, for a tile of positions `first` to `last`."""
    if kernel.streamed is None:
        return "nothing passes"
    found = describe(loop_ranges(*kernel.bounding, kernel.streamed, kernel.resident))
    segments = segments_of(kernel)
    listed = segments is not None and segments.listed
    return f"{found}; of these the tiles that {kernel.role}_list lists" if listed else found


def _rewrites(program: Program) -> tuple[str, ...]:
    """What became of each rewrite, and what it changes in all."""
    changed = savings(program)
    return tuple(
        line
        for name, notes in program.rewrites
        for line in (*told(name, notes), *(f"{name}, for each pair of positions: {text}" for text in changed.get(name, ())))
    )


def _line(step: Einsum) -> str:
    """The user's line that made a step, or the step where there is none."""
    loc = step.loc
    return print_step(step) if loc is None else f"{Path(loc.filename).name}:{loc.line}: {loc.text().strip()}"


def _gaps(program: Program) -> str:
    """What another order of tokens would do for a mask that holds for equal remainders only."""
    kernel = program.kernels[0]
    divisor = common_divisor(kernel.may_mask, kernel.resident, kernel.streamed or "")
    if divisor is None:
        return ""
    name = print_expr(divisor)
    return (
        f"as they come; the mask holds for equal remainders by {name} only, so for N queries and keys "
        f"order=attngen.grid(N).order(dilation={name}) leaves about one tile in {name} to visit, at the price of copies"
    )


def _refused(program: Program) -> tuple[str, ...]:
    """Which gradients there are not, and why."""
    ungraded = program.backward.ungraded if program.backward is not None else ()
    through = (f"through the output {name}: it depends on a maximum over {program.streamed.streamed}" for name in ungraded)
    return (*(f"{name}: {error.rule}" for name, error in program.refused), *through)


def _dtypes(program: Program) -> str:
    """What arguments without features may be."""
    inputs = program.cascade.inputs
    names = ", ".join(item.name for item in without_features(inputs, program.features))
    operand = operand_of(inputs, program.features).name
    return f"{names}: that of {operand}, or float32; read in the precision of sums, with gradients in their own dtype" if names else ""


def _facts(kernel: Kernel) -> KernelFacts:
    return KernelFacts(
        role=kernel.role,
        stays=kernel.resident,
        passes=kernel.streamed,
        programs_over=kernel.grid,
        sums_over=kernel.loops,
        stores=kernel.outputs,
        steps=tuple(print_step(step) for step in kernel.steps),
        visits=visits(kernel),
    )


def _kernel_lines(kernel: KernelFacts, full: bool) -> list[str]:
    moves = f"{kernel.stays} stays" if kernel.passes is None else f"{kernel.stays} stays, {kernel.passes} passes"
    loops = f", summing over {', '.join(kernel.sums_over)}" if kernel.sums_over else ""
    lines = [f"{kernel.role}: {', '.join(kernel.stores)}; {moves}; programs over {', '.join(kernel.programs_over)}{loops}"]
    lines += [f"  {kernel.visits}"] if kernel.passes is not None else []
    return [*lines, *(f"  {step}" for step in kernel.steps)] if full else lines


def _form(program: Program, why: str) -> str:
    """Which form the backward has."""
    added = [name for kernel in program.kernels for name in kernel.atomic_adds]
    if not why or not any(kernel.role != "forward" for kernel in program.kernels):
        return ""
    if not added:
        return f"two walks, the same results in every run: {why}"
    return f"one walk, {', '.join(added)} added up in memory in any order (deterministic=True has two): {why}"


def _kernel_text(kernel: object) -> str:
    return "\n".join(_kernel_lines(_facts(kernel), full=True)) if isinstance(kernel, Kernel) else str(kernel)


def _captured(program: Program) -> tuple[str, ...]:
    """How the gradients of captured tensors are formed, one line for each read of theirs."""
    inputs = {item.name: item for item in program.cascade.inputs}
    gradients = program.backward.gradients if program.backward is not None else ()
    lines: list[str] = []
    for gradient in gradients:
        kernel = next((kernel for kernel in program.kernels if gradient.step in kernel.outputs), None)
        if inputs[gradient.target].axes is None and gradient.at is not None and kernel is not None:
            at = f"{gradient.target}[{', '.join(print_expr(expr) for expr in gradient.at)}]"
            lines.append(f"{at}: {_formed(kernel, gradient.step, {axis for expr in gradient.at for axis in free_axes(expr)})}")
    return tuple(dict.fromkeys(lines))


def _formed(kernel: Kernel, step: str, position: set[str]) -> str:
    place = next((item for item in kernel.scatters if item.step == step), None)
    if place is not None:
        summed = f"summed over {', '.join(kernel.loops)}, " if kernel.loops else ""
        return f"{summed}{_FORMS[place.form]} in {kernel.role}"
    rest = [axis for axis in kernel.axes(step) if axis not in position]
    by_rows = step in kernel.atomic_adds or (
        kernel.resident in kernel.axes(step) and kernel.role.startswith(("backward_rows", "backward_finish"))
    )
    return f"by {'rows' if by_rows else 'columns'} in {kernel.role}" + (f", partials summed over {', '.join(rest)}" if rest else "")


_FORMS = {"stored": "stored once", "diagonals": "added up by diagonals", "sorted": "added up by sorted positions"}


def _with_axes(cascade: Cascade, name: str) -> str:
    return f"{name}[{','.join(cascade.axes(name))}]"


def _lines(cascade: Cascade) -> tuple[str, ...]:
    return tuple(str(cascade).splitlines())


def _block(title: str, lines: Sequence[str]) -> str:
    return "\n".join((f"{title}:", *(f"  {line}" for line in lines)))
