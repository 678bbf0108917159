"""A repository of your own as a task set: a folder, its tests, a statement and the cure. Nothing is copied or built.

task_set_from_repo("repository", statement="...", gold_patch=Path("gold.patch"), fail_to_pass=["test_a.py::test_b"])
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from swegym.core.errors import ConfigError, TaskError
from swegym.core.records import digest
from swegym.core.task import ImageRecipe, LineEdit, Provenance, SweSecret, SweTask, Task, TaskLimits
from swegym.envs.tasksets.indexed import IndexedTasks
from swegym.envs.workspace import apply_line_edits

__all__ = ["RepoTaskSet", "repo_task", "task_set_from_repo"]

IGNORED_FOLDERS = frozenset((".git", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".venv"))


class RepoTaskSet(IndexedTasks):
    """A `TaskSet` held in memory, over repository folders that lie side by side."""

    def __init__(
        self,
        name: str,
        folder: str | Path,
        tasks: Sequence[tuple[Task, SweSecret]],
        *,
        requirements: Sequence[str] = ("pytest",),
    ) -> None:
        """Hold tasks made by `repo_task`.

        Args:
            name: of the set.
            folder: the one that holds the repository folders.
            tasks: public and secret halves.
            requirements: packages that the tests import; taken from this Python's own where they are installed.

        Raises:
            ConfigError: no tasks, or one id twice.
        """
        super().__init__(name, (task for task, _ in tasks))
        self.requirements = tuple(requirements)
        self._folder = Path(folder).resolve()
        self._secrets = {secret.task_id: secret for _, secret in tasks}
        if not tasks or len(self._tasks) != len(tasks):
            raise ConfigError(f"task set {name!r} needs one task or more, each with an id of its own")

    def secret(self, task_id: str) -> SweSecret:
        """Raises UnknownName."""
        self.get(task_id)
        return self._secrets[task_id]

    def folder(self) -> str:
        return str(self._folder)


def task_set_from_repo(
    folder: str | Path,
    *,
    statement: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str] = (),
    gold_patch: str | Path = "",
    bug: Sequence[LineEdit] = (),
    hidden_files: Mapping[str, str] | None = None,
    name: str = "",
    requirements: Sequence[str] = ("pytest",),
    limits: TaskLimits | None = None,
    license: str = "unknown",
) -> RepoTaskSet:
    """One repository and one thing to mend in it. For several, give `RepoTaskSet` several `repo_task`s.

    Args and Raises: those of `repo_task`, with `name` (default: the folder's) for its `task_id`, and the
    `requirements` of `RepoTaskSet`.
    """
    name = name or Path(folder).resolve().name
    task = repo_task(
        folder,
        task_id=name,
        statement=statement,
        fail_to_pass=fail_to_pass,
        pass_to_pass=pass_to_pass,
        gold_patch=gold_patch,
        bug=bug,
        hidden_files=hidden_files,
        limits=limits,
        license=license,
    )
    return RepoTaskSet(name, Path(folder).resolve().parent, [task], requirements=requirements)


def repo_task(
    folder: str | Path,
    *,
    task_id: str,
    statement: str,
    fail_to_pass: Sequence[str],
    pass_to_pass: Sequence[str] = (),
    gold_patch: str | Path = "",
    bug: Sequence[LineEdit] = (),
    hidden_files: Mapping[str, str] | None = None,
    limits: TaskLimits | None = None,
    license: str = "unknown",
) -> tuple[Task, SweSecret]:
    """Public and secret half of one task.

    Args:
        folder: the repository: a plain work tree; a `.git` in it is ignored.
        task_id: unique in its set.
        statement: what the agent is told.
        fail_to_pass: pytest ids that fail at the start and must pass in the end.
        pass_to_pass: pytest ids that pass at the start and must go on to.
        gold_patch: the cure of a repository that holds its bug: a diff as text, or the path of one outside `folder`.
        bug: lines that break a repository which is whole; the cure is then known. Either this or `gold_patch`.
        hidden_files: files that only the grader writes over the tree: path -> content.
        limits: of an episode.
        license: of the repository's code.

    Raises:
        ConfigError: something is missing, contradicts itself or would give the cure away.
    """
    root = Path(folder).resolve()
    hidden = dict(hidden_files or {})
    if not root.is_dir():
        raise ConfigError(f"no repository folder {folder}")
    if not statement.strip() or not fail_to_pass:
        raise ConfigError(f"task {task_id!r} needs a statement and at least one fail_to_pass test")
    for test in (*fail_to_pass, *pass_to_pass):
        path = test.partition("::")[0]
        if path not in hidden and not (root / path).is_file():
            raise ConfigError(f"task {task_id!r}: test {test!r} lies in a file that {root} has not")
    if bool(gold_patch) == bool(bug):
        raise ConfigError(
            f"task {task_id!r} needs either gold_patch (the tree holds its bug) or bug (the tree is whole)"
        )
    patch = _reverse_patch(root, bug) if bug else _read_patch(root, gold_patch, task_id)
    slug = re.sub(r"[^a-z0-9._-]+", "-", root.name.lower()).strip("-._") or "repository"
    payload = SweTask(
        repo=root.name,
        image=f"{slug}:{_tree_digest(root)}",
        recipe=ImageRecipe(workspace=root.name),
        start_edits=tuple(bug),
    )
    task = Task(
        task_id=task_id,
        statement=statement,
        limits=limits or TaskLimits(),
        provenance=Provenance(source=f"folder:{root.name}", license=license, builder="swegym.envs.task_set_from_repo"),
        payload=payload,
    )
    secret = SweSecret(
        task_id=task_id,
        patch=patch,
        hidden_files=hidden,
        FAIL_TO_PASS=tuple(fail_to_pass),
        PASS_TO_PASS=tuple(pass_to_pass),
    )
    return task, secret


def _read_patch(root: Path, gold_patch: str | Path, task_id: str) -> str:
    if isinstance(gold_patch, str):
        return gold_patch
    if gold_patch.resolve().is_relative_to(root):
        raise ConfigError(f"task {task_id!r}: {gold_patch} lies in the repository, where the agent would find the cure")
    try:
        return gold_patch.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"task {task_id!r}: cannot read {gold_patch}: {error.strerror}") from None


def _reverse_patch(root: Path, bug: Sequence[LineEdit]) -> str:
    """Unified diff from the broken tree back to the whole one."""
    parts: list[str] = []
    for path in dict.fromkeys(edit.path for edit in bug):
        try:
            whole = (root / path).read_bytes()
            broken = apply_line_edits(whole, [edit for edit in bug if edit.path == path])
        except OSError as error:
            raise ConfigError(f"bug in {path!r}: {error.strerror}") from None
        except TaskError as error:
            raise ConfigError(str(error)) from None
        if broken == whole:
            raise ConfigError(f"bug in {path!r} changes nothing")
        parts.append(f"diff --git a/{path} b/{path}\n")
        for line in difflib.unified_diff(_lines(broken), _lines(whole), f"a/{path}", f"b/{path}"):
            parts.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(parts)


def _lines(data: bytes) -> list[str]:
    *whole, last = data.decode("utf-8").split("\n")
    return [line + "\n" for line in whole] + ([last] if last else [])


def _tree_digest(root: Path) -> str:
    """Names, modes and contents of the tree's files, so that an image's name and a task's fingerprint follow them."""
    parts: list[bytes | str] = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not IGNORED_FOLDERS.intersection(path.relative_to(root).parts):
            parts += [path.relative_to(root).as_posix(), f"{path.stat().st_mode & 0o111:o}", path.read_bytes()]
    return digest(*parts)
