"""How kernels spell what depends on where values live: in plain Triton the compiler decides that, in Gluon the text does.

A `Dialect` belongs to one kernel. Everything else, expressions above all, is the same text in both languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from attngen.emit.identifiers import Code

if TYPE_CHECKING:
    from attngen.emit.builder import Writer
    from attngen.emit.expression import Layout
    from attngen.emit.lower import Lowering
    from attngen.emit.software_pipeline import PrefetchedDots


@dataclass(frozen=True, slots=True)
class Rows:
    """A matrix whose rows stream, or a stack of them, in the terms of a kernel.

    Attributes:
        name: what its tiles are taken from. tile: what they are called.
        first: address of its first element.
        length, stride, width: rows, elements from one to the next, and columns.
        start: the first row of a tile. blocks: rows and columns of one.
        heads, head: how many matrices and from one to the next, which of them and the same; () for one alone.
    """

    name: str
    tile: str
    first: str
    length: str
    stride: str
    width: str
    start: str
    blocks: tuple[str, str]
    heads: tuple[str, ...] = ()
    head: tuple[str, ...] = ()


class Dialect:
    """Plain Triton."""

    language = "tl"
    vectors = True
    """Whether descriptors fetch vectors too."""

    def place(self, layout: Layout) -> str:
        """The last argument of what makes a value: where it lives."""
        return ""

    def positions(self, axis: str, first: str, end: str) -> str:
        """Whole numbers from `first` up to `end`, along an axis."""
        return f"{self.language}.arange({first}, {end}{self.place((axis,))})"

    def filled(self, shape: tuple[str, ...], layout: Layout, value: str = "") -> str:
        """A tile of one value, 0 unless given, in the type of sums."""
        text, place = f"({', '.join(shape)}{',' if len(shape) == 1 else ''})", self.place(layout)
        return f"{self.language}.full({text}, {value}, ACC{place})" if value else f"{self.language}.zeros({text}, ACC{place})"

    def scalar(self, text: str, dtype: str) -> str:
        """A constant of a type."""
        return f"tl.full((), {text}, {dtype})"

    def lift(self, writer: Writer, text: str, own: Layout, layout: Layout) -> str:
        """A value in a tile of more axes."""
        return f"{text}[{', '.join(':' if axis in own else 'None' for axis in layout)}]"

    def in_memory(self, writer: Writer, text: str, own: Layout, layout: Layout) -> str:
        """The same in a tile of addresses."""
        return self.lift(writer, text, own, layout)

    def loaded(self, text: str, layout: Layout) -> str:
        """What was loaded from a tile of addresses."""
        return text

    def stored(self, text: str, layout: Layout) -> str:
        """What goes to a tile of addresses."""
        return text

    def matrix(self, writer: Writer, rows: Rows) -> str:
        """What tiles of a matrix come from."""
        made = "tiled_heads" if rows.head else "tiled"
        writer.use(made)
        return f"{made}({', '.join((rows.first, *rows.heads, rows.length, rows.stride, rows.width, *rows.blocks))}, TMA)"

    def fetch(self, writer: Writer, rows: Rows, ok: str, full: str) -> str:
        """Its tile of this turn; `ok`: which of its elements exist, `full`: when all do."""
        made = "fetch_head" if rows.head else "fetch"
        writer.use(made)
        return f"{made}({', '.join((rows.name, *rows.head, rows.start, rows.stride, ok, *rows.blocks))}, {full}, TMA)"

    def product(self, writer: Writer, sides: tuple[str, str], total: str, *, prefetched: bool) -> str:
        """A product over features, added to `total` unless that is "".

        Args:
            sides: what stays and what streams, by rows.
            ahead: whether it is formed in the turn before; some forms add it by itself then.
        """
        a, b = sides
        if total and prefetched:
            writer.use("add_product")
            return f"add_product({a}, tl.trans({b}), {total}, ACC, EARLY)"
        return f'tl.dot({a}, tl.trans({b}){f", {total}" if total else ""}, input_precision="ieee", out_dtype=ACC)'

    def accumulate(self, writer: Writer, sides: tuple[str, str], total: str, feature: str) -> str:
        """A product over what streams, added to `total`, whose columns are a feature axis."""
        a, b = sides
        return f'tl.dot({a}, {b}, {total}, input_precision="ieee", out_dtype=ACC)'

    def compared(self, writer: Writer, sides: tuple[str, str], sign: Literal["<", ">="], *, prefetched: bool) -> str:
        """A truth tile; `prefetched`: of a kernel whose products are formed in the turn before."""
        if not prefetched:
            return f"{sides[0]} {sign} {sides[1]}"
        writer.use("below")
        return f"{'' if sign == '<' else '~'}below({sides[0]}, {sides[1]}, EARLY)"

    def row_sum(self, text: str, layout: Layout) -> str:
        """The sums of a tile's rows."""
        return f"tl.sum({text}, 1)"

    def row_max(self, text: str, layout: Layout) -> str:
        """The maxima of a tile's rows."""
        return f"tl.max({text}, 1)"

    def prefetched(self, lowering: Lowering) -> PrefetchedDots:
        """The products that are formed in the turn before."""
        from attngen.emit.software_pipeline import PrefetchedDots

        return PrefetchedDots(lowering)


PLAIN = Dialect()


def shape_of(writer: Writer, layout: Layout) -> tuple[Code, ...]:
    """Extents of a tile."""
    return tuple(Code(writer.block(axis)) for axis in layout)
