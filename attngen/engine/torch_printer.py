"""A tile program as straight-line PyTorch source: batched over the grid, tiles of its axes one after the other.

    for at_b, at_g, at_r in chunks((len_b, len_g, len_r), 0, -1, (len_m, len_n)):
        for at_m in tiles(begin, end, block):
            q_value = q[at_b, at_g, at_r, at_m, :len_d]
            for at_n, full in loop_tiles([(0, last + 1, 0, first + 1)], slice(0, len_n), loop_block):
                s = dot(q_matrix, k_matrix, scratch(0, (size_b, size_g, size_r, size_m, size_n)))
                ...

All programs of one tile are computed at once, so that bounds are numbers, K and V are views, and the query heads of a group are rows of one
product. What dies where it is last read gives its memory to the result; tiles of pairs live in a few buffers. Half precision is computed in
fp32 and rounded where the program rounds: operands of dots, and what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from attngen.engine.scaled_exponentials import Exponentials, exponentials
from attngen.engine.torch_text import INDENT, Var, literal, python_name
from attngen.engine.torch_values import Values
from attngen.ir.traverse import names_read
from attngen.tile.dead_code import dead_code
from attngen.tile.nodes import Carry, Dot, Let, Load, Loop, Reduce, Scatter, Select, Statement, Store, TileProgram
from attngen.tile.operands import names_of
from attngen.tile.three_address import three_address


def print_torch(program: TileProgram, half: bool) -> Printed:
    """The source of a function that runs a program.

    Args:
        program: as lowered.
        half: whether arguments are of half precision.
    """
    printer = _Printer(three_address(dead_code(program)), half)
    return Printed(printer.run(), printer.tensors(), printer.lengths())


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed program.

    Attributes:
        text: of a module with one function, `run(dtype, storage, tensors..., lengths..., begin, end, first_row)`.
        tensors: names of the tensors and numbers that it takes, in order.
        axes: those whose lengths it takes, in order.
    """

    text: str
    tensors: tuple[str, ...]
    axes: tuple[str, ...]


