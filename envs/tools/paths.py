"""Paths that agents write: relative to the repository's root or absolute."""

from __future__ import annotations

import posixpath
import re
import shlex
import stat
from dataclasses import dataclass
from typing import Literal

from swegym.core.errors import SandboxError
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task

__all__ = ["PathFacts", "absolute_path", "inspect_path", "path_problem", "split_path_line"]

PathKind = Literal["file", "folder", "other", "dangling link", "missing"]


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What lies at a path, links followed."""

    kind: PathKind
    parent_is_folder: bool


def split_path_line(body: str) -> tuple[str, str]:
    """First line without surrounding blanks, and all that follows its newline, unchanged."""
    first, _, rest = body.partition("\n")
    return first.strip(), rest


def path_problem(path: str) -> str:
    """What is wrong with a path as text; "" when nothing is."""
    if not path:
        return "the first line must be the path of the file"
    if "\0" in path:
        return "the path holds a NUL character"
    if path.endswith("/"):
        return f"{path} names a folder, not a file"
    return ""


def absolute_path(path: str, task: Task) -> str:
    """Lexically normalised only as far as joining needs; links and `..` are the sandbox's business."""
    return posixpath.join(task.payload.workdir, path)


async def inspect_path(sandbox: Sandbox, path: str) -> PathFacts:
    """One command in the agent's shell; what the shell prints besides (`set -x`) does not matter.

    Raises:
        SandboxError: there is no answer to be read, or SandboxLost.
    """
    parent = posixpath.dirname(path) or "/"
    name, folder = shlex.quote(path), shlex.quote(parent)
    kind = f"command stat -Lc 'swegym-mode:%f' -- {name} 2>/dev/null || {{ [[ -L {name} ]] && echo swegym-mode:link; }}"
    result = await sandbox.run(
        f"{{ {kind} || echo swegym-mode:none; }}; if [[ -d {folder} ]]; then echo swegym-parent:yes;"
        " else echo swegym-parent:no; fi",
        timeout_s=30.0,
        limit_bytes=65_536,
    )
    mode = re.search(r"^swegym-mode:(\w+)$", result.text, re.MULTILINE)
    found_parent = re.search(r"^swegym-parent:(yes|no)$", result.text, re.MULTILINE)
    if mode is None or found_parent is None:
        raise SandboxError(f"cannot look at {path!r} in the sandbox: exit {result.exit_code}, {result.text[-200:]!r}")
    return PathFacts(kind=_kind(mode[1]), parent_is_folder=found_parent[1] == "yes")


def _kind(mode: str) -> PathKind:
    if mode == "none":
        return "missing"
    if mode == "link":
        return "dangling link"
    bits = int(mode, 16)
    if stat.S_ISREG(bits):
        return "file"
    return "folder" if stat.S_ISDIR(bits) else "other"
