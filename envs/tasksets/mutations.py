"""Bugs that can be injected into Python source: one line, one replaced word or operator.

Pure: text in, mutations out. The sites are found on the syntax tree, so nothing in strings, comments or docstrings is
touched, and every other character of the file stays. A mutation is only offered where one `sed -i "Ls/ A / B /"`
undoes it: A occurs exactly once in the mutated line, between blanks.

These are single-token cases of CWM's operator kind (cwm.md 4). Its other kinds (functions, arguments, variables,
statements) become further entries of `MUTATORS`.
"""

from __future__ import annotations

import ast
import io
import tokenize
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from swegym.core.errors import UnknownName

__all__ = ["DEFAULT_KINDS", "MUTATORS", "Mutation", "SourceFile", "find_mutations"]

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
ARITHMETIC = ("+", "-", "*", "/", "//", "%")
AUGMENTED = ("+=", "-=")
MAX_NUMBER = 9
SED_SPECIAL = frozenset("*/.[]\\^$&")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One replaced token. `before` is the sound code, `after` the broken one; lines come without their line end."""

    path: str
    line: int
    """1-based."""
    column: int
    """0-based, in characters."""
    before_line: str
    after_line: str
    before_token: str
    after_token: str
    kind: str

    @property
    def is_sed_safe(self) -> bool:
        """Whether the plain `s/ A / B /` undoes it, with no character that sed reads as a pattern."""
        return not SED_SPECIAL & {*self.before_token, *self.after_token}


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a mutator proposes: at this place, `before` becomes `after`."""

    line: int
    column: int
    before: str
    after: str


class SourceFile:
    """A parsed file with its word and operator tokens in order of position."""

    def __init__(self, source: str) -> None:
        """Raises SyntaxError: this Python cannot read it."""
        self.lines = source.split("\n")
        self.tree = ast.parse(source)
        self.tokens = self._code_tokens(source)
        self._starts = [self._byte_position(token.start) for token in self.tokens]

    @staticmethod
    def _code_tokens(source: str) -> list[tokenize.TokenInfo]:
        kinds, depth, tokens = (tokenize.OP, tokenize.NAME, tokenize.NUMBER), 0, []
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            name = tokenize.tok_name[token.type]
            depth += (name in ("FSTRING_START", "TSTRING_START")) - (name in ("FSTRING_END", "TSTRING_END"))
            if token.type in kinds and not depth:  # from 3.12 on the code inside f-strings is tokens too
                tokens.append(token)
        return tokens

    def _byte_position(self, position: tuple[int, int]) -> tuple[int, int]:
        """The tree counts columns in UTF-8 bytes, tokens in characters."""
        line, column = position
        return line, len(self.lines[line - 1][:column].encode())

    def between(self, left: ast.expr, right: ast.expr) -> list[tokenize.TokenInfo]:
        """Tokens between two expressions, without brackets."""
        assert left.end_lineno is not None
        assert left.end_col_offset is not None
        start = bisect_left(self._starts, (left.end_lineno, left.end_col_offset))
        stop = bisect_left(self._starts, (right.lineno, right.col_offset))
        return [token for token in self.tokens[start:stop] if token.string not in "()"]

    def just_before(self, node: ast.expr) -> tokenize.TokenInfo | None:
        """The token before an expression, if it is on the same line."""
        index = bisect_left(self._starts, (node.lineno, node.col_offset)) - 1
        token = self.tokens[index] if index >= 0 else None
        return token if token is not None and token.start[0] == node.lineno else None


Mutator = Callable[[SourceFile], Iterator[Replacement]]


def _swap(token: tokenize.TokenInfo, group: Iterable[str]) -> Iterator[Replacement]:
    for other in group:
        if other != token.string:
            yield Replacement(*token.start, token.string, other)


def _operator_tokens(file: SourceFile) -> Iterator[tuple[ast.AST, list[tokenize.TokenInfo]]]:
    """Every operator of comparisons, binary and boolean operations, with its tokens."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
                yield operator, file.between(left, right)
        elif isinstance(node, ast.BinOp):
            yield node, file.between(node.left, node.right)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield node.op, file.between(left, right)


def comparison(file: SourceFile) -> Iterator[Replacement]:
    """One of == != < <= > >= for another."""
    for _, tokens in _operator_tokens(file):
        if len(tokens) == 1 and tokens[0].string in COMPARISONS:
            yield from _swap(tokens[0], COMPARISONS)


def arithmetic(file: SourceFile) -> Iterator[Replacement]:
    """One of + - * / // % for another; string formatting is left alone."""
    for node, tokens in _operator_tokens(file):
        if not isinstance(node, ast.BinOp) or len(tokens) != 1 or tokens[0].string not in ARITHMETIC:
            continue
        is_text = isinstance(node.left, ast.JoinedStr) or (
            isinstance(node.left, ast.Constant) and isinstance(node.left.value, str | bytes)
        )
        if not is_text:
            yield from _swap(tokens[0], ARITHMETIC)


