"""Lowering: a kernel with its facts to a tile program.

    sum[f] A[R,f] * B[S,f]      a dot of two sides
    sum[S] A[R,S] * B[S,f]      a dot that adds to a carried value
    sum[S] A[R,S]               a row sum that adds to a carried value
    sum[R] ...                  what a tile adds to a sum in memory
    anything else               a pointwise value

The weight of a gauge carries its running maximum, and sums that rescale with it follow (`running_max`). Values exist where their guard
holds; elsewhere they may be anything. So what enters a sum over positions is selected by the guard first, and an operand that varies along
features is 0 at positions without any element in the tile: there its memory may hold NaN, which 0 would not take away.
"""

from __future__ import annotations

from collections.abc import Iterable

from attngen.analysis.kv_ranges import KvRanges
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Einsum, Input
from attngen.ir.expr import Expr, kind_of
from attngen.ir.traverse import free_axes, names_read
from attngen.kernel.masked_out import keys_resident, projected_mask
from attngen.tile.nodes import Axes, Dot, Loop, Param, Scatter, Store, TileProgram
from attngen.tile.program_builder import AFTER, BEFORE, INSIDE, Builder
from attngen.tile.running_max import Gauges, finite


def tile_programs(facts: Iterable[KernelFacts]) -> tuple[TileProgram, ...]:
    """The tile programs of kernels, in order."""
    return tuple(lower(item) for item in facts)


def lower(facts: KernelFacts) -> TileProgram:
    """The tile program of a kernel.

    Args:
        facts: of a kernel that computes values; one that lists tiles has no program.
    """
    return _Lowering(facts).run()


