"""Steps to statements: prologue values, tile values, accumulators and their epilogue.

    sum[f] A[R,f] * B[S,f]      a dot into a tile
    sum[S] A[R,S] * B[S,f]      an accumulating dot
    sum[S] A[R,S]               a row accumulator
    sum[f] of one side          a row sum
    sum[R]                      what the tile adds to a sum in memory (`atomic_adds`)
    anything else               a pointwise statement

A contraction factor that fits neither side is refused by name. Under masks a tile value that feeds a sum is set to 0 where it does
not exist, unless it already is.
"""

from __future__ import annotations

from attngen.emit.accumulation_chains import chains
from attngen.emit.atomic_adds import form_part
from attngen.emit.bias_dot import add_bias_dot
from attngen.emit.builder import Writer, hint
from attngen.emit.dialect import PLAIN, Dialect, shape_of
from attngen.emit.expression import Layout
from attngen.emit.grid_sums import add_total
from attngen.emit.identifiers import Code, tensor_name
from attngen.emit.known_zero import Zeros
from attngen.emit.online_softmax import Online
from attngen.emit.placement import Shapes, Stage, Value
from attngen.emit.sums import Sums
from attngen.emit.truth_tiles import Masks
from attngen.errors import NotAContraction
from attngen.facts.kernel_facts import KernelFacts
from attngen.ir import build
from attngen.ir.algebra import signed_factors
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Expr, Read, kind_of
from attngen.ir.printer import print_expr
from attngen.kernel.masked_out import has_few_rows
from attngen.kernel.prefetched_dots import issue_order


