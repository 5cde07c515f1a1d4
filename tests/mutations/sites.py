"""Where a module guards something, and the module without one of these guards.

A guard is an `if` that ends in raise, return, continue or break, or that compares a size or a time with a bound; one of
several conditions of such an `if` that are joined by `or`; one of several that are joined by `and` in what a function
returns; and a `raise` that stands alone. Without it the condition is never true, or that condition is left out.

Not here: running tests (runner). The one rule: a guard is known by its text and its function, not by its line, so that
what is said about it (excused) stays right when lines move.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_LEAVES: Final = (ast.Raise, ast.Return, ast.Continue, ast.Break)
_ORDER: Final = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)


@dataclass(frozen=True, slots=True)
class Site:
    """`number` counts all sites of the module; `text` is what is taken out, `within` says of which function."""

    number: int
    line: int
    within: str
    text: str

    def __str__(self) -> str:
        return f"{self.line}: {self.within}: {self.text}"


def sites(source: str) -> list[Site]:
    """All guards of a module, in order."""
    walker = _Walker(-1)
    walker.visit(ast.parse(source))
    return walker.found


def without(source: str, number: int) -> ast.Module:
    """The module without that guard."""
    tree = ast.parse(source)
    walker = _Walker(number)
    walker.visit(tree)
    assert walker.done, number
    return ast.fix_missing_locations(tree)


class _Walker(ast.NodeTransformer):
    """Counts the guards; takes out the one whose number is given."""

    def __init__(self, number: int) -> None:
        self.found: list[Site] = []
        self.done = False
        self._number = number
        self._within: list[str] = []

    def _is_it(self, node: ast.expr | ast.stmt, text: str) -> bool:
        number = len(self.found)
        self.found.append(Site(number, node.lineno, ".".join(self._within), text))
        self.done = self.done or number == self._number
        return number == self._number

    def _inside(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _inside

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.body[-1], _LEAVES) or _compares(node.test):
            raises = isinstance(node.body[-1], ast.Raise)
            if self._is_it(node, f"if {ast.unparse(node.test)}: {ast.unparse(node.body[-1]) if raises else '…'}"):
                node.test = ast.Constant(False)
            elif isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or):
                node.test = self._without_one(node.test)
            if raises:  # it is one with its condition
                node.body[:-1] = [self.visit(statement) for statement in node.body[:-1]]
                node.orelse = [self.visit(statement) for statement in node.orelse]
                return node
        self.generic_visit(node)
        return node

    def visit_Return(self, node: ast.Return) -> ast.AST:
        if isinstance(node.value, ast.BoolOp) and isinstance(node.value.op, ast.And):
            node.value = self._without_one(node.value)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if node.exc is not None and self._is_it(node, ast.unparse(node)):
            return ast.Pass()
        return node

    def _without_one(self, node: ast.BoolOp) -> ast.expr:
        """Each of several conditions in turn."""
        for operand in list(node.values):
            if self._is_it(operand, f"… {ast.unparse(operand)} …"):
                node.values.remove(operand)
        return node if len(node.values) > 1 else node.values[0]


def _compares(test: ast.expr) -> bool:
    return any(
        isinstance(part, ast.Compare) and any(isinstance(operator, _ORDER) for operator in part.ops)
        for part in _parts(test)
    )


def _parts(test: ast.expr) -> Iterator[ast.expr]:
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _parts(value)
    else:
        yield test
