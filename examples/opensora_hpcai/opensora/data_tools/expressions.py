"""Conditions on rows as safe expressions: ``aesthetic > 4.5 and flow > 0.5``; they are parsed, never executed.

- A name is a column; ``column("motion score")`` is one whose name is no word of Python.
- Numbers, texts in quotes, lists ``["a", "b"]``; ``< <= > >= == !=``, also chained; ``and or not``; ``+ - * / // %``;
  ``x in ["a", "b"]`` and ``"cat" in caption``; ``x is missing``, ``x is not missing``; ``len lower abs round min max``.
- Beside a number, a cell is compared as a number, otherwise as text; two cells as numbers if both are.
- What is missing (empty, or a word such as NaN), or no number where one is needed, makes a comparison neither true nor
  false, and a row is kept only if the whole is true: ``not flow > 1`` does not keep rows without a flow.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Sequence

from mindone.data.table import says_something
from mindone.errors import UserError
from opensora.data_tools.files import Row

# A cell that may be text or a number, a number, or nothing that is known
Value = str | float | tuple | None
Evaluate = Callable[[Row], Value]
LONGEST = 2000
MISSING = "missing"

_COMPARE = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_NUMERIC = {"abs": abs, "round": round, "min": min, "max": max}
_TEXTUAL = {"len": len, "lower": str.lower}


def condition(text: str, columns: Sequence[str]) -> Callable[[Row], bool | None]:
    """A function that says whether a row meets a condition: True, False, or None where that is not known.

    Raises:
        UserError: it is no such condition, or names a column that is not there.
    """
    if len(text) > LONGEST:
        raise UserError(f"the condition has {len(text)} characters; {LONGEST} are the most that are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        evaluate = _Reader(text, columns).read(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        reason = getattr(error, "msg", None) or "it is too deeply nested or has characters that are no text"
        raise UserError(f"the condition '{text}' cannot be read: {reason}; an example: aesthetic > 4.5") from error
    return lambda row: _truth(evaluate(row))


def number(value: Value) -> float | None:
    """A value as a number; None if it is none."""
    if isinstance(value, float):
        return value
    if not isinstance(value, str):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def _truth(value: Value) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    as_number = number(value)
    return value.lower() == "true" if as_number is None and isinstance(value, str) else bool(as_number)


class _Reader:
    """Turns the nodes of an expression into functions of a row; what is not named here is refused."""

    def __init__(self, text: str, columns: Sequence[str]):
        self.text, self.columns = text, columns

    def read(self, node: ast.AST) -> Evaluate:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise self._refused(node)
        return method(node)

    def _refused(self, node: ast.AST, why: str = "is not allowed in a condition") -> UserError:
        part = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return UserError(f"'{part[:60]}' {why}: columns, numbers, quoted texts, comparisons, and, or, not")

    def _constant(self, node: ast.Constant) -> Evaluate:
        value = node.value
        if isinstance(value, str) or value is True or value is False:
            return lambda row: value
        if not isinstance(value, int | float):
            raise self._refused(node)
        found = _float(value)
        return lambda row: found

    def _name(self, node: ast.Name) -> Evaluate:
        return self._column(node.id)

    def _column(self, name: str) -> Evaluate:
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has: {', '.join(self.columns)}"
            raise UserError(f"the condition '{self.text}' names {name}, which is no column of the table; {hint}")

        def cell(row: Row) -> Value:
            value = row.get(name, "")
            return value if says_something(value) else None

        return cell

    def _list(self, node: ast.List | ast.Tuple) -> Evaluate:
        parts = [self.read(part) for part in node.elts]
        return lambda row: tuple(part(row) for part in parts)

    _tuple = _set = _list

    def _boolop(self, node: ast.BoolOp) -> Evaluate:
        parts = [self.read(part) for part in node.values]
        decisive = isinstance(node.op, ast.Or)

        def combined(row: Row) -> bool | None:
            result: bool | None = not decisive
            for part in parts:
                truth = _truth(part(row))
                if truth is decisive:
                    return decisive
                result = None if truth is None else result
            return result

        return combined

    def _unaryop(self, node: ast.UnaryOp) -> Evaluate:
        inner = self.read(node.operand)
        if isinstance(node.op, ast.Not):

            def negated(row: Row) -> bool | None:
                truth = _truth(inner(row))
                return None if truth is None else not truth

            return negated
        if not isinstance(node.op, ast.USub):
            raise self._refused(node)

        def negative(row: Row) -> float | None:
            value = number(inner(row))
            return None if value is None else -value

        return negative

    def _binop(self, node: ast.BinOp) -> Evaluate:
        if type(node.op) not in _ARITHMETIC:
            raise self._refused(node)
        return _with_numbers(_ARITHMETIC[type(node.op)], [self.read(node.left), self.read(node.right)])

    def _call(self, node: ast.Call) -> Evaluate:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "column" and len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and not node.keywords:
            return self._column(str(node.args[0].value))
        if name not in (*_NUMERIC, *_TEXTUAL) or node.keywords or not node.args:
            raise self._refused(node, "is no function of conditions (column, len, lower, abs, round, min, max)")
        if name in ("min", "max") and len(node.args) < 2 or name not in ("min", "max") and len(node.args) > 1:
            raise self._refused(node, "has another number of values than that function takes")
        arguments = [self.read(argument) for argument in node.args]
        if name in _NUMERIC:
            return _with_numbers(_NUMERIC[name], arguments)
        function, argument = _TEXTUAL[name], arguments[0]

        def of_text(row: Row) -> Value:
            value = argument(row)
            if not isinstance(value, str):
                return None
            result = function(value)
            return result if isinstance(result, str) else float(result)

        return of_text

    def _compare(self, node: ast.Compare) -> Evaluate:
        sides = [node.left, *node.comparators]
        links = [self._link(op, left, right) for op, left, right in zip(node.ops, sides, sides[1:])]
        if len(links) == 1:
            return links[0]

        def chained(row: Row) -> bool | None:
            truths = [link(row) for link in links]
            return False if False in truths else None if None in truths else True

        return chained

    def _link(self, op: ast.cmpop, left: ast.AST, right: ast.AST) -> Evaluate:
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Name) and right.id == MISSING):
                raise self._refused(right, "does not follow 'is': only missing and not missing do")
            inner, wanted = self.read(left), isinstance(op, ast.Is)
            return lambda row: (inner(row) is None) == wanted
        first, second = self.read(left), self.read(right)
        if isinstance(op, ast.In | ast.NotIn):
            wanted = isinstance(op, ast.In)

            def within(row: Row) -> bool | None:
                found = _within(first(row), second(row))
                return None if found is None else found == wanted

            return within
        compare = _COMPARE[type(op)]
        return lambda row: _compared(compare, first(row), second(row))


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _with_numbers(function: Callable[..., float], parts: Sequence[Evaluate]) -> Evaluate:
    def calculated(row: Row) -> float | None:
        values = [number(part(row)) for part in parts]
        if None in values:
            return None
        try:
            return float(function(*values))
        except (ArithmeticError, ValueError):
            return None

    return calculated


def _compared(compare: Callable[[object, object], bool], left: Value, right: Value) -> bool | None:
    if left is None or right is None or isinstance(left, tuple) or isinstance(right, tuple):
        return None
    numbers = number(left), number(right)
    if None not in numbers:
        return compare(*numbers)
    if isinstance(left, str) and isinstance(right, str):
        return compare(left, right)
    return None


def _within(item: Value, container: Value) -> bool | None:
    if item is None or container is None:
        return None
    if isinstance(container, tuple):
        found = [_compared(operator.eq, item, other) for other in container]
        return True in found
    if isinstance(item, str) and isinstance(container, str):
        return item in container
    return None