class Lowering:
    """Walks the steps of one kernel in order."""

    def __init__(self, facts: KernelFacts, shapes: Shapes, full: int | None, dialect: Dialect = PLAIN) -> None:
        kernel = facts.kernel
        self.facts = facts
        self.kernel = kernel
        self.writer = Writer(kernel, shapes, full, dialect)
        self.exists = facts.guards
        self.dots_to_zero = facts.dots_to_zero
        self.chains = chains(kernel, self.dots_to_zero)
        self.by_name = {step.name: step for step in kernel.steps}
        self.zeros = Zeros(kernel, self.exists)
        self.gauges = {gauge.weight: gauge for gauge in kernel.gauges}
        self.accumulators = {item.name: item for item in kernel.accumulators}
        self.entering: dict[tuple[Expr, Expr | None], str] = {}
        self.operands: dict[tuple[Expr, Expr | None, str], Code] = {}
        self.offsets = {gauge.offset for gauge in kernel.gauges if gauge.offset is not None}
        self.lower = {item.lower for item in kernel.accumulators if item.lower is not None}
        self.bias_dots = {bias_dot.step: bias_dot for bias_dot in kernel.bias_dots}
        self.atomic_adds = frozenset(kernel.atomic_adds)
        self.masks = Masks(self)
        self.writer.loads.clear, self.writer.loads.end = self.masks.clear, self.masks.end_of
        self.sums = Sums(self)
        self.online = Online(self)
        self.prefetched = dialect.prefetched(self)
        self.pair = (kernel.resident, kernel.streamed or "")

    def run(self) -> Writer:
        """Write every step; accumulators that others need to follow their gauge are updated last."""
        for gauge in self.kernel.gauges:
            self.online.carry(gauge)
        for step in issue_order(self.kernel):
            if step.name in self.prefetched.names:
                self.prefetched.step(step)
            else:
                self.step(step)
        for name in self.online.moved:
            self.writer.put(f"{name} = {name}_new", Stage.TILE)
        return self.writer

    # ---- one step

    def step(self, step: Einsum) -> None:
        """An offset `y = x - m_i` was written together with its weight."""
        if self.kernel.streamed is not None and self.kernel.streamed in step.over:
            self.sums.accumulate(step)
        elif step.name in self.atomic_adds:
            form_part(self, step)
        elif step.name in self.offsets:
            return
        elif step.name in self.gauges:
            self.online.weight(step, self.gauges[step.name])
        elif step.name in self.bias_dots:
            add_bias_dot(self, step, self.bias_dots[step.name])
        elif set(step.over) & set(self.kernel.loops):
            add_total(self, step)
        elif step.over:
            self.contract(step)
        elif step.name not in self.chains:
            self.pointwise(step)

    def pointwise(self, step: Einsum) -> None:
        writer = self.writer
        layout = tuple(axis for axis in writer.order if axis in step.axes)
        known = writer.steps.get(step.body.tensor) if isinstance(step.body, Read) else None
        if known is not None and (known.layout, known.stage, self.exists[step.name]) == (layout, Stage.EPILOGUE, None):
            writer.steps[step.name] = known
            return
        body = step.body if layout == self.pair else self.present(step)
        stage = writer.stage_of(body)
        name = writer.name(tensor_name(step.name))
        if writer.layout(body) != layout and kind_of(body) == "float":
            writer.put(f"{name} = {self.spread(body, layout)}", stage)
        else:
            writer.assign(name, body, layout, stage)
        self.define(step, name, layout, stage)

    def present(self, step: Einsum, missing: Expr = build.ZERO) -> Expr:
        """The body of a row or key value, 0 or another value where it does not exist."""
        mask = self.exists.get(step.name)
        return step.body if mask is None else build.apply("where", mask, step.body, missing)

    def define(self, step: Einsum, name: Code, layout: Layout, stage: Stage) -> None:
        """Register a pointwise value. A weight is set to 0 at once where it does not exist: there it may be infinite."""
        self.writer.steps[step.name] = Value(name, layout, stage)
        if stage != Stage.TILE or layout != self.pair:
            return
        exists = self.exists.get(step.name)
        if isinstance(step.body, Apply) and step.body.op == "exp":
            self.under_masks(f"{name} = tl.where({self.masks.valid(exists)}, {name}, 0.0)")
            self.zeros.known[step.name] = exists
        elif self.zeros.holds(step.body, exists):
            self.zeros.known[step.name] = exists

    # ---- contractions over features

    def contract(self, step: Einsum) -> None:
        writer = self.writer
        stage = writer.stage_of(step.body)
        layout = tuple(axis for axis in writer.layout(step.body) if axis not in step.over)
        if len(layout) > 1 and step.reduce != "sum":
            raise NotAContraction(
                f"{step.name} is a {step.reduce} over {', '.join(step.over)} for each query and key, which is no matrix product",
                loc=step.loc,
                remedy="Only sums of products of one value per query and one per key are formed for pairs.",
            )
        if len(layout) < 2:
            name = writer.name(tensor_name(step.name))
            self.feature_reduction(step, name, stage)
        else:
            name = self.product(step, layout, stage)
        self.writer.steps[step.name] = Value(name, layout, stage)

    def product(self, step: Einsum, layout: Layout, stage: Stage) -> Code:
        """A matrix product over features, added to those before it in its chain."""
        writer, chain = self.writer, self.chains.get(step.name)
        total = writer.steps.get(chain.total) if chain is not None else None
        name = total.code if total is not None else writer.name(tensor_name(chain.total if chain is not None else step.name))
        resident, streamed = layout
        left, right, rest = self.split(step, (resident, *step.over), (streamed, *step.over), layout)
        previous, writer.stage = writer.stage, stage
        a = self.operand(left, (resident, *step.over))
        b = self.operand(right, (streamed, *step.over))
        factor = "" if rest == build.ONE else f" * {writer.printer.operand(rest, layout, 11)}"
        into, prefetched = str(name) if total is not None and not factor else "", step.name in self.prefetched.names
        text = writer.dialect.product(writer, (a, b), into, prefetched=prefetched and not factor) + factor
        writer.put(f"{name} = {name} + {text}" if total is not None and factor else f"{name} = {text}")
        writer.stage = previous
        if step.name in self.dots_to_zero and (chain is None or step.name == chain.products[-1]):
            self.under_masks(f"{name} = tl.where({self.masks.valid(self.dots_to_zero[step.name])}, {name}, 0.0)")
        if chain is not None:
            writer.steps[chain.total] = Value(name, layout, stage)
        return name

    def feature_reduction(self, step: Einsum, name: Code, stage: Stage) -> None:
        """A reduction over the features of one side: a row sum, or the like. Padded features count for nothing."""
        writer = self.writer
        body = self.present(step, build.ZERO if step.reduce == "sum" else build.NEG_INF)
        inner = writer.layout(body)
        if len(inner) != 2 or len(step.over) != 1:
            raise self.not_a_contraction(step, step.body)
        previous, writer.stage = writer.stage, stage
        text = self.unpadded(writer.printer.code(body, inner), inner, "0.0" if step.reduce == "sum" else 'float("-inf")')
        if step.reduce == "logsumexp":
            largest, tile = writer.name(f"{name}_largest"), writer.name(f"{name}_from")
            writer.put(f"{tile} = {text}")
            writer.put(f"{largest} = tl.maximum({writer.dialect.row_max(tile, inner)}, -1.0e30)")
            text = f"tl.exp({tile} - {writer.printer.broadcast(str(largest), inner[:1], inner)})"
            writer.put(f"{name} = {largest} + tl.log({writer.dialect.row_sum(text, inner)})")
        else:
            reduced = writer.dialect.row_sum if step.reduce == "sum" else writer.dialect.row_max
            writer.put(f"{name} = {reduced(text, inner)}")
        writer.stage = previous

    def unpadded(self, text: str, layout: Layout, nothing: str = "0.0") -> str:
        """A computed tile with 0, or another value that counts for nothing, in the columns that only pad it."""
        axis = layout[-1]
        if axis not in self.writer.shapes.padded:
            return text
        return f"tl.where({self.writer.dialect.lift(self.writer, f'ok_{axis}', (axis,), layout)}, {text}, {nothing})"

    def split(self, step: Einsum, left: Layout, right: Layout, both: Layout) -> tuple[Expr, Expr, Expr]:
        """Factors of a product by the side whose axes they fit; what fits the result itself multiplies it."""
        sides: list[Expr] = [build.ONE, build.ONE, build.ONE]
        summed = set(step.over)
        for factor in signed_factors(step.body):
            axes = set(self.writer.layout(factor))
            if not axes & summed and axes <= set(both):
                place = 2
            elif axes <= set(left):
                place = 0
            elif axes <= set(right):
                place = 1
            else:
                raise self.not_a_contraction(step, factor)
            sides[place] = build.mul(sides[place], factor)
        return sides[0], sides[1], sides[2]

    def operand(self, expr: Expr, layout: Layout) -> str:
        """A side of a dot in the storage type: a loaded tile as it is, anything computed rounded to it."""
        writer = self.writer
        if isinstance(expr, Read) and expr.tensor not in writer.steps:
            value = writer.loads.load(expr)
            item = writer.inputs[expr.tensor]
            if value.raw and value.layout == layout:
                return str(value.code) if item.axes is not None else f"{value.code}.to(DTYPE)"
        whole = writer.layout(expr) == layout
        text = writer.printer.operand(expr, layout, 100) if whole else f"({self.spread(expr, layout)})"
        return f"{self.unpadded(text, layout)}.to(DTYPE)"

    def spread(self, expr: Expr, layout: Layout) -> str:
        """A value broadcast to a whole tile."""
        zeros = self.writer.dialect.filled(shape_of(self.writer, layout), layout)
        return f"{zeros} + {self.writer.printer.operand(expr, layout, 10)}"

    def not_a_contraction(self, step: Einsum, factor: Expr) -> NotAContraction:
        over = ", ".join(step.over)
        return NotAContraction(
            f"{step.name} sums over {over}, but the factor {print_expr(factor)} belongs to neither side of a matrix product",
            loc=step.loc,
            remedy="Write the sum as products of one value per query and one per key; expand squares and differences.",
        )

    # ---- what enters a sum along the stream

    def selected(self, step: Einsum, expr: Expr, name: str) -> str:
        """The name of the tile that enters a sum, set to 0 where nothing exists.

        A tile that exists just where the sum does is zeroed in place, for all who read it later; else the sum gets a copy, which all
        sums of that tile share.
        """
        writer = self.writer
        exists = self.exists.get(step.name)
        if (expr, exists) in self.entering:
            return self.entering[expr, exists]
        previous, writer.stage = writer.stage, Stage.TILE
        zeroed = self.zeros.holds(expr, exists)
        whole = writer.layout(expr) == self.pair
        own = isinstance(expr, Read) and expr.tensor in writer.steps and whole
        if isinstance(expr, Read) and own and (zeroed or self.exists.get(expr.tensor) == exists):
            text: str = writer.printer.code(expr, self.pair)
            self.zeros.known[expr.tensor] = exists
        else:
            text = self.entering[expr, exists] = writer.name(f"{name}_in")
            if whole:
                writer.assign(text, expr, self.pair, Stage.TILE)
            else:
                writer.put(f"{text} = {self.spread(expr, self.pair)}")
        if not zeroed:
            self.under_masks(f"{text} = tl.where({self.masks.valid(exists)}, {text}, 0.0)")
        writer.stage = previous
        return text

    def summed_operand(self, step: Einsum, expr: Expr, layout: Layout) -> str:
        """The side of a sum that holds features, in the storage type: a number wherever the other side is 0.

        Behind the end of the axis that is summed, a computed value may be none; where the mask fails for a position by itself, or
        leaves a row without keys, whatever lies in memory.
        """
        writer, (axis, _), exists = self.writer, layout, self.exists.get(step.name)
        kept = self.zeros.alone(axis, exists)
        bounded = not self.zeros.is_settled(expr, axis)
        silent = self.zeros.is_silent(expr, exists) or has_few_rows(self.kernel, exists)
        wanted = [kept] if kept is not None and (bounded or self.zeros.is_garbage(expr, axis, kept)) else []
        if not (wanted or bounded or silent):
            return self.operand(expr, layout)
        stage = max((writer.stage_of(expr), Stage.TILE if silent else Stage.PROLOGUE, *map(writer.stage_of, wanted)))
        key = (expr, exists if wanted or silent else None, axis)
        if key not in self.operands:
            whole = writer.layout(expr) == layout
            text = writer.printer.code(expr, layout) if whole else self.spread(expr, layout)
            name = self.operands[key] = writer.name(f"{hint(expr)}_in")
            writer.put(f"{name} = {self.unpadded(text, layout)}", stage)
            terms = [Code(f"ok_{axis}")] if bounded else []
            terms += [self.masks.kept(part, axis, stage) for part in wanted]
            terms += [self.masks.seen(exists, axis)] if silent else []
            lifted = [writer.printer.broadcast(term, (axis,), layout) for term in terms]
            line = f"{name} = tl.where({' & '.join(lifted)}, {name}, 0.0)"
            if stage == Stage.TILE:
                self.under_masks(line)
            else:
                writer.put(line, stage)
        return f"{self.operands[key]}.to(DTYPE)"

    def under_masks(self, line: str) -> None:
        before, self.writer.partial = self.writer.partial, True
        self.writer.put(line, Stage.TILE)
        self.writer.partial = before
