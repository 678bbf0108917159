"""Twins: copies of hidden tests of which some must pass and some must fail, and only the grader knows which.

Code under test shares the process of the tests, so it can forge any result; but it cannot know which results to forge.
Every chosen test stands in its file three times, under its own name and under two random ones. One or two of the three
are as they were written. The others expect something else in one place (`== 4` has become `== 5`, `is None` has become
`is not None`), so they fail under every sound solution. A forger that makes everything pass, or everything with a name
that it knows, is wrong in one of the three. So is an object that is equal to everything.

Text goes in and text comes out: nothing here runs a test or needs the sandbox's Python.
"""

from __future__ import annotations

import ast
import io
import random
import re
import secrets
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swegym.envs.graders.alterations import Edit, TestFunction, alteration_of, line_starts

__all__ = ["Twin", "add_twins", "function_of"]


@dataclass(frozen=True, slots=True)
class Twin:
    """One test function, three times."""

    path: str
    function: str
    """Name with its classes, `TestA::test_b`, as in test ids."""
    sound: tuple[str, ...]
    """Names of the copies that are as written."""
    altered: tuple[str, ...]
    """Names of the copies that must fail."""
    site: str
    """`LINE: expression` of the original that was altered."""

    def ids(self, names: tuple[str, ...], test_id: str) -> tuple[str, ...]:
        """Test ids of those copies that stand for this id (with its parameters)."""
        parameters = test_id.partition("[")
        return tuple(f"{self.path}::{name}{parameters[1]}{parameters[2]}" for name in names)


def function_of(test_id: str) -> tuple[str, str]:
    """`tests/test_a.py::TestB::test_c[1]` -> ("tests/test_a.py", "TestB::test_c")."""
    path, _, rest = test_id.partition("::")
    return path, rest.partition("[")[0]


def add_twins(path: str, source: bytes, functions: Iterable[str], rng: random.Random) -> tuple[bytes, list[Twin]]:
    """Put twins of these functions into a test file.

    Args:
        path: of the file, for the twins' ids.
        source: its content.
        functions: names as in test ids; those that cannot be twinned are left alone.
        rng: decides which copies are altered, where and how.

    Returns:
        The new content and the twins; the old content and none when it is not UTF-8 Python of this version.
    """
    try:
        tree = ast.parse(source)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    except (SyntaxError, ValueError, RecursionError):
        return source, []
    if encoding != "utf-8":
        return source, []  # places in the tree would not be those in the file
    starts = line_starts(source)
    nodes = dict(_functions(tree))
    changes: list[Edit] = []
    twins: list[Twin] = []
    for function in dict.fromkeys(functions):
        node = nodes.get(function)
        made = None if node is None else _twin(path, function, node, source, starts, rng)
        if made is not None:
            twins.append(made[0])
            changes.append(made[1])
    text = source
    for change in sorted(changes, key=lambda edit: edit.start, reverse=True):
        text = text[: change.start] + change.text + text[change.end :]
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return source, []  # a way of writing that nobody thought of: better no copies than no tests
    return text, twins


def _functions(tree: ast.Module) -> Iterator[tuple[str, TestFunction]]:
    """Test functions that stand once, on lines of their own, in classes that no other class of the file inherits."""
    bases = {
        name.id if isinstance(name, ast.Name) else name.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for name in node.bases
        if isinstance(name, ast.Name | ast.Attribute)
    }

    def walk(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, TestFunction]]:
        names = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for node in body:
            if isinstance(node, ast.ClassDef) and node.name not in bases:
                yield from walk(node.body, f"{prefix}{node.name}::")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and names.count(node.name) == 1:
                yield prefix + node.name, node

    return walk(tree.body, "")


def _twin(
    path: str,
    function: str,
    node: TestFunction,
    source: bytes,
    starts: list[int],
    rng: random.Random,
) -> tuple[Twin, Edit] | None:
    first_line = min([node.lineno, *(item.lineno for item in node.decorator_list)])
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    start, end = starts[first_line - 1], starts[node.end_lineno]
    last = source[starts[node.end_lineno - 1] + node.end_col_offset : end].strip()
    header = re.compile(rb"(?:async\s+)?def\s+(%s)\b" % re.escape(node.name).encode()).match(
        source, starts[node.lineno - 1] + node.col_offset
    )
    alteration = alteration_of(node, source, starts, rng)
    if header is None or alteration is None or (last and not last.startswith(b"#")):
        return None
    edit, site = alteration
    prefix = function[: -len(node.name)]
    is_original_sound = rng.random() < 0.5
    names = [f"{node.name}_{secrets.token_hex(3)}" for _ in range(2)]
    copies = [(node.name, is_original_sound), (names[0], True), (names[1], False)]
    text = b""
    for name, is_sound in [copies[0], *rng.sample(copies[1:], 2)]:
        rename = Edit(header.start(1), header.end(1), name.encode())
        body = source[start:end]
        for change in sorted([rename] if is_sound else [rename, edit], key=lambda item: item.start, reverse=True):
            body = body[: change.start - start] + change.text + body[change.end - start :]
        text += body if body.endswith(b"\n") else body + b"\n"
    sound = tuple(prefix + name for name, is_sound in copies if is_sound)
    altered = tuple(prefix + name for name, is_sound in copies if not is_sound)
    return Twin(path, function, sound, altered, site), Edit(start, end, text)
