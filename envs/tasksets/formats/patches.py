"""Patches of data sets: which files they touch, how they read backwards, and how they become start edits."""

from __future__ import annotations

import re

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchedFile, PatchSet

from swegym.core.errors import TaskError
from swegym.core.task import LineEdit

__all__ = ["edits_of_patch", "files_of_patch", "reverse_patch"]

_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)", re.DOTALL)


def _parse(patch: str) -> PatchSet:
    try:
        return PatchSet(patch if patch.endswith("\n") else patch + "\n")
    except UnidiffParseError as error:
        raise TaskError(f"not a unified diff: {error}") from None


def files_of_patch(patch: str) -> tuple[str, ...]:
    """Files that are there after the patch, in order.

    Raises:
        TaskError: it is no unified diff.
    """
    return tuple(dict.fromkeys(file.path for file in _parse(patch) if not file.is_removed_file))


def reverse_patch(patch: str) -> str:
    """The patch that takes it back, for one that only changes files.

    Raises:
        TaskError: it is no unified diff, or adds, removes, renames or holds binary files.
    """
    _require_plain(patch)
    out: list[str] = []
    removed: list[str] = []
    added: list[str] = []
    old_left, new_left, last = 0, 0, ""

    def flush() -> None:
        # Removals before additions, as git writes them: a missing last newline is only understood so.
        out.extend((*removed, *added))
        removed.clear()
        added.clear()

    for line in (patch if patch.endswith("\n") else patch + "\n").split("\n")[
        :-1
    ]:  # not splitlines: a form feed ends none
        kind = line[:1]
        if kind == "\\":
            (removed if last == "+" else added if last == "-" else out).append(line)
        elif old_left > 0 or new_left > 0:
            old_left -= kind != "+"
            new_left -= kind != "-"
            last = kind
            if kind == "+":
                removed.append("-" + line[1:])
            elif kind == "-":
                added.append("+" + line[1:])
            else:
                flush()
                out.append(line)
        elif (hunk := _HUNK.fullmatch(line)) is not None:
            flush()
            old_start, old_count, new_start, new_count, rest = hunk.groups()
            old_left, new_left, last = int(old_count or 1), int(new_count or 1), ""
            out.append(f"@@ -{_span(new_start, new_count)} +{_span(old_start, old_count)} @@{rest}")
        elif not line.startswith("index "):
            flush()
            out.append(line)
    flush()
    return "".join(line + "\n" for line in out)


def _span(start: str, count: str | None) -> str:
    return start if count is None else f"{start},{count}"


def edits_of_patch(patch: str) -> tuple[LineEdit, ...]:
    """A patch that breaks a tree, as start edits: they say nothing of the lines that they replace.

    Raises:
        TaskError: it is no unified diff, or adds, removes, renames or holds binary files.
    """
    return tuple(edit for file in _require_plain(patch) for edit in _edits_of_file(file))


def _require_plain(patch: str) -> list[PatchedFile]:
    files = list(_parse(patch))
    if not files:
        raise TaskError("changes no file")
    for file in files:
        if file.is_added_file or file.is_removed_file or file.is_rename or file.is_binary_file:
            raise TaskError(f"adds, removes, renames or holds binary {file.path}: start edits cannot say that")
    return files


def _edits_of_file(file: PatchedFile) -> list[LineEdit]:
    edits: list[LineEdit] = []
    for hunk in file:
        place, first, removed, added = hunk.source_start + (hunk.source_length == 0), 0, 0, list[str]()

        def flush(first: int, removed: int, added: list[str]) -> None:
            if removed or added:
                text = "".join(added)
                edits.append(LineEdit(path=file.path, first_line=first, last_line=first + removed - 1, text=text))

        for line in hunk:
            if line.line_type not in "+-":
                if line.line_type == " ":
                    flush(first, removed, added)
                    place, removed, added = place + 1, 0, []
                continue
            if not removed and not added:
                first = place
            if line.line_type == "-":
                removed, place = removed + 1, place + 1
            else:
                added.append(line.value if line.value.endswith("\n") else line.value + "\n")
        flush(first, removed, added)
    return edits
