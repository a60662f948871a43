"""Why a variant became the kernels it is: the derivation, the kernels, the tiles.

Takes a traced cascade, its analysed program and a choice of tiles, gives an `Explanation`: facts as plain values, as text on one screen,
or in full. Nothing is computed anew but the ranges of masks and the number of passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from attngen.analysis.congruence import common_divisor
from attngen.analysis.pass_count import pass_count
from attngen.ir.cascade import Cascade, Einsum, operand_of, without_features
from attngen.ir.masks import unlifted_masks
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes
from attngen.kernel.partition import Kernel
from attngen.kernel.rewrites.note import told
from attngen.pipeline import Program, analyse, compiled
from attngen.report.savings import savings
from attngen.schedule.choose import Choice, Request
from attngen.stages.observe import Seen, check_step
from attngen.stages.show import KernelSummary, summary
from attngen.targets import table as targets

Lengths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All facts about one variant on one target.

    Attributes:
        traced, canonical, one_pass, gradient: cascades, line by line.
        streamed: the loop axis. passes: how often the cascade as written would sweep over it; the kernels do once.
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
        plans: what calls run, for lengths that stand for many.
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
    kernels: tuple[KernelSummary, ...]
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
    plans: tuple[str, ...] = ()

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
            _block("kernels", [line for kernel in self.kernels for line in kernel.lines(full=full)]),
            *([_block("masks that stay numbers, so that their tiles are visited", self.masks)] if self.masks else []),
            *([_block("rewrites", self.rewrites)] if self.rewrites else []),
            _block("tiles", self.candidates if full else self.tiles),
            *([_block("gradients of captured tensors", self.captured)] if self.captured else []),
            *([_block("order of tokens", (self.order,))] if self.order else []),
            *([_block("few queries", self.few)] if self.few else []),
            *([_block("plans of calls", self.plans)] if self.plans else []),
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
        kernels=tuple(map(summary, program.facts)),
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


def _of_heads(features: tuple[str, ...]) -> Lengths:
    """The lengths of feature axes where nobody says any."""
    return dict.fromkeys(features, 128)


def after(
    cascade: Cascade, step: str, dtype: str = "bfloat16", arch: str = "sm90", lengths: Callable[[tuple[str, ...]], Lengths] = _of_heads
) -> str:
    """The result of one step of the pipeline, as text.

    Args:
        cascade: as traced.
        step: its name, one of `STEPS`.
        dtype, arch: what tiles are chosen for and a module is printed for. lengths: gives the lengths of feature axes for it.

    Raises:
        ArgumentError: listing the steps.
    """
    check_step(step)
    seen = Seen()
    features = analyse(cascade, seen).features
    if step not in dict(seen.results):
        compiled(cascade, "variant", Request(tuple(lengths(features).items()), dtype, targets.get(arch)), seen)
    return seen.text(step)


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
    return str(step) if loc is None else f"{Path(loc.filename).name}:{loc.line}: {loc.text().strip()}"


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


def _form(program: Program, why: str) -> str:
    """Which form the backward has."""
    added = [name for kernel in program.kernels for name in kernel.atomic_adds]
    if not why or not any(kernel.role != "forward" for kernel in program.kernels):
        return ""
    if not added:
        return f"split (dq and dk, dv in separate kernels), deterministic: {why}"
    return f"fused, {', '.join(added)} by atomic adds in any order (deterministic=True splits it): {why}"


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
