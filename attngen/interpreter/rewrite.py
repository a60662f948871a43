"""Rewrite a device function so that plain Python runs it with the meaning the Triton compiler would give it.

Takes a `JITFunction`, gives a Python function over the same globals. Three things differ from running the text as it stands:
an assigned constant becomes a scalar tensor, as in the compiler; the variable of a `range` loop is a scalar tensor; and a block of
values used as a truth value (`and`, `or`, `not`, `if`, a chain of comparisons) is an error instead of silently meaning True. The helpers
enter through a closure, so the globals of the function are left as they were.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

from attngen.errors import InternalError

_FACTORY = "_attngen_factory"
_ASSIGN = "_attngen_assign"
_TRUTH = "_attngen_truth"


def rewrite(jit_function: Any, assign: Callable[[Any], Any], truth: Callable[[Any], Any], loop: Callable[..., Any]) -> Callable[..., Any]:
    """The interpretable body of a `JITFunction`.

    Args:
        jit_function: the decorated function; its text is the one read when it was decorated, whatever happened to the file since.
        assign: applied to every assigned value.
        truth: applied to every value whose truth decides something.
        loop: stands in for `range`.
    """
    fn = jit_function.fn
    helpers: Mapping[str, Callable[..., Any]] = {_ASSIGN: assign, _TRUTH: truth, "range": loop}
    parsed = ast.parse(jit_function.src)
    function = _Rewriter().visit(parsed.body[0])
    module = ast.parse(f"def {_FACTORY}({', '.join(helpers)}): pass")
    factory = module.body[0]
    if not isinstance(factory, ast.FunctionDef) or not isinstance(function, ast.FunctionDef):
        raise InternalError(f"{fn.__name__} is not a plain function")
    factory.body = [function, ast.Return(ast.Name(function.name, ast.Load()))]
    ast.fix_missing_locations(module)
    ast.increment_lineno(module, _first_line(jit_function) - 1)
    scope: dict[str, Any] = {}
    exec(compile(module, fn.__code__.co_filename, "exec"), fn.__globals__, scope)
    return scope[_FACTORY](**helpers)


def _first_line(jit_function: Any) -> int:
    """The line of `def` in the file, so that tracebacks point into the emitted text."""
    raw: list[str] = jit_function.raw_src
    decorators = next((i for i, line in enumerate(raw) if line.lstrip().startswith("def ")), 0)
    return jit_function.starting_line_number + decorators


def _call(name: str, value: ast.expr) -> ast.expr:
    return ast.copy_location(ast.Call(ast.Name(name, ast.Load()), [value], []), value)


class _Rewriter(ast.NodeTransformer):
    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        node.value = _call(_ASSIGN, node.value)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        return self._guard_test(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        return self._guard_test(node)

    def visit_While(self, node: ast.While) -> ast.AST:
        return self._guard_test(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return self._guard_test(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        node.values = [_call(_TRUTH, value) for value in node.values]
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not):
            node.operand = _call(_TRUTH, node.operand)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if len(node.ops) == 1:
            return self.generic_visit(node)
        lefts = [node.left, *node.comparators[:-1]]
        links = [ast.Compare(left, [op], [right]) for left, op, right in zip(lefts, node.ops, node.comparators, strict=True)]
        chain = ast.BoolOp(ast.And(), list[ast.expr](ast.copy_location(link, node) for link in links))
        return self.visit(ast.copy_location(chain, node))

    def _guard_test(self, node: ast.If | ast.IfExp | ast.While | ast.Assert) -> ast.AST:
        self.generic_visit(node)
        node.test = _call(_TRUTH, node.test)
        return node
