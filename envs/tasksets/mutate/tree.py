"""A module's functions on LibCST's tree, with the byte positions of every node. Edits are byte ranges of the file."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, CodeSpan, MetadataWrapper

from swegym.core.task import LineEdit

__all__ = [
    "Edit",
    "Function",
    "ParsedModule",
    "Proposal",
    "TreeMutation",
    "apply_edits",
    "compiles",
    "inner_nodes",
    "line_edits",
]

MODULE_LEVEL = "<module>"


@dataclass(frozen=True, slots=True, order=True)
class Edit:
    """Bytes start..stop of the sound file become `text`."""

    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an operator offers: `operator` names it within its kind."""

    operator: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class TreeMutation:
    """One bug in one file."""

    path: str
    kind: str
    operator: str
    function: str
    """Qualified name, `Class.method`; `<module>` for code outside functions."""
    first_line: int
    """1-based, of the sound file."""
    last_line: int
    probe_lines: tuple[int, int]
    """First and last line of which a test must run one: those of the change; for a signature, the body's first."""
    edits: tuple[Edit, ...]


class ParsedModule:
    """One parsed file. Nodes are LibCST's; positions are bytes and 1-based lines."""

    def __init__(self, path: str, data: bytes) -> None:
        """Raises libcst.ParserSyntaxError: this Python cannot read it."""
        self.path = path
        self.data = data
        self.module = cst.parse_module(data)
        wrapper = MetadataWrapper(self.module, unsafe_skip_copy=True)  # the parser gives every node once
        self._spans = wrapper.resolve(ByteSpanPositionProvider)
        self._line_starts = [0, *(index + 1 for index, byte in enumerate(data) if byte == 0x0A)]

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """Start and stop byte; a function's or class's decorators are part of it."""
        own: CodeSpan = self._spans[node]
        start, stop = own.start, own.start + own.length
        if isinstance(node, cst.FunctionDef | cst.ClassDef) and node.decorators:
            start = self.span(node.decorators[0])[0]
        return start, stop

    def text(self, node: cst.CSTNode) -> str:
        start, stop = self.span(node)
        return self.data[start:stop].decode()

    def line_of(self, position: int) -> int:
        return bisect_right(self._line_starts, position)

    def replace(self, node: cst.CSTNode, text: str) -> Edit:
        return Edit(*self.span(node), text)

    def swap(self, left: cst.CSTNode, right: cst.CSTNode) -> tuple[Edit, ...]:
        return self.replace(left, self.text(right)), self.replace(right, self.text(left))

    def is_alone(self, node: cst.CSTNode) -> bool:
        """Whether its lines hold nothing else but blanks and a comment."""
        start, stop = self.span(node)
        before = self.data[self._line_starts[self.line_of(start) - 1] : start]
        after = self.data[stop : self._line_end(stop)].strip()
        return not before.strip() and (not after or after.startswith(b"#"))

    def _line_end(self, position: int) -> int:
        """Position behind the newline of the line that `position` is in."""
        line = self.line_of(position)
        return self._line_starts[line] if line < len(self._line_starts) else len(self.data)

    def remove_lines(self, first: cst.CSTNode, last: cst.CSTNode | None = None) -> Edit:
        """Take away all lines from the start of one node to the end of another."""
        start, stop = self.span(first)[0], self.span(last or first)[1]
        return Edit(self._line_starts[self.line_of(start) - 1], self._line_end(max(stop - 1, start)), "")

    def functions(self) -> Iterator[Function]:
        """Every function and method with an indented body, the inner ones on their own."""
        yield from self._functions_in(self.module, "")

    def _functions_in(self, node: cst.CSTNode, prefix: str) -> Iterator[Function]:
        for child in node.children:
            if isinstance(child, cst.FunctionDef | cst.ClassDef):
                name = prefix + child.name.value
                if isinstance(child, cst.FunctionDef) and isinstance(child.body, cst.IndentedBlock):
                    yield Function(self, child, name)
                yield from self._functions_in(child, f"{name}.")
            else:
                yield from self._functions_in(child, prefix)


class Function:
    """One function and what operators ask about it."""

    def __init__(self, module: ParsedModule, node: cst.FunctionDef, name: str) -> None:
        self.module = module
        self.node = node
        self.name = name
        block = node.body
        assert isinstance(block, cst.IndentedBlock)
        statements = list(block.body)
        self.statements = statements[1:] if _is_docstring(statements[0]) else statements
        """Of the body, without the docstring."""
        self.target_ids: set[int] | None = None
        """Filled by `variables`: ids of the names that the function binds."""
        self.nodes: list[cst.CSTNode] = []
        for statement in self.statements:
            self.nodes += inner_nodes(statement)

    def parameters(self) -> list[cst.Param]:
        """Positional and keyword-only ones, without the first of a method."""
        params = self.node.params
        found = [*params.posonly_params, *params.params, *params.kwonly_params]
        return found[1:] if found and found[0].name.value in ("self", "cls") else found


def _is_docstring(statement: cst.BaseStatement) -> bool:
    if not isinstance(statement, cst.SimpleStatementLine) or len(statement.body) != 1:
        return False
    only = statement.body[0]
    return isinstance(only, cst.Expr) and isinstance(only.value, cst.SimpleString | cst.ConcatenatedString)


def inner_nodes(node: cst.CSTNode) -> list[cst.CSTNode]:
    """The node and all below it; functions and classes inside are left out, they are sites of their own."""
    if isinstance(node, cst.FunctionDef | cst.ClassDef):
        return []
    found = [node]
    for child in node.children:
        found += inner_nodes(child)
    return found


def apply_edits(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Raises ValueError: two edits overlap."""
    upper = len(data)
    for edit in sorted(edits, reverse=True):
        if not 0 <= edit.start <= edit.stop <= upper:
            raise ValueError(f"edits overlap at byte {edit.stop}")
        data = data[: edit.start] + edit.text.encode() + data[edit.stop :]
        upper = edit.start
    return data


def line_edits(path: str, data: bytes, edits: Sequence[Edit]) -> tuple[LineEdit, ...]:
    """The same change as whole lines, which say nothing of what stood there before."""
    starts = [0, *(index + 1 for index, byte in enumerate(data[:-1]) if byte == 0x0A)]
    found: list[LineEdit] = []
    waiting = deque(sorted(edits))
    while waiting:
        members = [waiting.popleft()]
        first, last = bisect_right(starts, members[0].start), _last_line(starts, members[0])
        while True:
            while waiting and bisect_right(starts, waiting[0].start) <= last:
                members.append(waiting.popleft())
                last = max(last, _last_line(starts, members[-1]))
            start, stop = starts[first - 1], starts[last] if last < len(starts) else len(data)
            moved = [Edit(edit.start - start, edit.stop - start, edit.text) for edit in members]
            text = apply_edits(data[start:stop], moved)
            if not text or text.endswith(b"\n") or last == len(starts):
                break
            last += 1  # the end of the line went: the next one joins it
        found.append(LineEdit(path=path, first_line=first, last_line=last, text=text.decode()))
    return tuple(found)


def _last_line(starts: Sequence[int], edit: Edit) -> int:
    return bisect_right(starts, max(edit.stop - 1, edit.start))


def compiles(data: bytes, path: str) -> bool:
    """Whether this Python accepts the file; warnings such as that of `1 is x` do not count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(data, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return True