class _Lowering:
    """Walks over the steps of one kernel in order."""

    def __init__(self, facts: KernelFacts) -> None:
        self.facts = facts
        self.kernel = facts.kernel
        self.build = Builder(facts.kernel)
        self.pair = {facts.kernel.resident, facts.kernel.streamed}
        self.gauges = Gauges(self.build, facts)
        self.weights = {gauge.weight: gauge for gauge in facts.kernel.gauges}
        self.offsets = {gauge.offset for gauge in facts.kernel.gauges if gauge.offset is not None}

    def run(self) -> TileProgram:
        kernel, build_ = self.kernel, self.build
        self.gauges.begin()
        for step in kernel.steps:
            self.step(step)
        for item in kernel.scatters:
            self.scatter(item.step)
        self.outputs()
        loop = None
        if kernel.streamed is not None:
            visited = self.visited()
            # What a list of tiles is found from stands in another kernel: masks alone say what is there.
            ranges = KvRanges(kernel.streamed, (), tight=False) if self.facts.ranges is None or self.facts.listed else self.facts.ranges
            loop = Loop(
                kernel.streamed, ranges, self.bounds(ranges), visited, tuple(build_.carried), tuple(build_.masks), tuple(build_.inside)
            )
        return TileProgram(
            kernel.role,
            (*map(_param, kernel.inputs), *(Param(name, kernel.axes(name), output=True) for name in kernel.outputs)),
            kernel.resident,
            kernel.grid,
            kernel.loops,
            tuple(build_.before),
            loop,
            tuple(build_.after),
            kernel.split_axis if kernel.split_axis in kernel.grid else "",
        )

    def visited(self) -> str:
        """The truth tile of the may-mask; "" if it holds everywhere or reads computed values."""
        mask = self.kernel.may_mask
        if mask is None or self.kernel.combines_splits or set(names_read(mask)) & {step.name for step in self.kernel.steps}:
            return ""
        return self.build.truth(mask)

    def bounds(self, ranges: KvRanges) -> tuple[tuple[str, ...], ...]:
        """Names of the bounds of each piece, which are computed before the loop."""
        make = self.build
        for name, value in ranges.over:
            loaded = make.load(value.read)
            make.alias[name] = make.reduce(name, "min" if value.which == "least" else "max", loaded, (self.kernel.resident,))
        named = [make.let("bound", make.own(bound), BEFORE) for bound in ranges.bounds]
        return tuple(tuple(named[i : i + 4]) for i in range(0, len(named), 4))

    # ---- one step

    def step(self, step: Einsum) -> None:
        """An offset is written together with the weight of its gauge."""
        if self.kernel.streamed is not None and self.kernel.streamed in step.over:
            self.accumulate(step)
        elif step.name in self.kernel.atomic_adds:
            value = self.contribution(step)
            self.build.inside.append(Store(step.name, self.build.axes(value), value, adds=True))
        elif step.name in self.weights:
            self.gauges.weigh(step, self.weights[step.name])
        elif step.name in self.offsets:
            return
        elif set(step.over) & set(self.kernel.loops):
            self.build.alias[step.name] = self.reduced(step, self.selected(step, self.value(step.body, step.name)))
        elif step.over:
            self.contract(step)
        else:
            self.pointwise(step)

    def pointwise(self, step: Einsum) -> None:
        body = step.body if self.pair <= set(step.axes) else self.present(step)
        self.build.alias[step.name] = self.value(body, step.name)

    def present(self, step: Einsum, missing: Expr = build.ZERO) -> Expr:
        """The body of a value that is not one of pairs, `missing` where it does not exist."""
        guard = self.facts.guards[step.name]
        return step.body if guard is None else build.apply("where", guard, step.body, missing)

    def value(self, body: Expr, name: str) -> str:
        """The name of a value for an expression of the kernel."""
        return self.build.let(name, self.build.own(body))

    # ---- sums over features

    def contract(self, step: Einsum) -> None:
        sides = self.sides(step)
        if sides is None:
            self.build.alias[step.name] = self.feature_reduction(step)
            return
        left, right, rest = sides
        operands = [self.value(side, f"{step.name}_{which}") for side, which in ((left, "left"), (right, "right"))]
        # Rows times keys in every kernel: where scores are large, weights measured from a saved statistic need the same rounding errors.
        operands = operands[::-1] if keys_resident(self.kernel) else operands
        name = self.dot(step.name, operands[0], operands[1], step.over)
        if rest != build.ONE:
            name = self.build.let(step.name, build.mul(self.build.read(name), self.build.own(rest)))
        if step.name in self.facts.dots_to_zero:
            name = self.build.select(name, self.build.truth(self.facts.dots_to_zero[step.name]), 0.0)
        self.build.alias[step.name] = name

    def sides(self, step: Einsum) -> tuple[Expr, Expr, Expr] | None:
        """Factors of a product of both sides by the side they belong to, and those of pairs; None if it is not one."""
        kernel = self.kernel
        found: list[Expr] = [build.ONE, build.ONE, build.ONE]
        for factor in signed_factors(step.body):
            axes = set(free_axes(factor))
            if not axes & set(step.over):
                place = 2
            elif self.pair <= axes:
                return None
            else:
                place = 1 if kernel.streamed in axes else 0
            found[place] = build.mul(found[place], factor)
        return None if build.ONE in found[:2] or step.reduce != "sum" else (found[0], found[1], found[2])

    def feature_reduction(self, step: Einsum) -> str:
        """A reduction over features of a product that is formed: mostly that of one side."""
        missing = build.ZERO if step.reduce == "sum" else build.NEG_INF
        body = step.body if self.pair <= {*step.axes, *step.over} else self.present(step, missing)
        value = self.build.spread(self.value(body, f"{step.name}_of"), step.over)
        if step.reduce != "logsumexp":
            return self.reduced(step, value)
        peak = self.build.reduce(f"{step.name}_peak", "max", value, step.over)
        safe = self.build.let(f"{step.name}_from", finite(self.build.read(peak)))
        weights = self.build.let(f"{step.name}_weights", build.exp(build.sub(self.build.read(value), self.build.read(safe))))
        total = self.build.reduce(f"{step.name}_sum", "sum", weights, step.over)
        return self.build.let(step.name, build.add(self.build.read(safe), build.log(self.build.read(total))))

    def reduced(self, step: Einsum, value: str) -> str:
        return self.build.reduce(step.name, "max" if step.reduce == "max" else "sum", value, step.over)

    # ---- sums over positions

    def accumulate(self, step: Einsum) -> None:
        """What an iteration adds to a carried value, which follows the gauges first."""
        identity = build.NEG_INF if step.reduce == "max" else build.ZERO
        carry = self.build.carry(step.name, step.axes, identity)
        followed = self.gauges.follow(step, carry)
        if step.reduce == "max":
            largest = self.reduced(step, self.selected(step, self.value(step.body, step.name), float("-inf")))
            self.build.hand_on(carry, build.apply("max", self.build.read(carry), self.build.read(largest)))
            return
        value = self.contribution(step, carry, followed)
        if value != self.build.next_of(carry):
            self.build.hand_on(carry, build.add(followed, self.build.read(value)))

    def contribution(self, step: Einsum, carry: str = "", followed: Expr = build.ZERO) -> str:
        """What the tile holds of a sum over positions. A dot adds to a carried value at once, and is what it hands on."""
        product = self.weights_and_rows(step)
        if product is None:
            value = self.selected(step, self.value(step.body, step.name))
            return self.build.reduce(step.name, "sum", self.build.spread(value, step.over), step.over)
        weights, rows = product
        a = self.build.spread(self.value(weights, f"{step.name}_weights"), step.over)
        a = self.selected(step, a)
        b = self.value(rows, f"{step.name}_rows")
        absent = tuple(axis for axis in step.over if axis not in self.build.axes(b))
        a = self.build.reduce(f"{step.name}_weights", "sum", a, absent) if absent else a
        over = tuple(axis for axis in step.over if axis not in absent)
        guard = self.facts.guards[step.name]
        if guard is not None:
            b = self.build.select(b, self.build.seen(guard, self.build.axes(b)), 0.0)
        axes = {*self.build.axes(a), *self.build.axes(b)} - set(over)
        if not carry or axes != set(step.axes):
            return self.dot(step.name, a, b, over)
        added = carry if followed == self.build.read(carry) else self.build.let(f"{step.name}_scaled", followed, INSIDE)
        return self.build.hand_on_dot(carry, Dot("", self.build.ordered(step.axes), a, b, over, added))

    def weights_and_rows(self, step: Einsum) -> tuple[Expr, Expr] | None:
        """Factors of `sum[S] A[R,S] * B[S,f]`; None if it is another sum. What carries no feature is a weight."""
        features = set(self.kernel.features)
        summed = self.kernel.streamed if self.kernel.streamed in step.over else self.kernel.resident
        (other,) = self.pair - {summed}
        weights: Expr = build.ONE
        rows: Expr = build.ONE
        for factor in signed_factors(step.body):
            axes = set(free_axes(factor))
            if not axes & features:
                weights = build.mul(weights, factor)
            elif other not in axes and summed in axes:
                rows = build.mul(rows, factor)
            else:
                return None
        return None if rows == build.ONE or step.reduce != "sum" else (weights, rows)

    def dot(self, name: str, left: str, right: str, over: Axes) -> str:
        axes = self.build.ordered({*self.build.axes(left), *self.build.axes(right)} - set(over))
        return self.build.put(Dot(self.build.fresh(name), axes, left, right, over))

    def selected(self, step: Einsum, value: str, missing: float = 0.0) -> str:
        """A value that enters a sum, where the guard of the sum holds."""
        guard = self.facts.guards[step.name]
        return value if guard is None else self.build.select(value, self.build.truth(guard), missing)

    # ---- results

    def scatter(self, name: str) -> None:
        """Tiles of a gradient of pairs."""
        item = next(item for item in self.kernel.scatters if item.step == name)
        step = next(step for step in self.kernel.steps if step.name == name)
        guard = self.facts.guards[name]
        value = self.build.alias[name] if step.reduce is not None else self.selected(step, self.build.alias[name])
        at = tuple(self.build.own(position) for position in item.at)
        axes = self.build.ordered(step.axes)
        mask = "" if guard is None else self.build.seen(guard, axes)
        found = Scatter(name, item.target.name, axes, value, at, item.form, mask, item.keys, item.column_axes)
        self.build.inside.append(found)

    def outputs(self) -> None:
        """Stores after the loop. A gradient of keys is 0 where no row sees the key: what is left to compute may be no number."""
        kernel, scattered = self.kernel, {item.step for item in self.kernel.scatters}
        kept = None
        if keys_resident(kernel) and kernel.streamed is not None:
            kept = projected_mask(kernel, kernel.resident)
        for name in kernel.outputs:
            if name in scattered or name in kernel.atomic_adds:
                continue
            value = self.build.alias[name]
            if kept is not None and kind_of(self.build.read(value)) == "float":
                body = build.apply("where", self.build.own(kept), self.build.read(value), build.ZERO)
                value = self.build.let(name, body, AFTER)
            self.build.after.append(Store(name, self.build.ordered(kernel.axes(name)), value))


def _param(item: Input) -> Param:
    return Param(item.name, item.axes, item.kind, item.by_value)
