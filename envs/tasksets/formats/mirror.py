"""Real commits taken back on pinned sdists: rows of (package, version, fix), read and turned into start edits.

Such a row needs nothing but PyPI. The fix of a real commit is applied in reverse to the sdist's tree, which gives the
state before it; the tests stay as the sdist ships them.
"""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from swegym.core.errors import DependencyMissing, TaskError
from swegym.core.records import Record
from swegym.core.task import LineEdit
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.formats.rows import BadRow, RawRow, parse_unique
from swegym.envs.workspace import apply_line_edits

__all__ = ["MirrorRow", "Reversal", "junit_name", "read_mirror_rows", "reverse_fix"]


class MirrorRow(Record, extra="ignore"):
    """One commit and the sdist that it is taken back on."""

    task_id: str = Field(min_length=1, pattern=r"^[^/\s]+$")
    repo: str
    commit: str
    date: str = ""
    license: str = "unknown"
    package: str = Field(min_length=1)
    version: str = Field(min_length=1)
    sdist_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    message: str = ""
    kind: str = "test"
    """`collection`: without the fix the test file cannot even be imported."""
    fix_patch: str = Field(min_length=1)
    src_files: tuple[str, ...] = Field(min_length=1)
    test_files: tuple[str, ...] = Field(min_length=1)
    fail_to_pass: tuple[str, ...] = Field(min_length=1)
    """JUnit names: `package.module.Class::test[parameters]`."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Reversal:
    """The start state of one row, and the way back from it."""

    start_edits: tuple[LineEdit, ...]
    gold_patch: str
    """Unified diff from the start state to the sdist's own files."""


def read_mirror_rows(rows: list[RawRow]) -> tuple[list[MirrorRow], list[BadRow]]:
    """Rows that are whole, and for each of the others what is wrong with it."""
    good, bad = parse_unique(rows, MirrorRow, "task_id")
    return [row for _, row in good], bad


def reverse_fix(tree: Path, row: MirrorRow) -> Reversal:
    """Take the fix back on copies of the files that it touches.

    Args:
        tree: the unpacked sdist; only read.
        row: says which fix.

    Raises:
        TaskError: the fix does not come off, adds or removes files, or touches files that are not UTF-8.
        DependencyMissing: there is no git on this machine.
    """
    if shutil.which("git") is None:
        raise DependencyMissing("git is needed to take fixes back; install it with your system's package manager")
    edits: list[LineEdit] = []
    patches: list[str] = []
    with tempfile.TemporaryDirectory(prefix="swegym-mirror-") as name:
        scratch = Path(name)
        sound: dict[str, bytes] = {}
        for path in row.src_files:
            source = (tree / path).resolve()
            if not source.is_relative_to(tree.resolve()) or not source.is_file():
                raise TaskError(f"{row.task_id}: the sdist has no file {path!r}")
            sound[path] = source.read_bytes()
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            (scratch / path).write_bytes(sound[path])
        _apply_in_reverse(scratch, row)
        found = {path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if path.is_file()}
        if found != set(sound):
            raise TaskError(f"{row.task_id}: the fix adds or removes {', '.join(sorted(found ^ set(sound)))}")
        for path, before in sound.items():
            broken = (scratch / path).read_bytes()
            try:
                patches.append(unified_diff(path, broken.decode("utf-8"), before.decode("utf-8")))
            except UnicodeDecodeError:
                raise TaskError(f"{row.task_id}: {path} is not UTF-8") from None
            edits += line_edits(path, before, broken)
    if not edits:
        raise TaskError(f"{row.task_id}: taking the fix back changes nothing")
    return Reversal(tuple(edits), "".join(patches))


def _apply_in_reverse(folder: Path, row: MirrorRow) -> None:
    patch = row.fix_patch if row.fix_patch.endswith("\n") else row.fix_patch + "\n"
    # Outside of any repository, and deaf to the user's configuration.
    environment = {"PATH": os.environ.get("PATH", ""), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    environment |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C"}
    result = subprocess.run(
        ["git", "apply", "-R", "--whitespace=nowarn", "-"],
        cwd=folder,
        input=patch.encode(),
        capture_output=True,
        env=environment,
        timeout=60.0,
        check=False,
    )
    if result.returncode != 0:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        raise TaskError(f"{row.task_id}: the fix does not come off: {lines[-1] if lines else 'git apply failed'}")


def line_edits(path: str, before: bytes, after: bytes) -> list[LineEdit]:
    """Edits that make `after` of `before`.

    Raises:
        TaskError: they cannot say it (a last line that loses its newline).
    """
    old, new = _lines(before), _lines(after)
    edits = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            edits.append(LineEdit(path=path, first_line=i1 + 1, last_line=i2, text="".join(new[j1:j2])))
    if apply_line_edits(before, edits) != after:
        raise TaskError(f"{path}: the start state cannot be written as line edits")
    return edits


def _lines(data: bytes) -> list[str]:
    *whole, last = data.decode("utf-8").split("\n")
    return [line + "\n" for line in whole] + ([last] if last else [])


def junit_name(test_id: str) -> str:
    """A pytest id as JUnit names it: `tests/test_a.py::TestB::test_c[x]` -> `tests.test_a.TestB::test_c[x]`."""
    head, bracket, parameters = test_id.partition("[")
    file, *names = head.split("::")
    module = file.removesuffix(".py").replace("/", ".")
    return f"{'.'.join([module, *names[:-1]])}::{names[-1] if names else ''}{bracket}{parameters}"
