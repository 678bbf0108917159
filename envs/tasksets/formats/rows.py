"""Rows of a public data set from JSONL, JSON, Parquet or a `datasets` id, and how malformed ones are named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from swegym.core.errors import ConfigError, DependencyMissing, boundary

__all__ = ["SUFFIXES", "BadRow", "RawRow", "first_problem", "name_bad_rows", "parse_unique", "read_rows"]

SUFFIXES = (".jsonl", ".json", ".parquet")
MAX_NAMED_ROWS = 20

Row = TypeVar("Row", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RawRow:
    """One record as it stands in the file."""

    number: int
    """Line of a JSONL file; else place in the file, from 1."""
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why it could not be read at all."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """What is wrong with a row."""

    number: int
    task_id: str
    field: str
    problem: str

    def __str__(self) -> str:
        where = f" ({self.task_id})" if self.task_id else ""
        return f"row {self.number}{where}: {self.field + ': ' if self.field else ''}{self.problem}"


def name_bad_rows(source: str, bad_rows: Iterable[BadRow], limit: int = MAX_NAMED_ROWS) -> str:
    """One line a row, the first `limit` of them."""
    lines = [f"{source}: {row}" for row in bad_rows]
    rest = len(lines) - limit
    return "\n".join(lines[:limit] + ([f"... and {rest} more malformed rows"] if rest > 0 else []))


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Field and message of the first thing that pydantic found."""
    problem = error.errors(include_url=False)[0]
    return ".".join(str(part) for part in problem["loc"]), str(problem["msg"])


def parse_unique(rows: Iterable[RawRow], model: type[Row], id_field: str) -> tuple[list[tuple[int, Row]], list[BadRow]]:
    """Rows that are whole, each with its number, and for each of the others what is wrong with it."""
    good: dict[str, tuple[int, Row]] = {}
    bad: list[BadRow] = []
    for raw in rows:
        name = str(raw.values.get(id_field, ""))
        try:
            row = model.model_validate(raw.values)
        except ValidationError as error:
            bad.append(BadRow(raw.number, name, *first_problem(error)))
            continue
        if name in good:
            bad.append(BadRow(raw.number, name, id_field, "occurs twice"))
            continue
        good[name] = raw.number, row
    return list(good.values()), bad


def read_rows(source: str, split: str = "") -> list[RawRow]:
    """All records of a file, of a folder saved by `datasets`, or of a `datasets` id.

    Args:
        source: path of a .jsonl, .json or .parquet file or of a folder; otherwise an id such as `owner/name`.
        split: of a `datasets` source; "" takes `test` where there is one, else the first.

    Raises:
        ConfigError: nothing there, or not readable as a whole.
        DependencyMissing: pyarrow or datasets is needed and not installed.
    """
    path = Path(source)
    if path.is_dir():
        return _from_datasets(source, split, is_folder=True)
    if not path.is_file():
        if path.suffix in SUFFIXES or source.startswith((".", "/")) or source.count("/") != 1:
            raise ConfigError(f"no file {source}")
        return _from_datasets(source, split, is_folder=False)
    if path.suffix == ".parquet":
        return _from_parquet(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from None
    whole = _as_one_document(data) if path.suffix != ".jsonl" else None
    if whole is not None:
        return [_raw(number, values) for number, values in enumerate(whole, start=1)]
    return _from_lines(data)


def _raw(number: int, values: object) -> RawRow:
    if isinstance(values, dict):
        return RawRow(number, values)
    return RawRow(number, problem=f"is a {type(values).__name__}, not an object")


def _as_one_document(data: bytes) -> list[Any] | None:
    """Records of a JSON file: a list, one record, or an object of records; None when it is not one document."""
    try:
        document = json.loads(data)
    except ValueError:
        return None  # perhaps JSON lines in a file called .json
    if isinstance(document, list):
        return document
    is_table = isinstance(document, dict) and document and all(isinstance(item, dict) for item in document.values())
    return list(document.values()) if is_table else [document]


def _from_lines(data: bytes) -> list[RawRow]:
    rows: list[RawRow] = []
    # Not splitlines: issue texts hold form feeds and U+2028, which JSON leaves as they are.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_raw(number, json.loads(line)))
        except ValueError as error:
            rows.append(RawRow(number, problem=f"not JSON: {error}"))
    return rows


def _from_parquet(path: Path) -> list[RawRow]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DependencyMissing(f"{path.name}: reading Parquet needs pyarrow: pip install 'swegym[formats]'") from None
    with boundary(ConfigError, f"{path} is not a Parquet file"):
        table = parquet.read_table(path)
    return [_raw(number, values) for number, values in enumerate(table.to_pylist(), start=1)]


def _from_datasets(source: str, split: str, *, is_folder: bool) -> list[RawRow]:
    try:
        import datasets
    except ImportError:
        hint = "pip install 'swegym[formats]', or give a .jsonl, .json or .parquet file"
        raise DependencyMissing(f"{source}: no such file; reading a data set needs `datasets`: {hint}") from None
    with boundary(ConfigError, f"data set {source} cannot be loaded"):
        loaded = datasets.load_from_disk(source) if is_folder else datasets.load_dataset(source)
    if hasattr(loaded, "keys"):  # a DatasetDict: splits by name
        names = list(loaded.keys())
        wanted = split or ("test" if "test" in names else names[0])
        if wanted not in names:
            raise ConfigError(f"data set {source} has no split {wanted!r}; it has {', '.join(names)}")
        loaded = loaded[wanted]
    return [_raw(number, dict(values)) for number, values in enumerate(loaded, start=1)]
