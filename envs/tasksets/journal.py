"""Records in a JSONL file, so that interrupted work goes on where it stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from swegym.core.records import Record

__all__ = ["Journal", "JournalRecord"]


class JournalRecord(Record):
    """What a journal can hold."""

    key: str


Item = TypeVar("Item", bound=JournalRecord)


class Journal(Generic[Item]):
    """Records of one kind by their `key`; of two with one key the later counts.

    Args:
        path: of the file; it is made by the first record.
        model: the kind of record.
    """

    def __init__(self, path: Path, model: type[Item]) -> None:
        self._path = path
        self.items: dict[str, Item] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    item = model.model_validate_json(line)
                except ValidationError:
                    continue  # the line that an interruption cut short: that work is done again
                self.items[item.key] = item

    def add(self, item: Item) -> None:
        """Keep a record, whole or not at all."""
        self.items[item.key] = item
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, b"\n" + item.model_dump_json().encode() + b"\n")
        finally:
            os.close(handle)
