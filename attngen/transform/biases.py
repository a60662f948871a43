"""Biases taken apart: what the elements of a row share is added to the row, and the rest becomes products of a row's and a key's value.

x[m,n] = s[m,n] * c + slope * (n - m)        ->   z[m,n]   = s[m,n] + slope / c * offset(n)
w[m,n] = exp(x[m,n] - m_i[m])                     x_row[m] = slope * (start(n) - start(m)) - slope * offset(m)
                                                  w[m,n]   = exp(z[m,n] * c - (m_i[m] - x_row[m]))

Positions are split into the start of a tile and the offset in it, so that differences of large numbers stay exact and what is left for
each element is small and the same for every tile. Products of sums are multiplied out, cosines and sines of sums follow the addition
theorems, and two reads of one tensor, at the query and at the key, are taken relative to the first position of a tile. What is added to
an exponent of a row is rounded once more: this is for precisions in which that is nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from attngen.ir import build
from attngen.ir.algebra import Product, products, signed_terms, times
from attngen.ir.cascade import Einsum
from attngen.ir.expr import Apply, Const, Expr, Index, Offset, Read, Start
from attngen.ir.names import Names
from attngen.ir.printer import print_expr
from attngen.ir.traverse import free_axes, reads, rewrite, walk
from attngen.transform.partition import Kernel
from attngen.transform.rewrites import Note
from attngen.transform.scales import exponent_row, is_positive, read_by_others


def split_biases(kernel: Kernel) -> tuple[Kernel, tuple[Note, ...]]:
    """The kernel with fewer operations for each pair of positions, and what was done or why not."""
    notes: list[Note] = []
    for step in kernel.steps:
        rows = [row for other in kernel.steps if (row := exponent_row(other, step)) is not None]
        if not rows or len(signed_terms(step.body)) == 1:
            continue
        found = _split(step, rows, kernel)
        if isinstance(found, str):
            notes.append(Note(step.name, kernel.role, False, found))
        else:
            notes.append(Note(step.name, kernel.role, True, found.saving))
            kernel = _replaced(kernel, step, found)
    return kernel, tuple(notes)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A bias apart: `tile` times `scale`, a product for each value of a key, what the row shares, and what all of that saves."""

    tile: Expr
    scale: Expr
    pairs: tuple[tuple[Expr, Expr], ...]
    row: Expr
    saving: str


def _split(step: Einsum, rows: list[Expr], kernel: Kernel) -> _Parts | str:
    pair = {kernel.resident, kernel.streamed or ""}
    others = read_by_others(step, kernel)
    if others:
        return f"{others} needs {step.name} itself"
    along = {axis for row in rows for axis in free_axes(row) if axis in pair}
    if len(along) != 1:
        return f"{step.name} is not measured from one value a row"
    (row_axis,) = along
    (key_axis,) = pair - along
    terms = _Terms(step.body, row_axis, key_axis, kernel.resident).products()
    tiles = [item for item in terms if _axes(item.factors, pair) == pair and not _separates(item, pair)]
    shared = [item for item in terms if key_axis not in _axes(item.factors, pair)]
    rest = [item for item in terms if item not in tiles and item not in shared]
    tile, scale = _main(tiles, kernel)
    pairs = _pairs(rest, key_axis)
    before, after = _operations(step.body, pair), _operations(_sum(tiles), pair) + len(pairs)
    if after >= before:
        return f"{print_expr(_sum([*shared, *rest]))} costs no less for a row and a key than for each pair"
    row = build.apply("to_float", _grouped(shared))
    saving = f"rank {len(pairs)}, {before - after} operations less for each pair"
    return _Parts(tile, scale, pairs, row, saving)


class _Terms:
    """An exponent multiplied out, with positions relative to a tile."""

    def __init__(self, body: Expr, row_axis: str, key_axis: str, resident: str) -> None:
        self.body, self.row_axis, self.key_axis, self.resident = body, row_axis, key_axis, resident
        self.axes = {row_axis, key_axis}
        self.centers: dict[Read, Read] = {}

    def products(self) -> list[Product]:
        """Relative to reads at the start of a tile if these cancel, as they do in distances."""
        self.centers = self.twins()
        found = _collected(products(self.body, self.expand))
        centers = set(self.centers.values())
        if any(factor in centers for item in found for factor in item.factors):
            self.centers = {}
            found = _collected(products(self.body, self.expand))
        return found

    def twins(self) -> dict[Read, Read]:
        """Reads of one tensor at the query and at the key, each with the same read at the start of the resident tile."""
        found = {read: self.at(read, Index("")) for read in reads(self.body) if len(self.axes & set(free_axes(read))) == 1}
        counts = Counter(found.values())
        return {read: self.at(read, Start(self.resident)) for read, shape in found.items() if counts[shape] == 2 and read.kind == "float"}

    def at(self, read: Read, position: Expr) -> Read:
        changed = rewrite(read, lambda node: position if isinstance(node, Index) and node.axis in self.axes else None)
        assert isinstance(changed, Read)
        return changed

    def expand(self, factor: Expr) -> tuple[Product, ...] | None:
        match factor:
            case Index(axis=axis) if axis in self.axes:
                return Product(1.0, (Start(axis),)), Product(1.0, (Offset(axis),))
            case Read() if factor in self.centers:
                center = self.centers[factor]
                return Product(1.0, (build.sub(factor, center),)), Product(1.0, (center,))
            case Apply(op="cos" | "sin" as op, args=(angle,)):
                return self.turned(op, angle)
            case _:
                return None

    def turned(self, op: str, angle: Expr) -> tuple[Product, ...] | None:
        """A cosine or sine of what belongs to the row plus what belongs to the key."""
        terms = _collected(products(angle, self.expand))
        key = [item for item in terms if self.key_axis in _axes(item.factors, self.axes)]
        row = [item for item in terms if item not in key]
        if not key or not row or self.row_axis in _axes([factor for item in key for factor in item.factors], self.axes):
            return None
        u, v = (build.apply("to_float", _grouped(part)) for part in (row, key))
        cos_u, sin_u, cos_v, sin_v = (build.apply(name, of) for of in (u, v) for name in ("cos", "sin"))
        if op == "cos":
            return Product(1.0, (cos_u, cos_v)), Product(-1.0, (sin_u, sin_v))
        return Product(1.0, (sin_u, cos_v)), Product(1.0, (cos_u, sin_v))


