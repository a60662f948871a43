"""One plan for a call: its token layout, split-KV, the form of its backward, and the programs and tiles that come of it.

`plan_call` takes the lengths and flags of a call and no tensors. It is a pure function of them and of what is known about tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attngen.errors import DoesNotFit
from attngen.plan.num_splits import is_split, num_splits
from attngen.plan.packed_gqa import PackedGQA
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.plan.short_captures import Short
from attngen.plan.tiled_programs import BackwardForm, TiledPrograms
from attngen.plan.token_layout import TokenLayout
from attngen.schedule.ranking import Request
from attngen.schedule.space import length_class
from attngen.schedule.tile_schedule import ModuleSchedule
from attngen.targets.table import Target


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What a plan is made of.

    Attributes:
        extents: lengths of the axes of arguments and captured tensors.
        dtype: of the arguments with features, by its short name. singles: arguments without features that are fp32 beside others.
        target, sms: where it runs, and its multiprocessors.
        gradients: inputs whose gradients are asked for.
        interpreted: kernels run on the CPU, in the engine or in Triton's interpreter. in_order: in the engine, program by program.
        repeatable: results have to be the same in every run.
        return_lse, dropout: whether the logsumexp is returned, and weights are dropped.
        short: captured tensors that end before their axis does, whose loads look at their size.
    """

    extents: tuple[tuple[str, int], ...]
    dtype: str
    target: Target
    sms: int
    gradients: frozenset[str] = FORWARD_ONLY
    singles: tuple[str, ...] = ()
    interpreted: bool = False
    in_order: bool = False
    repeatable: bool = False
    return_lse: bool = False
    dropout: bool = False
    short: Short = frozenset()


@dataclass(frozen=True, slots=True)
class CallPlan:
    """What a call runs.

    Attributes:
        layout: of its tokens.
        num_splits: slices of the keys; 1 without split-KV.
        forward: the program of the forward. backward: that of the backward, None where no gradient is asked for.
        why: the backward is split or fused.
        schedule: tiles of the kernels; a real compile may still reject one.
        facts: what it was made of.
    """

    layout: str
    num_splits: int
    forward: ProgramKey
    backward: ProgramKey | None
    why: str
    schedule: ModuleSchedule
    facts: CallFacts = field(repr=False)

    @property
    def backward_form(self) -> str:
        """ "split", "fused", or "" without gradients."""
        return "" if self.backward is None else "fused" if self.backward.fused else "split"

    def __str__(self) -> str:
        """One line: "packed GQA, 33 splits; bfloat16 on sm90; forward_parts=16x128,w4,s3 ..."."""
        facts = self.facts
        how = [self.layout, *([f"{self.num_splits} splits"] if self.num_splits > 1 else [])]
        how += [f"size of {name} looked at" for name in sorted({name for name, _ in facts.short})]
        how += [*(["lse"] if facts.return_lse else []), *(["dropout"] if facts.dropout else [])]
        parts = [", ".join(how)]
        if self.backward is not None:
            wanted = ", ".join(sorted(facts.gradients))
            parts.append(f"{self.backward_form} backward for {wanted}")
        where = [f"{facts.dtype} on the CPU"] if facts.in_order else [f"{facts.dtype} on {facts.target.name}", str(self.schedule)]
        return "; ".join([*parts, *where])


def plan_call(layouts: Iterable[tuple[TokenLayout, TiledPrograms]], facts: CallFacts) -> CallPlan:
    """The plan of a call.

    Args:
        layouts: those of the variant with their programs, in the order in which they are asked; the last one, with the tokens as they are
            or as the user ordered them, serves every call.
        facts: of the call.

    Raises:
        DoesNotFit: no tile fits the target. ScheduleError: the user's tiles are illegal.
    """
    layout, programs = next(pair for pair in layouts if _serves(*pair, facts))
    return _plan(layout, programs, facts)


def _serves(layout: TokenLayout, programs: TiledPrograms, facts: CallFacts) -> bool:
    """Whether a call has this layout: it is faster, has the gradients that are asked for, and in strict mode its programs are stored."""
    if not layout.pays(dict(facts.extents), facts.target):
        return False
    if layout.differentiable:
        return True
    return not facts.gradients and programs.is_stored(
        _whole(layout, facts), request_of(layout, programs, facts), interpreted=facts.interpreted
    )


