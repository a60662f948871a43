"""A tile program: the statements by which one program of a kernel computes its tile, whatever the target.

    tile_program forward(q[b,g,r,m,d], k[b,g,n,d], v[b,g,n,e]) -> o[b,g,r,m,e]
      for tiles of m, in parallel over b, g, r
        q_tile[b,g,r,m,d] = load q[b,g,r,m,d]
        for tiles of n, carrying m_i[b,g,r,m] = -inf then m_i_new
          under masks: valid[m,n] = m >= n
          k_tile[b,g,n,d] = load k[b,g,n,d]
          s[b,g,r,m,n] = dot[d] q_tile, k_tile
          s_seen[b,g,r,m,n] = select s where valid else -inf
          ...
        store o[b,g,r,m,e] = o_value

Values have named axes and are assigned once: a printer derives broadcasts, transposes and layouts from the axes. Expressions are those of
`ir.expr`; a value of the program is read at its own axes. A loop and its carried values are one record, so that no pass needs a notion of
mutation. What holds in every element of a tile may be left out in FULL tiles: masks stand apart (`Loop.masks`), and `Select` does nothing
in a FULL tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from attngen.analysis.kv_ranges import KvRanges
from attngen.ir.expr import Expr, Kind

Reduction = Literal["sum", "max", "min", "any"]
Axes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Let:
    """A pointwise value."""

    name: str
    axes: Axes
    body: Expr
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Load:
    """A tensor's elements at positions: one for each of its dimensions. A position that is an axis is a slice, a computed one a gather."""

    name: str
    axes: Axes
    tensor: str
    at: tuple[Expr, ...]
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Dot:
    """`sum[over] left * right`, both rounded to the type of the arguments and accumulated in that of statistics; `add` is added."""

    name: str
    axes: Axes
    left: str
    right: str
    over: Axes
    add: str = ""
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction of a tile over some of its axes: a sum, a maximum or minimum, or whether any element holds."""

    name: str
    axes: Axes
    op: Reduction
    value: str
    over: Axes
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Select:
    """The value where a mask holds, else `missing`. In a FULL tile it is the value."""

    name: str
    axes: Axes
    value: str
    mask: str
    missing: float
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Store:
    """Write a value to an output at its own axes; `adds` to what other programs have added."""

    tensor: str
    axes: Axes
    value: str
    adds: bool = False


@dataclass(frozen=True, slots=True)
class Scatter:
    """Write a tile of pairs to the gradient of a tensor that is read at `at`, where `mask` holds; "" everywhere.

    `form` is that of `kernel.scatter`: "stored" writes the elements, the others a buffer of tiles and one of `keys`, the places of
    dimensions `keys` as one number.
    """

    tensor: str
    target: str
    axes: Axes
    value: str
    at: tuple[Expr, ...]
    form: Literal["stored", "diagonals", "sorted"]
    mask: str
    keys: tuple[int, ...] = ()
    column_axes: Axes = ()


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that an iteration hands to the next: `init` before the first one, `next` after each."""

    name: str
    axes: Axes
    init: Expr
    next: str
    kind: Kind = "float"


@dataclass(frozen=True, slots=True)
class Loop:
    """The loop over tiles of an axis.

    Attributes:
        axis: that it goes over.
        ranges: where a tile may hold anything and where it is FULL.
        bounds: for each piece of `ranges` the names of its bounds, values of the prologue: `may.lo`, `may.hi`, `must.lo`, `must.hi`.
        visited: of `masks`, the truth tile that says which elements exist at all; "" if all do.
        carried: values that go from one iteration to the next.
        masks: statements whose values only `Select`, `Scatter` and `visited` read, for tiles that are not FULL.
        body: the other statements.
    """

    axis: str
    ranges: KvRanges
    bounds: tuple[tuple[str, ...], ...]
    visited: str
    carried: tuple[Carry, ...]
    masks: tuple[Statement, ...]
    body: tuple[Statement, ...]


Statement = Let | Load | Dot | Reduce | Select | Store | Scatter
Value = Let | Load | Dot | Reduce | Select


@dataclass(frozen=True, slots=True)
class Param:
    """A tensor or a number of the program: read, or written if it is an `output`. `axes` is None for what is indexed freely."""

    name: str
    axes: Axes | None
    kind: Kind = "float"
    number: bool = False
    output: bool = False


@dataclass(frozen=True, slots=True)
class TileProgram:
    """One kernel.

    Attributes:
        role: of the kernel.
        params: inputs, then outputs.
        parallel: the axis whose tiles programs own.
        grid: the other axes of the grid.
        summed: axes that a program sums over, like those of the grid for all else.
        split: the axis of the grid that numbers the slices of the loop axis; "" for none.
        prologue, epilogue: before and after the loop.
        loop: None for a rowwise program.
    """

    role: str
    params: tuple[Param, ...]
    parallel: str
    grid: Axes
    summed: Axes
    prologue: tuple[Statement, ...]
    loop: Loop | None = None
    epilogue: tuple[Statement, ...] = ()
    split: str = ""

    @property
    def statements(self) -> Iterator[Statement]:
        """All of them, in order."""
        yield from self.prologue
        if self.loop is not None:
            yield from self.loop.masks
            yield from self.loop.body
        yield from self.epilogue
