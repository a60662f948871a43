"""The package around an emitted module: a function over whole tensors, differentiable, with its tiles in a table.

Takes a variant, how its arguments look to a user, and its tiles; gives the text of an `__init__.py` that stands beside the
`kernels.py` of the same program. It checks shapes, splits heads and binds the kernels to autograd; nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from attngen.emit.context import DeployContext, DeployRow
from attngen.emit.environment import render_template
from attngen.emit.format import WIDTH, break_lines
from attngen.emit.identifiers import Code, comment, folded, identifier, number, tensor_name
from attngen.emit.render import check
from attngen.errors import UnsupportedError
from attngen.ir.cascade import Cascade, Input, operand_of, without_features
from attngen.ir.expr import Apply, Expr, Extent, Index, Read
from attngen.ir.traverse import walk

Pattern = tuple[tuple[str, ...], ...]
Tiles = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Surface:
    """How a variant looks to its user, and what its module keeps for the backward.

    Attributes:
        name: of the package. title: what it computes, one line. version: of attngen.
        cascade: its inputs are the parameters of the emitted module.
        features: the axes whose lengths decide the tiles.
        saved: steps that the backward reads. cotangents: (output, name of its cotangent).
        arguments, outputs: names with the axes of each dimension, in call and return order.
        on_request: outputs returned only when asked for.
        keys: names of the results if they are returned as a dict.
        refused: inputs whose gradients no kernel computes; ungraded: outputs through which none goes.
    """

    name: str
    title: str
    version: str
    cascade: Cascade
    features: tuple[str, ...]
    saved: tuple[str, ...]
    cotangents: tuple[tuple[str, str], ...]
    arguments: tuple[tuple[str, Pattern], ...]
    outputs: tuple[tuple[str, Pattern], ...]
    on_request: tuple[str, ...]
    keys: tuple[str, ...] | None
    refused: tuple[str, ...] = ()
    ungraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Tiles by role for one architecture, dtype and the lengths of the feature axes; `module` holds the kernels."""

    arch: str
    dtype: str
    lengths: tuple[int, ...]
    tiles: Tiles
    module: str


def render_package(surface: Surface, rows: tuple[Row, ...]) -> str:
    """The text of `__init__.py`.

    Raises:
        UnsupportedError: the lengths of the axes cannot be read off the arguments.
    """
    source = break_lines(render_template("deploy.py.j2", deploy=_Deploy(surface).context(rows)))
    check(source, siblings=tuple(row.module for row in rows))
    return source