class _Printer(Values):
    """The function of a program."""

    # ---- the function

    def run(self) -> str:
        program = self.program
        names = ", ".join(
            (*(python_name(name) if name in self.params else name for name in self.tensors()), *(f"len_{axis}" for axis in self.lengths()))
        )
        self.lines = [f"def run(dtype, storage, {names}, begin, end, first_row):"]
        self.put("scratch = scratch_of(dtype)")
        whole = ", ".join(f"len_{axis}" for axis in self.heads)
        ats = ", ".join(f"at_{axis}" for axis in self.heads)
        single = self.heads.index(program.split) if program.split else -1
        if self.heads:
            pair = f"(end - begin, {f'len_{self.axis}' if self.axis else '1'})"
            self.put(f"for {ats}, in chunks(({whole},), {len(program.summed)}, {single}, {pair}):")
        else:
            self.put("for _ in (0,):")
        self.depth += 1
        for axis in self.heads:
            self.put(f"size_{axis} = at_{axis}.stop - at_{axis}.start")
        self.put(f"block, loop_block = block_of(({', '.join(f'size_{axis}' for axis in self.heads)}{',' if self.heads else ''}))")
        for axis in sorted(self.axes_read() - {*self.heads, program.parallel, self.axis}):
            self.put(f"at_{axis}, size_{axis} = slice(0, len_{axis}), len_{axis}")
        self.base({axis for axis, _ in self.bases} - {program.parallel, self.axis}, self.bases)
        self.put(f"for at_{program.parallel} in tiles(begin, end, block):")
        self.depth += 1
        self.put(f"first, last = at_{program.parallel}.start, at_{program.parallel}.stop - 1")
        self.put(f"size_{program.parallel} = last + 1 - first")
        self.base({program.parallel}, self.bases)
        for item in program.prologue:
            self.statement(item)
        if self.loop is not None:
            self.iterations(self.loop)
        for item in program.epilogue:
            self.statement(item)
        return "\n".join(self.lines) + "\n"

    def tensors(self) -> tuple[str, ...]:
        """Parameters that statements read or write, and the buffers of scatters."""
        used: set[str] = set()
        buffers: list[str] = []
        for item in self.program.statements:
            used |= set(names_of(item))
            if isinstance(item, Load | Store):
                used.add(item.tensor)
            elif isinstance(item, Scatter):
                used.add(item.tensor if item.form == "stored" else item.target)
                buffers += [] if item.form == "stored" else [f"tiles_{python_name(item.tensor)}", f"keys_{python_name(item.tensor)}"]
        return (*(item.name for item in self.program.params if item.name in used), *buffers)

    def lengths(self) -> tuple[str, ...]:
        """Axes whose lengths the text has."""
        return tuple(sorted({*self.heads, self.program.parallel, *self.axes_read(), *([self.axis] if self.axis else [])}))

    # ---- the loop

    def iterations(self, loop: Loop) -> None:
        numbers = {name for name, value in self.values.items() if value.number}
        fused = exponentials(loop.body, {*self.numbers, *numbers})
        self.lifetimes(loop, fused)
        for carry in loop.carried:
            self.begin(carry)
        pieces = ", ".join(f"({', '.join(self.values[name].text for name in piece)})" for piece in loop.bounds)
        full = 0 if loop.masks else f"len_{loop.axis}"
        pieces = pieces or f"(0, len_{loop.axis}, 0, {full})"
        split = self.program.split
        part = f"slice_of(at_{split}.start, len_{split}, len_{loop.axis})" if split else f"slice(0, len_{loop.axis})"
        self.hoisted = len(self.lines)
        statements = (*loop.masks, *loop.body)
        self.moving = frozenset({getattr(item, "name", "") for item in statements} | {carry.name for carry in loop.carried})
        self.put(f"for at_{loop.axis}, full in loop_tiles([{pieces}], {part}, loop_block):")
        self.depth += 1
        self.put(f"size_{loop.axis} = at_{loop.axis}.stop - at_{loop.axis}.start")
        here = self.positions_read(loop.body)
        self.base({loop.axis}, here)
        if loop.masks:
            self.under_masks(loop, [base for base in self.positions_read(loop.masks) if base not in here])
        for self.now, item in enumerate(loop.body):
            if item not in fused.absorbed:
                self.exponential(fused.found[item.name]) if isinstance(item, Let) and item.name in fused.found else self.statement(item)
            self.release()
        self.now = -1
        for carry in loop.carried:
            found = self.values[carry.next]
            text = self.aligned(found, carry.axes)
            text = text if found.owned and text == found.text else f"{text}.expand({self.shape(carry.axes)}).clone()"
            self.put(f"{self.values[carry.name].text} = {text}")
        self.hoisted = None
        self.matrices = {key: text for key, text in self.matrices.items() if key[0] not in self.moving}
        self.depth -= 1

    def lifetimes(self, loop: Loop, fused: Exponentials) -> None:
        """The statement of the body after which each of its values is not read any more."""
        kept = {carry.next for carry in loop.carried}
        for place, item in enumerate(loop.body):
            whole = fused.found.get(getattr(item, "name", ""))
            for name in (*names_of(item), *((whole.x, *names_read(whole.row)) if whole is not None else ())):
                self.dies[name] = place
            if not isinstance(item, Store | Scatter):
                self.dies.setdefault(item.name, place)
        mine = {item.name for item in loop.body if not isinstance(item, Store | Scatter)} | {carry.name for carry in loop.carried}
        self.dies = {name: place for name, place in self.dies.items() if name in mine and name not in kept}

    def release(self) -> None:
        """Give back the buffers of what was last read by now."""
        for name, place in self.dies.items():
            if place == self.now and name in self.values and self.values[name].buffer is not None:
                self.used.discard(self.values[name].buffer or 0)

    def begin(self, carry: Carry) -> None:
        """What a carried value is before the loop."""
        init = self.operand(carry.init)
        shape = self.shape(carry.axes)
        name = python_name(carry.name)
        if init.number:
            self.put(f"{name} = torch.full({shape}, {init.text}, dtype=dtype)")
        else:
            self.put(f"{name} = {self.aligned(init, carry.axes)}.expand({shape}).clone()")
        self.values[carry.name] = Var(name, carry.axes, carry.kind, owned=True)

    def under_masks(self, loop: Loop, bases: Iterable[tuple[str, bool]]) -> None:
        """Truth tiles of a tile that is not FULL, which is passed over if none of its elements exist."""
        self.put("if not full:")
        self.depth += 1
        self.base({loop.axis}, bases)
        for item in loop.masks:
            self.statement(item)
        if loop.visited and not loop.ranges.tight:
            visited = self.values[loop.visited].text
            self.put(f"if not {visited}.any():" if not self.values[loop.visited].number else f"if not {visited}:")
            self.put(f"{INDENT}continue")
        for item in loop.body:
            if isinstance(item, Select) and item.mask in {mask.name for mask in loop.masks if not isinstance(mask, Store | Scatter)}:
                self.words_of(item)
        self.depth -= 1

    def words_of(self, item: Select) -> None:
        """The words of a truth tile, made once; of a row of truth values whether all of them hold."""
        mask = self.values[item.mask]
        if mask.number:
            return
        if {self.program.parallel, self.axis} <= set(mask.axes):
            words = f"{mask.text}_words"
            if (item.mask, 0.0) not in self.words:
                self.words[item.mask, 0.0] = words
                self.put(f"{words} = bits({mask.text}, dtype)")
            if item.missing and (item.mask, item.missing) not in self.words:
                self.words[item.mask, item.missing] = f"{mask.text}_lowest"
                self.put(f"{mask.text}_lowest = lowest({words})")
        elif item.mask not in self.prepared:
            self.prepared.add(item.mask)
            self.put(f"every_{mask.text} = bool({mask.text}.all())")

    # ---- statements

    def statement(self, item: Statement) -> None:
        match item:
            case Let():
                self.let(item)
            case Load():
                self.load(item)
            case Dot():
                self.dot(item)
            case Reduce(name=name, op=op, value=value, over=over, kind=kind):
                self.reduce(name, op, self.values[value], over, kind)
            case Select():
                self.select(item)
            case Store():
                self.store(item)
            case Scatter():
                self.scatter(item)

    def select(self, item: Select) -> None:
        """In place where the value dies; a view of memory is not touched."""
        name, value, mask = python_name(item.name), self.values[item.value], self.values[item.mask]
        order = value.axes if set(item.axes) == set(value.axes) else item.axes
        missing = literal(item.missing)
        self.put(f"{name} = {value.text}" if order == value.axes else f"{name} = {self.aligned(value, order)}.expand({self.shape(order)})")
        dying = value.owned and order == value.axes and self.dies.get(item.value) == self.now
        words = self.words.get((item.mask, 0.0))
        self.put(f"if not (full or every_{mask.text}):" if words is None and item.mask in self.prepared else "if not full:")
        if dying and words is not None and value.kind == "float":
            texts = [words, *([self.words[item.mask, item.missing]] if item.missing else [])]
            self.put(f"{INDENT}keep({', '.join((name, *(self.aligned(replace(mask, text=text), order) for text in texts)))})")
        else:
            chosen = mask.text if mask.number else self.aligned(mask, order)
            chosen = f"torch.tensor({chosen})" if mask.number else chosen
            self.put(f"{INDENT}{name} = torch.where({chosen}, {name}, {missing})")
        # What is not over yet shares its memory with the result in FULL tiles: neither may be written from now on.
        self.values[item.value] = replace(value, buffer=None, owned=False)
        buffer = value.buffer if dying else None
        self.values[item.name] = Var(name, order, value.kind, owned=dying, buffer=buffer, exact=value.exact)

    # ---- results

    def store(self, item: Store) -> None:
        value, own = self.values[item.value], self.params[item.tensor].axes or ()
        index = ", ".join(f"at_{axis}" for axis in own)
        target = f"{python_name(item.tensor)}[{index}]"
        text = value.text if value.number else self.aligned(value, own)
        verb = "add_" if item.adds else "fill_" if value.number else "copy_"
        self.put(f"{target}.{verb}({text})")

    def scatter(self, item: Scatter) -> None:
        """Into the gradient, or into a buffer of a chunk of rows with the places of its elements."""
        name, value = python_name(item.tensor), self.values[item.value]
        mask = self.values[item.mask] if item.mask else None
        if item.form == "stored":
            axes = item.axes
            chosen = "None" if mask is None else f"None if full else {self.aligned(mask, axes)}"
            at = ", ".join(self.places(item.at, axes))
            self.put(f"scatter({name}, ({at},), {self.aligned(value, axes)}.expand({self.shape(axes)}), {chosen})")
            return
        heads = tuple(axis for axis in item.axes if axis not in (self.program.parallel, self.axis))
        pair = (self.program.parallel, self.axis)
        rows = f"slice(first - first_row, last + 1 - first_row), at_{self.axis}"
        whole, kept = (*heads, *pair), (*(axis for axis in heads if axis not in item.column_axes), *pair)
        index = "".join(f"at_{axis}, " for axis in heads)
        kept_index = "".join(f"at_{axis}, " for axis in kept[:-2])
        at = ", ".join(self.places((item.at[i] for i in item.keys), kept))
        sizes = ", ".join(f"{python_name(item.target)}.shape[{i}]" for i in item.keys)
        chosen = "None" if mask is None else f"None if full else {self.aligned(mask, kept)}"
        self.put(f"places = scatter_keys(({at},), ({sizes},), {chosen}, {self.shape(kept)})")
        self.put(f"keys_{name}[{kept_index}{rows}] = places")
        absent = self.aligned(Var("(places < 0)", kept, "bool"), whole)
        self.put(f"tiles_{name}[{index}{rows}] = {self.aligned(value, whole)}.masked_fill({absent}, 0)")