def boolean(file: SourceFile) -> Iterator[Replacement]:
    """`and` for `or` and the other way."""
    for node, tokens in _operator_tokens(file):
        if isinstance(node, ast.And | ast.Or) and len(tokens) == 1:
            yield from _swap(tokens[0], ("and", "or"))


def identity(file: SourceFile) -> Iterator[Replacement]:
    """`is` for `is not` and the other way."""
    yield from _negatable(file, ast.Is, ast.IsNot, "is", "is not")


def membership(file: SourceFile) -> Iterator[Replacement]:
    """`in` for `not in` and the other way; the `in` of loops is no comparison and is left alone."""
    yield from _negatable(file, ast.In, ast.NotIn, "in", "not in")


def _negatable(
    file: SourceFile, plain: type[ast.AST], negated: type[ast.AST], word: str, phrase: str
) -> Iterator[Replacement]:
    for node, tokens in _operator_tokens(file):
        if isinstance(node, plain) and len(tokens) == 1:
            yield Replacement(*tokens[0].start, word, phrase)
        elif isinstance(node, negated) and len(tokens) == 2 and tokens[0].start[0] == tokens[1].start[0]:
            yield Replacement(*tokens[0].start, phrase, word)


def negation(file: SourceFile) -> Iterator[Replacement]:
    """`if not x` for `if x` and the other way; the word before goes along, so that there is something to replace."""
    words = ("if", "elif", "while", "return", "and", "or")
    for node in ast.walk(file.tree):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            token = file.just_before(node)
            if token is not None and token.string in words:
                yield Replacement(*token.start, f"{token.string} not", token.string)
        elif isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(
            node.test, ast.Name | ast.Attribute | ast.Call
        ):
            token = file.just_before(node.test)
            if token is not None and token.string in words:
                yield Replacement(*token.start, token.string, f"{token.string} not")


def constant(file: SourceFile) -> Iterator[Replacement]:
    """`True` for `False` and the other way."""
    for token in file.tokens:
        if token.string in ("True", "False"):
            yield from _swap(token, ("True", "False"))


def number(file: SourceFile) -> Iterator[Replacement]:
    """A small whole number off by one."""
    for token in file.tokens:
        if token.type == tokenize.NUMBER and token.string.isdigit() and int(token.string) <= MAX_NUMBER:
            value = int(token.string)
            yield from (
                Replacement(*token.start, token.string, str(other)) for other in (value - 1, value + 1) if other >= 0
            )


def augmented(file: SourceFile) -> Iterator[Replacement]:
    """`+=` for `-=` and the other way."""
    for token in file.tokens:
        if token.string in AUGMENTED:
            yield from _swap(token, AUGMENTED)


MUTATORS: dict[str, Mutator] = {
    "comparison": comparison,
    "arithmetic": arithmetic,
    "boolean": boolean,
    "identity": identity,
    "membership": membership,
    "negation": negation,
    "constant": constant,
    "number": number,
    "augmented": augmented,
}
DEFAULT_KINDS = tuple(kind for kind in MUTATORS if kind != "number")


def find_mutations(path: str, source: str, kinds: Iterable[str] = DEFAULT_KINDS) -> list[Mutation]:
    """All mutations of these kinds that a single `sed` replacement can undo, in order of position.

    Args:
        path: recorded in the mutations.
        source: the file's text with its line ends as they are.
        kinds: keys of `MUTATORS`.

    Raises:
        UnknownName: no such kind.
        SyntaxError: this Python cannot read the source.
    """
    file = SourceFile(source)
    found: set[Mutation] = set()
    for kind in kinds:
        if kind not in MUTATORS:
            raise UnknownName("mutation kind", kind, list(MUTATORS))
        for change in MUTATORS[kind](file):
            mutation = _apply(path, file.lines[change.line - 1], change, kind)
            if mutation is not None:
                found.add(mutation)
    return sorted(found, key=lambda item: (item.line, item.column, item.kind, item.after_token))


def _apply(path: str, line: str, change: Replacement, kind: str) -> Mutation | None:
    end = change.column + len(change.before)
    if line[change.column : end] != change.before:
        return None  # more than one blank inside `is  not`
    before_line = line.removesuffix("\r")
    after_line = before_line[: change.column] + change.after + before_line[end:]
    blanks = (before_line[max(change.column - 1, 0) : change.column], before_line[end : end + 1])
    is_single = before_line.count(f" {change.before} ") == 1 and after_line.count(f" {change.after} ") == 1
    cured = after_line.replace(f" {change.after} ", f" {change.before} ", 1)
    if blanks != (" ", " ") or not is_single or cured != before_line:
        return None
    return Mutation(path, change.line, change.column, before_line, after_line, change.before, change.after, kind)