def _whole(layout: TokenLayout, facts: CallFacts) -> ProgramKey:
    """The program of the forward without split-KV. A call without gradients runs that of one with all of them, where there is any."""
    return ProgramKey(facts.dtype, None if layout.differentiable else FORWARD_ONLY)


def request_of(layout: TokenLayout, programs: TiledPrograms, facts: CallFacts) -> Request:
    """What tiles are chosen for."""
    extents, axes = layout.extents(dict(facts.extents)), programs.axes
    dims = tuple((axis, extents[axis]) for axis in axes.features)
    return Request(dims, facts.dtype, facts.target, length_class(extents[axes.resident], extents[axes.streamed]), facts.singles)


def _splits(programs: TiledPrograms, extents: Mapping[str, int], facts: CallFacts) -> bool:
    """Whether the keys are split: nothing is gained where programs run one after the other."""
    return not facts.in_order and is_split(programs, extents, dict(facts.extents)[programs.axes.resident], facts.sms)


def _plan(layout: TokenLayout, programs: TiledPrograms, facts: CallFacts) -> CallPlan:
    request, extents = request_of(layout, programs, facts), layout.extents(dict(facts.extents))
    if not facts.gradients and layout.splittable and _splits(programs, extents, facts):
        key = ProgramKey(facts.dtype, FORWARD_ONLY, split=True)
        if programs.is_stored(key, request, interpreted=facts.interpreted):
            schedule = programs.choice(key, request).schedule
            splits = num_splits(programs, extents, schedule.tiles[0][1].resident, facts.sms)
            return CallPlan(str(layout), splits, key, None, "", schedule, facts)
    key = _whole(layout, facts)
    tiles = [item for item in programs.choice(key, request).schedule.tiles if item[0] == "forward"]
    if not facts.gradients:
        return CallPlan(str(layout), 1, key, None, "", ModuleSchedule(tuple(tiles)), facts)
    backward, form = plan_backward(programs, request, facts.gradients, repeatable=facts.repeatable, in_order=facts.in_order)
    tiles += [item for item in programs.choice(backward, request).schedule.tiles if item[0] != "forward"]
    return CallPlan(str(layout), 1, key, backward, form.why, ModuleSchedule(tuple(tiles)), facts)


def plan_backward(
    programs: TiledPrograms, request: Request, gradients: frozenset[str], *, repeatable: bool, in_order: bool = False
) -> tuple[ProgramKey, BackwardForm]:
    """The program of a backward, and why it has its form.

    Args:
        programs: of the token layout. request: what tiles are chosen for.
        gradients: inputs whose gradients are asked for.
        repeatable, in_order: as for `TiledPrograms.backward_form`.
    """
    key = ProgramKey(request.dtype, programs.gradients(gradients))
    form = programs.backward_form(key, request, repeatable=repeatable, in_order=in_order)
    return replace(key, fused=form.fused), form


_EXAMPLES = (("training", 4, 4096, 4096), ("decoding", 1, 1, 8192))
"""Batch, queries and keys of calls that stand for many."""


def example_plans(
    layouts: Sequence[tuple[TokenLayout, TiledPrograms]], dims: Mapping[str, int], dtype: str, target: Target
) -> tuple[str, ...]:
    """For `explain`: the plans of a call that trains and of one that decodes, with 8 heads, of 4 queries each where they are grouped.

    Args:
        layouts: as for `plan_call`.
        dims: lengths of the feature axes. dtype: of the arguments, by its short name. target: where they run.
    """
    programs = layouts[-1][1]
    axes, found = programs.axes, list[str]()
    groups = {layout.packing.heads: 4 for layout, _ in layouts if isinstance(layout, PackedGQA)}
    for name, batch, queries, keys in _EXAMPLES:
        grid = {axis: batch if place == 0 else 8 for place, axis in enumerate(programs.grid)} | groups
        extents = {**grid, axes.resident: queries, axes.streamed: keys}
        trained = (item.name for item in programs.start.cascade.inputs if item.differentiable and item.axes is not None)
        gradients = frozenset(trained) if name == "training" else FORWARD_ONLY
        facts = CallFacts(tuple({**extents, **dims}.items()), dtype, target, target.sms, gradients)
        try:
            plan = str(plan_call(layouts, facts))
        except DoesNotFit as error:
            plan = error.rule
        lengths = ", ".join(f"{axis} = {length}" for axis, length in extents.items())
        found.append(f"{name}, {lengths}: {plan}")
    return tuple(found)
