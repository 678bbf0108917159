"""A task set as a folder: manifest, tasks.jsonl (public), secrets.jsonl (secret), workspace/, dependencies/.

manifest.json or manifest.toml   name, schema version, licence, provenance, requirements of the tests
tasks.jsonl                      one public `Task` a line
secrets.jsonl                    one `SweSecret` a line; read only when a grader asks for one
workspace/                       the repository's files, mounted copy on write (`ImageRecipe.workspace`)
dependencies/                    installed packages; when absent they are made from `requirements`
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.records import Record
from swegym.core.registry import load_object
from swegym.core.sandbox import SandboxSpec
from swegym.core.task import SweSecret, Task, TaskSet
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.indexed import IndexedTasks

__all__ = ["FolderTaskSet", "Manifest", "resolve_task_set", "sandbox_spec", "save_task_set", "tiny_task_set"]

MAX_NAMED_ROWS = 20
R = TypeVar("R", bound=Record)


class Manifest(Record):
    """What a task set is and where it comes from."""

    name: str = Field(min_length=1)
    schema_version: Literal[1] = 1
    license: str = "unknown"
    """Licence of the code in workspace/, as its authors state it."""
    source: str = ""
    """For example `pypi:boltons==26.2.0`."""
    description: str = ""
    builder: str = ""
    created_at: str = ""
    requirements: tuple[str, ...] = ("pytest",)
    """What the tests import, when there is no dependencies/ folder."""
    statistics: dict[str, Any] = Field(default_factory=dict)
    """Counts of the build, for people."""


class FolderTaskSet(IndexedTasks):
    """A `TaskSet` read from a folder. The secret half is not read before the first call of `secret`."""

    def __init__(self, path: str | Path, *, strict: bool = True) -> None:
        """Read the manifest and the public half.

        Args:
            path: the folder.
            strict: refuse the set when a row is malformed; otherwise the other rows load and `bad_rows` names those.

        Raises:
            ConfigError: no such folder, a bad manifest, or (strict) bad rows, named one by one.
        """
        self._folder = Path(path).resolve()
        if not self._folder.is_dir():
            raise ConfigError(f"no task set folder {path}")
        self.manifest = read_manifest(self._folder)
        rows, self.bad_rows = _read_rows(self._folder / "tasks.jsonl", Task)
        if self.bad_rows and strict:
            raise ConfigError(_name_rows(self.bad_rows))
        seen: set[str] = set()
        for task in rows:
            if task.task_id in seen:
                raise ConfigError(f"{self._folder / 'tasks.jsonl'}: task id {task.task_id!r} occurs twice")
            seen.add(task.task_id)
        super().__init__(self.manifest.name, rows)
        self._secrets: dict[str, SweSecret] | None = None

    @property
    def requirements(self) -> tuple[str, ...]:
        return self.manifest.requirements

    def secret(self, task_id: str) -> SweSecret:
        """Raises UnknownName, ConfigError (the secret file is absent or malformed)."""
        if self._secrets is None:
            rows, bad_rows = _read_rows(self._folder / "secrets.jsonl", SweSecret)
            if bad_rows:
                raise ConfigError(_name_rows(bad_rows))
            self._secrets = {row.task_id: row for row in rows}
        if task_id not in self._secrets:
            raise UnknownName(f"secret in {self.name!r}", task_id, list(self._secrets))
        return self._secrets[task_id]

    def folder(self) -> str:
        return str(self._folder)


def read_manifest(folder: Path) -> Manifest:
    """Raises ConfigError: absent, there twice, unreadable or with unknown keys."""
    paths = [path for name in ("manifest.json", "manifest.toml") if (path := folder / name).is_file()]
    if len(paths) != 1:
        what = "two manifests" if paths else "no manifest.json or manifest.toml"
        raise ConfigError(f"{folder} is not a task set: {what}")
    try:
        text = paths[0].read_text("utf-8")
        values = json.loads(text) if paths[0].suffix == ".json" else tomllib.loads(text)
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{paths[0]}: {_first_problem(error)}") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{paths[0]} cannot be read: {error}") from None


def _read_rows(path: Path, record: type[R]) -> tuple[list[R], list[str]]:
    """Rows of a JSONL file and, for every malformed one, a line that names it."""
    rows: list[R] = []
    bad_rows: list[str] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(record.model_validate_json(line))
        except ValidationError as error:
            bad_rows.append(f"{path}:{number}: {_first_problem(error)}")
    return rows, bad_rows


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where + ': ' if where else ''}{problem['msg']}{more}"


def _name_rows(bad_rows: list[str]) -> str:
    rest = len(bad_rows) - MAX_NAMED_ROWS
    return "\n".join(bad_rows[:MAX_NAMED_ROWS] + ([f"... and {rest} more malformed rows"] if rest > 0 else []))


def save_task_set(
    folder: str | Path, manifest: Manifest, tasks: Iterable[Task], secrets: Iterable[SweSecret]
) -> FolderTaskSet:
    """Write manifest.json, tasks.jsonl and secrets.jsonl, each atomically; workspace/ is the caller's to fill.

    The manifest is written last, so a folder that was interrupted is not a task set yet.

    Raises:
        ConfigError: a task has no secret, or the folder cannot be written.
    """
    tasks, by_id = list(tasks), {secret.task_id: secret for secret in secrets}
    missing = [task.task_id for task in tasks if task.task_id not in by_id]
    if missing:
        raise ConfigError(f"no secret for task {missing[0]!r} (and {len(missing) - 1} more)")
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write_atomically(root / "tasks.jsonl", "".join(task.model_dump_json() + "\n" for task in tasks))
        lines = (by_id[task.task_id].model_dump_json() + "\n" for task in tasks)
        _write_atomically(root / "secrets.jsonl", "".join(lines))
        _write_atomically(root / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write task set {root}: {error.strerror}") from None
    return FolderTaskSet(root)


def _write_atomically(path: Path, text: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def resolve_task_set(name_or_path: str | TaskSet) -> TaskSet:
    """A registered name, "module:attr" (a TaskSet, or a function that returns one), a folder's path, or rows of a
    public format: a .jsonl, .json or .parquet file, or FORMAT:SOURCE such as `swebench:rows.jsonl`.

    Raises:
        UnknownName: none of these.
        ConfigError: it is one of these and cannot be read.
    """
    if not isinstance(name_or_path, str):
        return name_or_path
    from swegym.core.registries import tasksets
    from swegym.envs.tasksets.formats.taskset import load_format, split_source

    if name_or_path in tasksets:
        found: object = tasksets.get(name_or_path)
    elif Path(name_or_path).is_dir():
        return FolderTaskSet(name_or_path)
    elif (rows := split_source(name_or_path)) is not None:
        format_name, path = rows
        return load_format(path, format_name)
    elif os.sep in name_or_path:
        raise ConfigError(f"no task set folder {name_or_path}")
    elif ":" in name_or_path:
        found = load_object(name_or_path)
    else:
        raise UnknownName("task set", name_or_path, tasksets.names())
    if callable(found):
        found = found()
    if not isinstance(found, TaskSet):
        raise ConfigError(f"task set {name_or_path!r} leads to a {type(found).__name__}, not to a TaskSet")
    return found


def tiny_task_set() -> FolderTaskSet:
    """The task set of our own that ships with the package."""
    return FolderTaskSet(Path(__file__).resolve().parent.parent / "data" / "tiny")


def sandbox_spec(task: Task, taskset: TaskSet) -> SandboxSpec:
    """What a provider needs to make this task's sandbox: the recipe's folders as absolute paths.

    Makes the dependencies from the manifest's requirements when the set ships none (cached; may call pip).

    Raises:
        ConfigError: a folder is missing or lies outside the task set, or the dependencies cannot be made.
    """
    payload = task.payload
    workspace = dependencies = dockerfile = None
    if payload.recipe is not None:
        if payload.recipe.workspace is not None:
            workspace = _inner_path(taskset, payload.recipe.workspace)
        if payload.recipe.dockerfile is not None:
            dockerfile = _inner_path(taskset, payload.recipe.dockerfile, is_folder=False)
        if payload.recipe.dependencies is not None:
            dependencies = _inner_path(taskset, payload.recipe.dependencies)
        elif dockerfile is None and (requirements := getattr(taskset, "requirements", ("pytest",))):
            dependencies = str(ensure_dependencies(requirements))
    return SandboxSpec(
        image=payload.image,
        workspace=workspace,
        dependencies=dependencies,
        dockerfile=dockerfile,
        workdir=payload.workdir,
        # Cached bytecode is judged by whole seconds and size: `==` -> `!=` within a second would run the old code.
        environment={"PYTHONDONTWRITEBYTECODE": "1", **payload.environment},
        labels={"task": task.task_id},
    )


def _inner_path(taskset: TaskSet, relative: str, *, is_folder: bool = True) -> str:
    root = Path(taskset.folder()).resolve()
    path = (root / relative).resolve()
    kind = "folder" if is_folder else "file"
    if not path.is_relative_to(root):
        raise ConfigError(f"task set {taskset.name!r}: {kind} {relative!r} lies outside {root}")
    if not (path.is_dir() if is_folder else path.is_file()):
        raise ConfigError(f"task set {taskset.name!r}: no {kind} {path}")
    return str(path)