def _axes(factors: Iterable[Expr], axes: set[str]) -> set[str]:
    return {axis for factor in factors for axis in free_axes(factor)} & axes


def _separates(item: Product, pair: set[str]) -> bool:
    """Whether each factor belongs to one side."""
    return all(len(_axes((factor,), pair)) < 2 for factor in item.factors)


def _collected(terms: Iterable[Product]) -> list[Product]:
    """Products with equal factors added."""
    found: dict[frozenset[tuple[Expr, int]], Product] = {}
    for term in terms:
        key = frozenset(Counter(term.factors).items())
        found[key] = replace(term, coefficient=term.coefficient + (found[key].coefficient if key in found else 0.0))
    return [item for item in found.values() if item.coefficient != 0.0]


def _main(tiles: list[Product], kernel: Kernel) -> tuple[Expr, Expr]:
    """The values of the pairs and a positive scale of them, 1 where there is none in common."""
    computed = {step.name for step in kernel.steps}
    if len(tiles) == 1 and tiles[0].coefficient > 0:
        wide = [factor for factor in tiles[0].factors if isinstance(factor, Read) and factor.tensor in computed and free_axes(factor)]
        narrow = [factor for factor in tiles[0].factors if factor not in wide]
        if len(wide) == 1 and all(is_positive(factor) for factor in narrow):
            return wide[0], Product(tiles[0].coefficient, tuple(narrow)).expr
    return _sum(tiles), build.ONE


def _pairs(terms: list[Product], key_axis: str) -> tuple[tuple[Expr, Expr], ...]:
    """(value of a row, value of a key): terms with the same value of a key share it."""
    found: dict[frozenset[tuple[Expr, int]], tuple[Expr, list[Product]]] = {}
    for item in terms:
        keys = tuple(factor for factor in item.factors if key_axis in free_axes(factor))
        others = tuple(factor for factor in item.factors if factor not in keys)
        value = times(keys)
        found.setdefault(frozenset(Counter(keys).items()), (value, []))[1].append(Product(item.coefficient, others))
    return tuple((_grouped(parts), value) for value, parts in found.values())


def _grouped(terms: Iterable[Product]) -> Expr:
    """A sum in which whole numbers that share their other factors are added first, exactly."""
    found: dict[frozenset[tuple[Expr, int]], tuple[tuple[Expr, ...], list[Expr]]] = {}
    for item in terms:
        whole = tuple(factor for factor in item.factors if isinstance(factor, Start | Offset))
        others = tuple(factor for factor in item.factors if factor not in whole)
        exact = float(item.coefficient).is_integer() and whole
        count = build.const(int(item.coefficient) if exact else item.coefficient)
        part: Expr = count
        for factor in whole:
            part = build.mul(part, factor) if exact else build.mul(factor, part)
        key = frozenset(Counter((*others, *(Offset(axis) for axis in free_axes(part)))).items())
        found.setdefault(key, (others, []))[1].append(part)
    total: Expr = build.ZERO
    for others, parts in found.values():
        inner = parts[0]
        for part in parts[1:]:
            inner = build.add(inner, part)
        value: Expr = inner
        for factor in others:
            value = build.mul(factor, value) if value is inner else build.mul(value, factor)
        total = value if total == build.ZERO else build.add(total, value)
    return total


def _sum(terms: Iterable[Product]) -> Expr:
    return build.total([item.expr for item in terms])


def _operations(expr: Expr, pair: set[str]) -> int:
    """Arithmetic on whole tiles."""
    return sum(1 for node in walk(expr) if isinstance(node, Apply) and _axes((node,), pair) == pair)


def _replaced(kernel: Kernel, step: Einsum, parts: _Parts) -> Kernel:
    """The exponent without what its rows share, which leaves every weight with the row value it is measured from."""
    names = Names(kernel.cascade)
    tile: Expr = parts.tile
    for row, key in parts.pairs:
        tile = build.add(tile, build.mul(row if parts.scale == build.ONE else _over(row, parts.scale), key))
    steps: list[Einsum] = []
    z = names.fresh(f"{step.name}_tile")
    shared = names.fresh(f"{step.name}_row")
    here = tuple(axis for axis in step.axes if axis in free_axes(parts.row) or axis in kernel.grid or axis in kernel.loops)
    level = build.read(shared, here)
    for other in kernel.steps:
        row = exponent_row(other, step)
        if other is step:
            scaled = build.mul(build.read(z, step.axes), parts.scale)
            steps += [replace(step, name=z, body=tile), Einsum(shared, here, parts.row, loc=step.loc), replace(step, body=scaled)]
        elif row is not None:
            steps.append(replace(other, body=build.exp(build.sub(build.read(step.name, step.axes), build.sub(row, level)))))
        else:
            steps.append(other)
    gauges = tuple(replace(item, shift=level) if item.exponent == step.name else item for item in kernel.gauges)
    return replace(kernel, steps=tuple(steps), gauges=gauges)


def _over(expr: Expr, scale: Expr) -> Expr:
    return build.mul(expr, build.const(1.0 / scale.value)) if isinstance(scale, Const) else build.apply("div", expr, scale)
