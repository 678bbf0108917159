"""Copies folders with everything that an overlay keeps in them: white-outs, extended attributes, links, modes."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path

from swegym.core.errors import SandboxError
from swegym.envs.sandboxes.reaper import remove_folder

__all__ = ["copy_content", "copy_folders"]


def copy_content(source: Path, target: Path) -> None:
    """Copy what is in a folder into an existing one. Raises SandboxError."""
    if problem := _copy("-T", str(source), str(target)):
        raise SandboxError(f"copying {source} failed: {problem}")


def copy_folders(sources: Iterable[Path], target: Path) -> None:
    """Copy trees into an existing folder; blocks are shared where the file system can, holes stay holes.

    Nothing may write in them meanwhile. An owner who is not root and has taken himself the right to read is helped.

    Raises:
        SandboxError: it failed, for example because the disk is full.
    """
    sources = list(sources)
    arguments = ["--", *map(str, sources), str(target)]
    problem = _copy(*arguments)
    if "Permission denied" in problem and os.geteuid() != 0:
        closed = {path: mode for source in sources for path, mode in _open_up(source)}
        try:
            for source in sources:
                remove_folder(target / source.name)
            problem = _copy(*arguments)
        finally:
            for path, mode in reversed(closed.items()):  # what is in a folder comes before the folder
                path.chmod(mode)
        for source in sources if not problem else ():
            for path, mode in reversed(closed.items()):
                if path.is_relative_to(source):
                    (target / source.name / path.relative_to(source)).chmod(mode)
    if problem:
        raise SandboxError(f"copying a sandbox's files failed: {problem}")


def _copy(*arguments: str) -> str:
    """What went wrong; empty when nothing did."""
    command = ["cp", "-a", "--reflink=auto", *arguments]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    return (done.stderr.decode(errors="replace").strip() or f"exit {done.returncode}") if done.returncode else ""


def _open_up(folder: Path) -> Iterable[tuple[Path, int]]:
    """Make everything in a tree readable for its owner; yields what was not, with its mode, from the top down."""
    mode = stat.S_IMODE(folder.lstat().st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(mode | stat.S_IRWXU)
        yield folder, mode
    for entry in sorted(folder.iterdir()):
        status = entry.lstat()
        if stat.S_ISDIR(status.st_mode):
            yield from _open_up(entry)
        elif stat.S_ISREG(status.st_mode) and not status.st_mode & stat.S_IRUSR:
            entry.chmod(stat.S_IMODE(status.st_mode) | stat.S_IRUSR)
            yield entry, stat.S_IMODE(status.st_mode)
