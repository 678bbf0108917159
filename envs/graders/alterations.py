"""Where and how a test function can be changed so that it fails under sound code: for `twins.py`.

Positions are bytes of the file, so that everything that is not changed stays as it was written.
"""

from __future__ import annotations

import ast
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Edit", "TestFunction", "alteration_of", "line_starts"]

TestFunction = ast.FunctionDef | ast.AsyncFunctionDef
_OPPOSITES: dict[type[ast.cmpop], str] = {
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Lt: ">=",
    ast.LtE: ">",
    ast.Gt: "<=",
    ast.GtE: "<",
}
_OPPOSITE_METHODS = {
    "assertTrue": "assertFalse",
    "assertFalse": "assertTrue",
    "assertIs": "assertIsNot",
    "assertIsNot": "assertIs",
    "assertIsNone": "assertIsNotNone",
    "assertIsNotNone": "assertIsNone",
    "assertIn": "assertNotIn",
    "assertNotIn": "assertIn",
    "assertEqual": "assertNotEqual",
    "assertNotEqual": "assertEqual",
}
_EQUALITY = re.compile(r"^assert_?(?!not_?)\w*_?equals?$", re.IGNORECASE)
_SWALLOWING = re.compile(r"[rR]aises|suppress|subTest|subtests")


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace bytes start..end of the file."""

    start: int
    end: int
    text: bytes


def alteration_of(node: TestFunction, source: bytes, starts: list[int], rng: random.Random) -> tuple[Edit, str] | None:
    """One change that makes a function fail under sound code.

    Another expected value, which looks as natural as the old one; else a comparison turned round; else one more line.

    Args:
        node: the function.
        source: the file.
        starts: its `line_starts`.
        rng: chooses.

    Returns:
        The change, and `LINE: expression` of its place; None where nothing can be changed with certainty.
    """
    values: list[tuple[ast.expr, ast.expr]] = []
    opposites: list[tuple[Edit, ast.expr]] = []
    constants = _constants_of(node)
    for statement in _certain_statements(node.body):
        if isinstance(statement, ast.Assert):
            test = statement.test
            if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
                values += [(test, leaf) for leaf in _expected_leaves(test.left, test.comparators[0], constants)]
            opposites += _turned_round(test, source, starts)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            call = statement.value
            if _EQUALITY.search(_called_name(call)) and len(call.args) >= 2:
                values += [(call, leaf) for leaf in _expected_leaves(call.args[0], call.args[1], constants)]
            opposites += _opposite_method(call, starts)
    if values:
        where, leaf = rng.choice(values)
        edit = Edit(*_span(starts, leaf), _other_value(leaf, rng))
    elif opposites:
        edit, where = rng.choice(opposites)
    else:
        return _failing_end(node, source, starts)
    return edit, f"{where.lineno}: {ast.get_source_segment(source.decode(), where)}"[:200]


def _called_name(call: ast.Call) -> str:
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _opposite_method(call: ast.Call, starts: list[int]) -> list[tuple[Edit, ast.expr]]:
    method = _called_name(call)
    if method not in _OPPOSITE_METHODS or not isinstance(call.func, ast.Attribute):
        return []
    end = _offset(starts, call.func.end_lineno, call.func.end_col_offset)
    return [(Edit(end - len(method), end, _OPPOSITE_METHODS[method].encode()), call)]


def _constants_of(node: TestFunction) -> dict[str, list[ast.expr]]:
    """Leaves of the literals that are assigned to a name which is then used once: `expected = [1, 2]`."""
    names = [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    found: dict[str, list[ast.expr]] = {}
    for statement in _certain_statements(node.body):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and names.count(target.id) == 2:
                found[target.id] = list(_literal_leaves(statement.value))
    return found


def _expected_leaves(left: ast.expr, right: ast.expr, constants: dict[str, list[ast.expr]]) -> list[ast.expr]:
    """Leaves of the side that is a literal; none when both are or neither is."""
    sides = [
        constants.get(side.id, []) if isinstance(side, ast.Name) else list(_literal_leaves(side))
        for side in (left, right)
    ]
    return [] if all(sides) else [*sides[0], *sides[1]]


def _failing_end(node: TestFunction, source: bytes, starts: list[int]) -> tuple[Edit, str] | None:
    """Where nothing can be altered, a last line that fails. It shows on its face, so it only stands against forgers
    that do not read.
    """
    leaves = (ast.Return, ast.Raise, ast.Yield, ast.YieldFrom)
    if node.body[0].lineno == node.lineno or any(isinstance(inner, leaves) for inner in ast.walk(node)):
        return None
    first = starts[node.body[0].lineno - 1]
    indent = source[first : first + node.body[0].col_offset]
    if indent.strip():
        return None
    end = _offset(starts, node.end_lineno, node.end_col_offset)
    line_end = b"\r\n" if source[: starts[node.lineno]].endswith(b"\r\n") else b"\n"
    return Edit(end, end, line_end + indent + b"assert 0 == 1"), f"{node.end_lineno}: the end"


def _certain_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run whenever the function does, and whose exceptions reach its caller."""
    for statement in body:
        if any(isinstance(inner, ast.Return | ast.Yield | ast.YieldFrom) for inner in ast.walk(statement)):
            return
        yield statement
        if isinstance(statement, ast.For | ast.AsyncFor):
            yield from _certain_statements(statement.body)
        elif isinstance(statement, ast.With | ast.AsyncWith):
            managers = " ".join(ast.unparse(item.context_expr) for item in statement.items)
            if not _SWALLOWING.search(managers):
                yield from _certain_statements(statement.body)