class _Deploy:
    """Collects the lines of the package."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.inputs = surface.cascade.inputs
        self.captures = tuple(item for item in self.inputs if item.axes is None)
        self.plain = tuple(tensor_name(item.name) for item in self.inputs if item.by_value)
        self.outputs = surface.cascade.outputs
        self.extras = tuple(name for name in surface.saved if name not in self.outputs)
        self.cotangents = dict(surface.cotangents)

    def context(self, rows: tuple[Row, ...]) -> DeployContext:
        surface = self.surface
        names = [tensor_name(item.name) for item in self.inputs]
        computed = [tensor_name(name) for name in (*self.outputs, *self.extras)]
        returned = [tensor_name(name) for name, _ in surface.outputs if name not in surface.on_request]
        kept = [tensor_name(item.name) for item in self.inputs if not item.by_value]
        kept += [tensor_name(name) for name in self.surface.saved]
        requests = [f"return_{name}=False" for name in surface.on_request]
        lengths = self.lengths()
        imports = tuple(dict.fromkeys(identifier(row.module) for row in rows))
        modules = tuple(dict.fromkeys(Code(f'("{row.dtype}", {_lengths(row)}): {identifier(row.module)}') for row in rows))
        settings = (Code("tiles"),) if len(imports) == 1 else (Code("module"), Code("tiles"))
        return DeployContext(
            title=comment(surface.title),
            version=comment(surface.version),
            name=identifier(surface.name),
            results=Code("results" if surface.keys is not None else ", ".join(returned)),
            positional=tuple(names),
            features=tuple(identifier(axis) for axis in surface.features),
            rows=tuple(_row(row) for row in rows),
            params=(*names, Code("*"), *(Code(identifier(text.partition("=")[0]) + "=False") for text in requests), Code("tiles=None")),
            arguments=tuple(self.arguments()),
            returns=tuple(self.returns()),
            ranks=tuple(self.ranks(single=False)),
            singles=tuple(self.ranks(single=True)),
            lengths=tuple(lengths),
            checks=tuple(self.checks()),
            views=tuple(self.views()),
            model=self.model(),
            extents=tuple(Code(f"len_{axis}") for axis in surface.features),
            values=tuple(names),
            unpacked=_targets(computed, len(surface.outputs)),
            joins=tuple(self.joins()),
            tail=tuple(self.tail()),
            dense=tuple(Code(f"{tensor_name(item.name)} = dense({tensor_name(item.name)})") for item in self.inputs if self.is_wide(item)),
            computed=Code(", ".join(computed)),
            kept=tuple(dict.fromkeys(kept)),
            remembered=tuple(self.remembered()),
            recalled=self.recalled(),
            cotangents=(*(self.cotangent(name) for name in self.outputs), *(Code(f"_{i}") for i, _ in enumerate(self.extras))),
            restored=Code(", ".join(dict.fromkeys(kept)) + ("," if len(kept) == 1 else "")),
            names=tuple(Code(f'"{name}"') for name in names),
            backward=tuple(self.backward()),
            indexes=bool(self.reaches()),
            refuses=bool(surface.refused),
            ends=bool(surface.ungraded),
            imports=imports,
            modules=modules if len(imports) > 1 else (),
            settings=settings,
            module=Code("kernels" if len(imports) == 1 else "module"),
            remembered_module=Code("kernels" if len(imports) == 1 else "ctx.module"),
            ungraded=Code(", ".join("None" for _ in settings)),
            first=number(len(settings)),
        )

    def model(self) -> Code:
        """The argument whose dtype that of the kernels is."""
        return tensor_name(operand_of(self.inputs, self.surface.features).name)

    def is_wide(self, item: Input) -> bool:
        """Whether the last dimension holds features, which kernels expect to be contiguous."""
        return item.axes is not None and item.axes[-1:] != () and item.axes[-1] in self.surface.features

    def cotangent(self, output: str) -> Code:
        return tensor_name(self.cotangents.get(output, f"d{output}"))

    def ranks(self, *, single: bool) -> list[Code]:
        """Arguments with their ranks: those that are integers or may be fp32 beside others, or the rest."""
        names = {item.name for item in without_features(self.inputs, self.surface.features)}
        names |= {item.name for item in self.inputs if item.kind != "float"}
        wanted = [(tensor_name(name), len(pattern)) for name, pattern in self.surface.arguments if (name in names) == single]
        return [Code(f"{name}=({name}, {rank})") for name, rank in wanted]

    # ---- documentation

    def arguments(self) -> list[Code]:
        found: list[str] = [f"{tensor_name(name)}: {_show(pattern)}." for name, pattern in self.surface.arguments]
        found += [f"{tensor_name(item.name)}: {_kind(item)}." for item in self.captures]
        for name in self.surface.on_request:
            pattern = dict(self.surface.outputs)[name]
            found.append(f"return_{name}: also return {name}, {_show(pattern)}, a row statistic in fp32.")
        found.append("tiles: blocks, warps and stages by kernel, in place of a row of TILES.")
        return [line for text in found for line in folded(text, WIDTH - 8)]

    def returns(self) -> list[Code]:
        wanted = [(name, pattern) for name, pattern in self.surface.outputs if name not in self.surface.on_request]
        text = "; ".join(f"{name}: {_show(pattern)}" for name, pattern in wanted)
        floats = [str(tensor_name(item.name)) for item in self.inputs if item.differentiable and item.name not in self.surface.refused]
        return list(folded(f"{text}. Gradients reach {', '.join(floats)}.", WIDTH - 8))

    # ---- lengths and checks

    def lengths(self) -> list[Code]:
        """One statement for each axis that the arguments tell, or else captured rows."""
        found: dict[str, Code] = {}
        dims = [(tensor_name(name), i, dim) for name, pattern in self.surface.arguments for i, dim in enumerate(pattern)]
        for name, i, dim in dims:
            if len(dim) == 1:
                found.setdefault(dim[0], Code(f"len_{dim[0]} = {name}.shape[{i}]"))
        for name, i, dim in dims:
            unknown = [axis for axis in dim if axis not in found]
            if len(unknown) > 1:
                raise UnsupportedError(
                    f"the lengths of {' and '.join(unknown)} cannot be told apart",
                    remedy="Give an argument one of these axes as a dimension.",
                )
            for axis in unknown:
                others = " * ".join(f"len_{other}" for other in dim if other != axis)
                found[axis] = Code(f"len_{axis} = {name}.shape[{i}] // max({others}, 1)")
        for node, name in self.captured():
            for i, at in enumerate(node.at):
                if isinstance(at, Index):
                    found.setdefault(at.axis, Code(f"len_{at.axis} = {name}.shape[{i}]"))
        return list(found.values())

    def captured(self) -> list[tuple[Read, Code]]:
        """Every read of a captured tensor, with its name."""
        names = {item.name: tensor_name(item.name) for item in self.captures}
        exprs = (expr for step in self.surface.cascade.steps for expr in (step.body, step.where) if expr is not None)
        return [(node, names[node.tensor]) for expr in exprs for node in walk(expr) if isinstance(node, Read) and node.tensor in names]

    def checks(self) -> list[Code]:
        lines: list[Code] = []
        model = self.model()
        for name, pattern in self.surface.arguments:
            shape = ", ".join(" * ".join(f"len_{axis}" for axis in dim) for dim in pattern)
            lines.append(Code(f'check_shape("{tensor_name(name)}", {tensor_name(name)}, ({shape}{"," if len(pattern) == 1 else ""}))'))
        scalars = [tensor_name(item.name) for item in self.captures if item.rank == 0 and not item.by_value]
        refused = [tensor_name(name) for name in self.surface.refused]
        lines += [Code(f'refuse_gradient("{name}", {name})') for name in refused]
        lines += [Code(f"{name} = torch.as_tensor({name}, device={model}.device)") for name in scalars]
        return [*lines, *self.reaches()]

    def reaches(self) -> list[Code]:
        """How far captured tensors must reach where plain positions index them."""
        found: dict[Code, None] = {}
        for node, name in self.captured():
            for position, at in enumerate(node.at):
                length = _reach(at)
                if length:
                    found[Code(f'check_length("{name}", {name}, {position}, {length})')] = None
        return list(found)

    # ---- from whole tensors to split ones and back

    def views(self) -> list[Code]:
        lines: list[Code] = []
        for name, pattern in self.surface.arguments:
            for position in range(len(pattern) - 1, -1, -1):
                if len(pattern[position]) > 1:
                    sizes = ", ".join(f"len_{axis}" for axis in pattern[position])
                    lines.append(Code(f"{tensor_name(name)} = {tensor_name(name)}.unflatten({position}, ({sizes}))"))
        return lines

    def joins(self) -> list[Code]:
        graded = ", ".join(tensor_name(item.name) for item in self.inputs if item.differentiable)
        ungraded = [tensor_name(name) for name in self.surface.ungraded]
        lines = [Code(f'{name} = Ungraded.apply("{name}", {name}, {graded})') for name in ungraded]
        for name, pattern in self.surface.outputs:
            for position, dim in enumerate(pattern):
                if len(dim) > 1:
                    lines.append(Code(f"{tensor_name(name)} = {tensor_name(name)}.flatten({position}, {position + len(dim) - 1})"))
        return lines

    def tail(self) -> list[Code]:
        """What is returned, with and without what was asked for."""
        surface = self.surface
        always = [name for name, _ in surface.outputs if name not in surface.on_request]
        lines: list[Code] = []
        if surface.on_request:
            condition = " or ".join(f"return_{name}" for name in surface.on_request)
            lines += [Code(f"if {condition}:"), Code(f"    return {self.results([name for name, _ in surface.outputs])}")]
        return [*lines, Code(f"return {self.results(always)}")]

    def results(self, names: list[str]) -> str:
        if self.surface.keys is None:
            return ", ".join(tensor_name(name) for name in names)
        labels = dict(zip((name for name, _ in self.surface.outputs), self.surface.keys, strict=False))
        return "{" + ", ".join(f'"{identifier(labels.get(name, name))}": {tensor_name(name)}' for name in names) + "}"

    # ---- autograd

    def remembered(self) -> list[Code]:
        lines: list[Code] = []
        if self.plain:
            lines.append(Code(f"ctx.plain = ({', '.join(self.plain)}{',' * (len(self.plain) == 1)})"))
        if fixed := (*self.surface.ungraded, *self.extras):
            lines.append(Code(f"ctx.mark_non_differentiable({', '.join(map(tensor_name, fixed))})"))
        return lines

    def recalled(self) -> tuple[Code, ...]:
        if not self.plain:
            return ()
        return (Code(f"({self.plain[0]},) = ctx.plain" if len(self.plain) == 1 else f"{', '.join(self.plain)} = ctx.plain"),)

    def backward(self) -> list[Code]:
        inputs = [tensor_name(item.name) for item in self.inputs]
        saved = [tensor_name(name) for name in self.surface.saved]
        given = [self.cotangent(name) for name in self.outputs if name in self.cotangents]
        dense = [Code(f"dense({name})") for name in given]
        return [*inputs, *saved, *dense, Code("ctx.tiles"), Code("needed")]


def _targets(computed: list[Code], count: int) -> Code:
    """What the results are assigned to; those that only the backward reads have no name here."""
    names = [*computed[:count], *(["*_"] if len(computed) > count else [])]
    return Code(", ".join(names))


def _lengths(row: Row) -> str:
    return "".join(f"{number(length)}, " for length in row.lengths).removesuffix(" " if len(row.lengths) == 1 else ", ")


def _row(row: Row) -> DeployRow:
    key = (Code(f'"{identifier(row.arch)}"'), Code(f'"{identifier(row.dtype)}"'), *(number(length) for length in row.lengths))
    tiles = (
        Code(f'"{identifier(role)}": {{' + ", ".join(f'"{identifier(name)}": {number(value)}' for name, value in tile.items()) + "}")
        for role, tile in row.tiles.items()
    )
    return DeployRow(key, tuple(tiles))


def _show(pattern: Pattern) -> str:
    return "[" + ", ".join(dim[0] if len(dim) == 1 else f"({' '.join(dim)})" for dim in pattern) + "]"


def _kind(item: Input) -> str:
    if item.by_value:
        return "a truth value" if item.kind == "bool" else "an integer"
    kind = {"float": "floats", "int": "integers", "bool": "truth values"}[item.kind]
    return f"a number or a tensor of no dimensions ({kind})" if item.rank == 0 else f"{kind}, {item.rank} dimension{'s' * (item.rank > 1)}"


def _reach(at: Expr) -> str:
    match at:
        case Index(axis=axis):
            return f"len_{axis}"
        case Apply(op="add", args=(Apply(op="mul", args=(Index(axis=outer), Extent(axis=inner))), Index(axis=last))) if inner == last:
            return f"len_{outer} * len_{inner}"
        case _:
            return ""
