"""Values in the text of a printed program: operations, loads, products and reductions, written over what dies where that is possible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from attngen.engine.operations import MIRRORED, SCALARS, WRITES, on_numbers, on_tensors
from attngen.engine.scaled_exponentials import Exponential
from attngen.engine.torch_text import CASTS, DTYPES, Text, Var, python_name
from attngen.errors import InternalError
from attngen.ir import build
from attngen.ir.eval.interpret import operand_kind
from attngen.ir.expr import Apply, Expr, Index, Kind, Read
from attngen.tile.nodes import Axes, Dot, Let, Load


class Values(Text):
    """Statements that make values."""

    def let(self, item: Let) -> None:
        name = python_name(item.name)
        if not isinstance(item.body, Apply):
            found = self.operand(item.body)
            if found.number:
                self.put(f"{name} = {found.text}")
                self.values[item.name] = replace(found, text=name)
                self.filled(item)
                return
            copied = f"{found.text}.clone()" if found.owned else found.text
            found = replace(found, text=copied, owned=found.owned, buffer=None)
        else:
            args = [self.operand(arg) for arg in item.body.args]
            if all(arg.number for arg in args):
                self.put(f"{name} = {on_numbers(item.body.op, [arg.text for arg in args])}")
                self.values[item.name] = Var(name, (), item.kind, number=True)
                self.filled(item)
                return
            found = self.operation(item, item.body, args)
        if set(found.axes) != set(item.axes):
            shape = self.shape(item.axes)
            found = Var(f"{self.aligned(found, item.axes)}.expand({shape})", item.axes, item.kind)
        self.put(f"{name} = {found.text}")
        self.values[item.name] = replace(found, text=name)

    def filled(self, item: Let) -> None:
        """A number as a tensor, where a value has axes that its body does not vary along."""
        if item.axes:
            name = python_name(item.name)
            self.put(f"{name} = torch.full({self.shape(item.axes)}, {name}, dtype={DTYPES[item.kind]})")
            self.values[item.name] = Var(name, item.axes, item.kind, owned=self.now >= 0)

    def exponential(self, item: Exponential) -> None:
        """exp(x * scale - row) with one rounding for the product and the difference."""
        x, row, name = self.values[item.x], self.operand(item.row), python_name(item.name)
        body = Apply("sub", (build.read(item.x, x.axes), item.row))
        if not set(row.axes) <= set(x.axes):
            raise InternalError(f"{item.name} is measured from values of other rows in {self.program.role}")
        out, buffer = self.target("sub", Let(item.name, x.axes, body), x.axes, [x, row])
        scale = self.operand(item.scale).text
        out = out or f"torch.empty({self.shape(x.axes)}, dtype=dtype)"
        self.put(f"{name} = exp_scaled({x.text}, {scale}, {self.aligned(row, x.axes)}, {out})")
        self.values[item.name] = Var(name, x.axes, "float", owned=True, buffer=buffer)

    def operation(self, item: Let, body: Apply, args: list[Var]) -> Var:
        """An operation on tensors."""
        op = body.op
        axes = frozenset(axis for arg in args for axis in arg.axes)
        order = next((arg.axes for arg in args if set(arg.axes) == axes), tuple(axis for axis in item.axes if axis in axes))
        kind = operand_kind(body)
        if op in ("to_float", "to_int", "to_bool"):
            if args[0].kind == item.kind and isinstance(body.args[0], Read):
                # The same memory under another name: neither may be written from now on.
                self.values[body.args[0].tensor] = replace(args[0], owned=False, buffer=None)
            return Var(self.cast(args[0], item.kind), args[0].axes, item.kind)
        if op in ("min", "max") and any(arg.number for arg in args):
            (number,), (tensor,) = [arg for arg in args if arg.number], [arg for arg in args if not arg.number]
            bound = "max" if op == "min" else "min"
            text = f"torch.clamp({self.cast(tensor, kind)}, {bound}={number.text})"
            return Var(text, tensor.axes, item.kind, owned=self.now >= 0)
        if args[0].number and op in MIRRORED and len(args) == 2:
            op, args = MIRRORED[op], args[::-1]
        out, buffer = self.target(op, item, order, args) if item.kind == "float" else ("", None)
        only = all(arg.number for arg in args[1:])
        texts = [self.as_argument(op, place, arg, order, kind, only=only) for place, arg in enumerate(args)]
        return Var(on_tensors(op, texts, out), order, item.kind, owned=self.now >= 0, buffer=buffer)

    def as_argument(self, op: str, place: int, arg: Var, order: Axes, kind: Kind | None, *, only: bool) -> str:
        wanted = None if op == "where" and place == 0 else kind
        if arg.number:
            if place in SCALARS.get(op, ()) and not (op == "where" and place == 2 and only):
                return f"float({arg.text})" if wanted == "float" and arg.kind != "float" else arg.text
            return f"torch.tensor({arg.text}, dtype={DTYPES[wanted or arg.kind]})"
        return self.aligned(replace(arg, text=self.cast(arg, "bool" if op == "where" and place == 0 else wanted)), order)

    def target(self, op: str, item: Let, order: Axes, args: list[Var]) -> tuple[str, int | None]:
        """Where a result is written: over an operand that dies, or for tiles of pairs in a buffer."""
        if op not in WRITES or self.now < 0 or (op == "where" and any(arg.number for arg in args[1:])):
            return "", None
        reads = [arg for arg in item.body.args if isinstance(arg, Read) and arg.at] if isinstance(item.body, Apply) else []
        for read in reads:
            var = self.values.get(read.tensor)
            if var is not None and var.owned and var.axes == order and var.kind == "float" and self.dies.get(read.tensor) == self.now:
                self.values[read.tensor] = replace(var, buffer=None)
                return var.text, var.buffer
        if self.is_pair(order):
            number = self.fresh_buffer()
            return f"scratch({number}, {self.shape(order)})", number
        return "", None

    # ---- loads, products, reductions, masks

    def load(self, item: Load) -> None:
        name, tensor = python_name(item.name), python_name(item.tensor)
        axes: Axes
        if all(isinstance(place, Index) for place in item.at):
            axes = tuple(place.axis for place in item.at if isinstance(place, Index))
            text = f"{tensor}[{', '.join(f'at_{axis}' for axis in axes)}]" if axes else f"{tensor}.reshape(())"
            if len(set(axes)) < len(axes):
                raise InternalError(f"{item.tensor} is read twice along one axis in {self.program.role}")
        else:
            axes = item.axes
            text = f"gather({', '.join((tensor, *self.places(item.at, axes)))})"
            if not any(self.operand(place).axes for place in item.at):
                text = f"torch.as_tensor({text})"
        exact = item.kind == "float" and self.params[item.tensor].axes is not None
        self.put(f"{name} = {text}.{CASTS[item.kind]}")
        self.values[item.name] = Var(name, axes, item.kind, exact=exact)

    def places(self, at: Iterable[Expr], axes: Axes) -> list[str]:
        return [self.aligned(self.operand(place), axes) for place in at]

    def matrix(self, name: str, order: Axes, batch: int, rows: int, *, turned: bool) -> str:
        """A value as a batch of matrices, made once."""
        var = self.values[name]
        places = tuple(var.axes.index(axis) for axis in order)
        key = (name, places, batch, rows)
        if key not in self.matrices:
            text, known = var.text, f"{var.text}_matrix{len(self.matrices) or ''}"
            if self.half and not var.exact:
                text = f"rounded({text}, storage)"
            self.put(f"{known} = matrix({text}, {places}, {batch}, {rows})", outside=name not in self.moving)
            self.matrices[key] = known
        return f"{self.matrices[key]}.mT" if turned else self.matrices[key]

    def dot(self, item: Dot) -> None:
        left, right = self.values[item.left].axes, self.values[item.right].axes
        over = tuple(axis for axis in left if axis in item.over)
        batch = tuple(axis for axis in left if axis in right and axis not in over)
        rows = tuple(axis for axis in left if axis not in right)
        columns = tuple(axis for axis in right if axis not in left)
        axes = (*batch, *rows, *columns)
        a = self.matrix(item.left, (*batch, *rows, *over), len(batch), len(rows), turned=False)
        b = self.matrix(item.right, (*batch, *columns, *over), len(batch), len(columns), turned=True)
        name, add = python_name(item.name), self.values.get(item.add)
        if add is not None and add.owned and add.axes == axes and self.dies.get(item.add) == self.now:
            self.put(f"{name} = add_dot({add.text}, {a}, {b})")
            self.values[item.name] = Var(name, axes, "float", owned=True, buffer=add.buffer)
            return
        buffer = self.fresh_buffer() if self.now >= 0 and self.is_pair(axes) else None
        out = f"scratch({buffer}, {self.shape(axes)})" if buffer is not None else f"torch.empty({self.shape(axes)}, dtype=dtype)"
        added = f".add_({self.aligned(add, axes)})" if add is not None else ""
        self.put(f"{name} = dot({a}, {b}, {out}){added}")
        self.values[item.name] = Var(name, axes, "float", owned=self.now >= 0, buffer=buffer)

    def reduce(self, name: str, op: str, value: Var, over: Axes, kind: Kind) -> None:
        places = tuple(value.axes.index(axis) for axis in over)
        axes = tuple(axis for axis in value.axes if axis not in over)
        function = {"sum": "torch.sum", "max": "torch.amax", "min": "torch.amin", "any": "torch.any"}[op]
        self.put(f"{python_name(name)} = {function}({value.text}, {places})")
        self.values[name] = Var(python_name(name), axes, kind, owned=self.now >= 0)