def _literal_leaves(node: ast.expr) -> Iterator[ast.expr]:
    """Constants and empty containers of an expression that consists of nothing else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bytes | type(None)):
        yield node
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield from _literal_leaves(node.operand)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        leaves = [list(_literal_leaves(side)) for side in (node.left, node.right)]
        if all(leaves):
            yield from (leaf for side in leaves for leaf in side)
    elif isinstance(node, ast.Call) and _called_name(node) == "join" and len(node.args) == 1:
        # "\n".join(["a", "b"]): what lies between them is left alone.
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Constant):
            yield from _literal_leaves(node.args[0])
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        leaves = [list(_literal_leaves(item)) for item in node.elts]
        if not leaves:
            yield node
        elif all(leaves):
            yield from (leaf for item in leaves for leaf in item)
    elif isinstance(node, ast.Dict):
        leaves = [list(_literal_leaves(item)) for item in node.values]
        keys = [key for key in node.keys if key is not None and list(_literal_leaves(key))]
        if not leaves:
            yield node
        elif all(leaves) and len(keys) == len(leaves):
            yield from (leaf for item in leaves for leaf in item)


def _other_value(leaf: ast.expr, rng: random.Random) -> bytes:
    """Text of a value of the same kind that is not equal and looks as natural."""
    if isinstance(leaf, ast.Tuple):
        return b"(0,)"
    if isinstance(leaf, ast.List):
        return b"[0]"
    if isinstance(leaf, ast.Dict):
        return b"{0: 0}"
    assert isinstance(leaf, ast.Constant)
    value = leaf.value
    if isinstance(value, bool):
        other: object = not value
    elif isinstance(value, int):
        other = value + rng.choice([1, 2, -1] if value > 1 else [1, 2])
    elif isinstance(value, float):
        other = value * 1.5 + 1.0 if value == value and abs(value) < 1e300 else 1.0
    elif isinstance(value, str):
        other = _other_text(value, rng)
    elif isinstance(value, bytes):
        other = _other_text(value.decode("latin-1"), rng).encode("latin-1")
    else:
        other = 0
    return repr(other).encode()


def _other_text(text: str, rng: random.Random) -> str:
    places = [place for place, letter in enumerate(text) if letter.isascii() and letter.isalnum()]
    if not places:
        return text + "a"
    place = rng.choice(places)
    alphabets = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
    letters = next(letters for letters in alphabets if text[place] in letters)
    # Two steps on, so that neither case folding nor a swap of neighbours brings the old text back.
    other = letters[(letters.index(text[place]) + 2) % len(letters)]
    return text[:place] + other + text[place + 1 :]


def _turned_round(test: ast.expr, source: bytes, starts: list[int]) -> list[tuple[Edit, ast.expr]]:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _span(starts, test.operand)
        return [(Edit(*_span(starts, test), b"(" + source[slice(*inner)] + b")"), test)]
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        gap = _offset(starts, test.left.end_lineno, test.left.end_col_offset), _span(starts, test.comparators[0])[0]
        between = source[slice(*gap)]
        operator = re.compile(rb"is\s+not\b|is\b|not\s+in\b|in\b|==|!=|<=|>=|<|>").search(between)
        if operator is None or b"#" in between:
            return []
        text = _OPPOSITES[type(test.ops[0])].encode()
        return [(Edit(gap[0] + operator.start(), gap[0] + operator.end(), text), test)]
    if isinstance(test, ast.Name | ast.Call | ast.Attribute | ast.Subscript):
        start, end = _span(starts, test)
        return [(Edit(start, end, b"not " + source[start:end]), test)]
    return []


def line_starts(source: bytes) -> list[int]:
    """Offset of every line as Python counts lines, and of the end."""
    starts = [0]
    starts += [match.end() for match in re.finditer(rb"\r\n|\r|\n", source)]
    if starts[-1] != len(source):
        starts.append(len(source))
    return starts


def _offset(starts: list[int], line: int | None, column: int | None) -> int:
    assert line is not None
    assert column is not None
    return starts[line - 1] + column


def _span(starts: list[int], node: ast.expr) -> tuple[int, int]:
    return _offset(starts, node.lineno, node.col_offset), _offset(starts, node.end_lineno, node.end_col_offset)
