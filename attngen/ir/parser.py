"""Parses the printed text of a cascade or an expression. Bodies are a subset of Python's expression grammar."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping

from attngen.errors import ParseError
from attngen.ir import build
from attngen.ir.cascade import Cascade, Einsum, Input, Reduce
from attngen.ir.expr import OPS, Apply, Const, Expr, Extent, Index, Kind, Offset, Read, Start, kind_of

_STEP = re.compile(r"^(\w+)(?:\[([\w,]*)\])? = (?:(sum|max|logsumexp)\[([\w,]*)\] )?(.*?)(?:  if (.*))?$")
_ARGUMENT = re.compile(r"^(\w+)\[([\w,]*)\](?:: (float|int|bool))?$")
_CAPTURE = re.compile(r"^(\w+): (float|int|bool)(\[[:, ]*\])?$")
_REDUCE: dict[str, Reduce] = {"sum": "sum", "max": "max", "logsumexp": "logsumexp"}
_OF_AN_AXIS = {"extent": Extent, "start": Start, "offset": Offset}
_BINARY: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.BitOr: "bitor",
    ast.BitXor: "bitxor",
    ast.BitAnd: "bitand",
    ast.LShift: "shl",
    ast.RShift: "shr",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.And: "and",
    ast.Or: "or",
}


def parse(text: str) -> Cascade:
    """The cascade that `printer.str` would print as `text`.

    Raises:
        ParseError: the text does not follow the grammar, or names something unknown.
    """
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if len(lines) < 2 or not lines[0].startswith("cascade(") or not lines[-1].startswith("->"):
        raise ParseError("a cascade starts with 'cascade(...)' and ends with '-> outputs'")
    inputs = _parse_inputs(lines[0].removeprefix("cascade(").removesuffix(")"))
    scope = _Scope({item.name: item.kind for item in inputs})
    steps = tuple(scope.step(line) for line in lines[1:-1])
    outputs = tuple(name.strip() for name in lines[-1].removeprefix("->").split(",") if name.strip())
    return Cascade(inputs, steps, outputs)


def parse_expr(text: str, kinds: Mapping[str, Kind]) -> Expr:
    """The expression that `print_expr` would print as `text`.

    Args:
        kinds: of the tensors that it may read; any other bare name is an index.

    Raises:
        ParseError: the text does not follow the grammar, or names something unknown.
    """
    return _Scope(kinds).expr(text)


def _parse_inputs(text: str) -> tuple[Input, ...]:
    arguments, _, captures = text.partition(";")
    found: list[Input] = []
    for part in re.findall(r"\w+\[[^\]]*\](?:: \w+)?", arguments):
        match = _ARGUMENT.match(part)
        if match is None:
            raise ParseError(f"not an argument: {part!r}")
        axes = tuple(axis for axis in match[2].split(",") if axis)
        found.append(Input(match[1], axes, len(axes), _kind(match[3] or "float")))
    for part in re.findall(r"\w+: \w+(?:\[[^\]]*\])?", captures):
        match = _CAPTURE.match(part)
        if match is None:
            raise ParseError(f"not a capture: {part!r}")
        shape: str | None = match[3]
        found.append(Input(match[1], None, (shape or "").count(":"), _kind(match[2]), number=shape is None))
    return tuple(found)


def _kind(text: str) -> Kind:
    return "float" if text == "float" else "int" if text == "int" else "bool"


class _Scope:
    """The kinds of the tensors defined so far; any other bare name is an index."""

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        self.kinds: dict[str, Kind] = {**kinds}

    def step(self, line: str) -> Einsum:
        match = _STEP.match(line)
        if match is None:
            raise ParseError(f"not a step: {line!r}")
        name, axes, reduce, over, body_text, where_text = match.groups()
        body = self.expr(body_text)
        where = self.expr(where_text) if where_text else None
        self.kinds[name] = kind_of(body)
        return Einsum(name, _names(axes), body, _REDUCE.get(reduce), _names(over), where)

    def expr(self, text: str) -> Expr:
        try:
            tree = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            raise ParseError(f"not an expression: {text!r}") from error
        return self.convert(tree)

    def convert(self, node: ast.expr) -> Expr:
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return build.const(value)
            case ast.Name(id="inf"):
                return build.INF
            case ast.Name(id=name):
                return Read(name, (), self.kinds[name]) if name in self.kinds else Index(name)
            case ast.Subscript(value=ast.Name(id=name), slice=where):
                if name not in self.kinds:
                    raise ParseError(f"unknown tensor {name!r}")
                items = where.elts if isinstance(where, ast.Tuple) else [where]
                return Read(name, tuple(self.convert(item) for item in items), self.kinds[name])
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.convert(operand)
                if isinstance(inner, Const) and isinstance(operand, ast.Constant | ast.Name):
                    return build.NEG_INF if inner.value == math.inf else Const(-inner.value, inner.kind)
                return Apply("neg", (inner,))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Apply("not", (self.convert(operand),))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return Apply(_BINARY[type(op)], (self.convert(left), self.convert(right)))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _BINARY:
                return Apply(_BINARY[type(op)], (self.convert(left), self.convert(right)))
            case ast.BoolOp(op=op, values=values):
                parts = [self.convert(value) for value in values]
                result = parts[0]
                for part in parts[1:]:
                    result = Apply(_BINARY[type(op)], (result, part))
                return result
            case ast.Call(func=ast.Name(id="extent" | "start" | "offset" as which), args=[ast.Name(id=axis)]):
                return _OF_AN_AXIS[which](axis)
            case ast.Call(func=ast.Name(id=name), args=args) if name in OPS and OPS[name].symbol is None:
                return Apply(name, tuple(self.convert(arg) for arg in args))
            case _:
                raise ParseError(f"not part of the grammar: {ast.unparse(node)!r}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name for name in (text or "").split(",") if name)
