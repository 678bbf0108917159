"""SEARCH/REPLACE blocks: pure functions from text to a block, and from a file's bytes and a block to new bytes.

Files are bytes throughout: only the lines that a block replaces change, so TABs, line ends, a byte order mark, a
missing final newline and bytes that are not UTF-8 survive everywhere else. A line ends at a newline and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

from swegym.core.errors import FormatError

__all__ = ["Block", "Replacement", "find_block", "parse_block", "replace_block", "split_lines"]

SEARCH, DIVIDER, REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Block:
    """Lines without their newline. A carriage return at the end of a line is part of it."""

    search: tuple[str, ...]
    replace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replacement:
    """A file after a block was applied to it."""

    data: bytes
    first_line: int
    """1-based number of the first line that the block replaced."""
    num_new_lines: int
    num_total_lines: int


def parse_block(text: str) -> Block:
    """The one block in `text`.

    Raises:
        FormatError: says which part is missing, there twice or out of order, or that SEARCH is empty.
    """
    lines = text.split("\n")
    marks = [(number, mark) for number, line in enumerate(lines) if (mark := line.rstrip(" \t\r")) in _MARKERS]
    kinds = [mark for _, mark in marks]
    if kinds.count(SEARCH) > 1 or kinds.count(REPLACE) > 1:
        raise FormatError("there is more than one SEARCH/REPLACE block; give one block in each call")
    for marker in (SEARCH, DIVIDER, REPLACE):
        if marker not in kinds:
            raise FormatError(f"cannot parse the block: there is no line {marker!r}")
    if kinds.count(DIVIDER) > 1:
        raise FormatError(
            f"cannot parse the block: {DIVIDER!r} stands on more than one line; to edit such a line use bash"
        )
    if kinds != [SEARCH, DIVIDER, REPLACE]:
        raise FormatError(f"cannot parse the block: the lines must be {SEARCH!r}, {DIVIDER!r}, {REPLACE!r} in order")
    (start, _), (middle, _), (end, _) = marks
    for line in (*lines[:start], *lines[end + 1 :]):
        if line.strip():
            raise FormatError(f"cannot parse the block: there is text outside it: {line.strip()[:60]!r}")
    search, replace = tuple(lines[start + 1 : middle]), tuple(lines[middle + 1 : end])
    if not search:
        raise FormatError("the SEARCH part is empty; give the lines to be replaced")
    if search == replace:
        raise FormatError("SEARCH and REPLACE are the same text; nothing would change")
    return Block(search, replace)


_MARKERS = frozenset((SEARCH, DIVIDER, REPLACE))


def split_lines(data: bytes) -> list[bytes]:
    """Lines with their newline; the last one may have none. An empty file has no lines."""
    *whole, last = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([last] if last else [])


def find_block(lines: list[bytes], search: tuple[str, ...]) -> list[int]:
    """Every index at which all the search lines match whole lines, overlapping matches included.

    A file's CRLF matches a search line without CR; a byte order mark is no part of line 1.
    """
    wanted = [line.encode() for line in search]
    return [
        index
        for index in range(len(lines) - len(wanted) + 1)
        if all(_matches(lines[index + offset], line, index + offset) for offset, line in enumerate(wanted))
    ]


def _matches(line: bytes, wanted: bytes, index: int) -> bool:
    content = line.removesuffix(b"\n")
    if index == 0 and not wanted.startswith(BYTE_ORDER_MARK):
        content = content.removeprefix(BYTE_ORDER_MARK)
    return content == wanted or content == wanted + b"\r"


def replace_block(lines: list[bytes], index: int, block: Block) -> Replacement:
    """Put the block's REPLACE lines where its SEARCH lines are, at `index`.

    New lines get the line end of the first replaced line (of the one above it when that is a last line without any),
    unless the block itself spells out a CR somewhere. When the last line of a file without a final newline is
    replaced, the file still has none.
    """
    old = lines[index : index + len(block.search)]
    spells_ends = any(line.endswith("\r") for line in (*block.search, *block.replace))
    model = old[0] if old[0].endswith(b"\n") or index == 0 else lines[index - 1]
    end = b"\r\n" if model.endswith(b"\r\n") and not spells_ends else b"\n"
    new = [line.encode() + end for line in block.replace]
    if new and not old[-1].endswith(b"\n"):
        new[-1] = new[-1].removesuffix(end)
    if index == 0 and old[0].startswith(BYTE_ORDER_MARK) and not block.search[0].startswith("\ufeff"):
        if new and not new[0].startswith(BYTE_ORDER_MARK):
            new[0] = BYTE_ORDER_MARK + new[0]
        elif not new and len(lines) > len(old):
            lines = [*old, BYTE_ORDER_MARK + lines[len(old)], *lines[len(old) + 1 :]]
    after = [*lines[:index], *new, *lines[index + len(old) :]]
    return Replacement(b"".join(after), index + 1, len(new), len(after))
