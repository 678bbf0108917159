"""Unified diffs from two texts, in the form that git writes and reads."""

from __future__ import annotations

import difflib

__all__ = ["unified_diff"]


def unified_diff(path: str, before: str, after: str) -> str:
    """Diff of one text file that exists on both sides; "" when nothing differs. Line ends are kept as they are."""
    old, new = (text.split("\n") for text in (before, after))
    old_lines, new_lines = (
        [*(line + "\n" for line in side[:-1]), *([side[-1]] if side[-1] else [])] for side in (old, new)
    )
    lines = list(difflib.unified_diff(old_lines, new_lines, f"a/{path}", f"b/{path}"))
    if not lines:
        return ""
    body = "".join(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines)
    return f"diff --git a/{path} b/{path}\n{body}"
