"""A file of foreign rows as a task set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.task import SweSecret, Task
from swegym.envs.tasksets.formats.convert import FORMATS, Format, detect_format
from swegym.envs.tasksets.formats.fields import RowProblem
from swegym.envs.tasksets.formats.rows import SUFFIXES, BadRow, RawRow, first_problem, name_bad_rows, read_rows
from swegym.envs.tasksets.indexed import IndexedTasks

if TYPE_CHECKING:
    from swegym.envs.tasksets.folder import FolderTaskSet

__all__ = ["FormatTaskSet", "find_format", "load_format", "save_format", "split_source"]


class FormatTaskSet(IndexedTasks):
    """A `TaskSet` over rows of a public format. Malformed rows are left out and named in `bad_rows`."""

    def __init__(
        self, name: str, folder: Path, halves: Iterable[tuple[Task, SweSecret]], bad_rows: list[BadRow], format: str
    ) -> None:
        kept = list(halves)
        super().__init__(name, (task for task, _ in kept))
        self._secrets = {secret.task_id: secret for _, secret in kept}
        self._folder = folder
        self.bad_rows = bad_rows
        self.format = format

    def secret(self, task_id: str) -> SweSecret:
        """Raises UnknownName."""
        self.get(task_id)
        return self._secrets[task_id]

    def folder(self) -> str:
        return str(self._folder)


def split_source(source: str) -> tuple[str, str] | None:
    """(format, path) of `FORMAT:PATH`, of a file with a known suffix, or None: the text names no file of rows."""
    prefix, colon, rest = source.partition(":")
    if colon and prefix in FORMATS:
        return prefix, rest
    return ("", source) if source.endswith(SUFFIXES) else None


def load_format(source: str, format: str = "", *, strict: bool = False, split: str = "") -> FormatTaskSet:
    """Load rows of a public format.

    Args:
        source: a .jsonl, .json or .parquet file, a folder saved by `datasets`, or a `datasets` id.
        format: key of `convert.FORMATS`; "" finds it from the keys of the rows.
        strict: refuse the whole when a row is malformed.
        split: of a `datasets` source.

    Raises:
        ConfigError: unreadable, no row is a task, or (strict) malformed rows, named one by one.
        UnknownName: no such format.
        DependencyMissing: pyarrow or datasets is needed.
    """
    rows = read_rows(source, split)
    if not rows:
        raise ConfigError(f"{source} holds no rows")
    chosen = find_format(source, rows, format)
    if chosen.convert is None:
        raise ConfigError(f"{source}: rows of format {chosen.name!r} must be built: swegym tasks import {source}")
    halves: dict[str, tuple[Task, SweSecret]] = {}
    bad: list[BadRow] = []
    for row in rows:
        made = _convert(row, chosen)
        if isinstance(made, BadRow):
            bad.append(made)
        elif made[0].task_id in halves:
            bad.append(BadRow(row.number, made[0].task_id, "instance_id", "occurs twice; the first one is kept"))
        else:
            halves[made[0].task_id] = made
    if not halves or (bad and strict):
        raise ConfigError(name_bad_rows(source, bad))
    path = Path(source)
    folder = path.resolve().parent if path.exists() else Path.cwd()
    return FormatTaskSet(path.stem, folder, halves.values(), bad, chosen.name)


def save_format(taskset: FormatTaskSet, out: str | Path, source: str) -> FolderTaskSet:
    """Write loaded rows as a task set folder, which loads without the file that they came from.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from swegym.envs.tasksets.folder import Manifest, save_task_set

    manifest = Manifest(
        name=taskset.name,
        license=", ".join(sorted({task.provenance.license for task in taskset})),
        source=Path(source).name,
        description=f"Rows of format {taskset.format}.",
        builder="swegym import/1",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        requirements=(),
        statistics={"malformed rows": [str(row) for row in taskset.bad_rows]},
    )
    return save_task_set(out, manifest, taskset, (taskset.secret(task_id) for task_id in taskset.ids()))


def find_format(source: str, rows: list[RawRow], format: str = "") -> Format:
    """The format named, or the one that most rows look like.

    Raises:
        UnknownName: no such format. ConfigError: no row looks like any.
    """
    if format:
        if format not in FORMATS:
            raise UnknownName("task format", format, list(FORMATS))
        return FORMATS[format]
    seen = Counter(name for row in rows if (name := detect_format(row.values)))
    if not seen:
        keys = ", ".join(sorted(rows[0].values)[:12]) or rows[0].problem
        known = ", ".join(FORMATS)
        raise ConfigError(f"{source}: rows of no known format ({known}); row {rows[0].number} has: {keys}")
    return FORMATS[seen.most_common(1)[0][0]]


def _convert(row: RawRow, format: Format) -> tuple[Task, SweSecret] | BadRow:
    name = str(row.values.get("instance_id") or row.values.get("commit_hash") or "")
    if row.problem or format.convert is None:
        return BadRow(row.number, name, "", row.problem)
    try:
        return format.convert(row.values)
    except RowProblem as error:
        return BadRow(row.number, name, error.field, error.problem)
    except ValidationError as error:
        return BadRow(row.number, name, *first_problem(error))
