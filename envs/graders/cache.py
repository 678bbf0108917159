"""Grades by (task, secret, patch): each is computed once, also when many ask at the same time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import ValidationError

from swegym.core.outcome import Outcome, Validity
from swegym.core.records import Record

__all__ = ["GradeCache"]


class CachedGrade(Record):
    """One line of the cache file."""

    key: str
    outcome: Outcome


class GradeCache:
    """In memory, and in a JSONL file when given a path. Only valid outcomes are kept: the others are tried again."""

    def __init__(self, path: str | Path | None = None) -> None:
        self._outcomes: dict[str, Outcome] = {}
        self._running: dict[str, asyncio.Task[Outcome]] = {}
        self._path = Path(path) if path is not None else None
        if self._path is not None and self._path.exists():
            self._load(self._path)

    def _load(self, path: Path) -> None:
        for line in path.read_bytes().split(b"\n"):
            try:
                row = CachedGrade.model_validate_json(line)
            except ValidationError:
                continue  # a line cut short by a crash costs one grading
            self._outcomes[row.key] = row.outcome

    async def get(self, key: str, compute: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """The outcome under this key; `compute` runs at most once at a time for each key.

        A caller that is cancelled does not cancel the computation: others may wait for it.
        """
        if key in self._outcomes:
            return self._outcomes[key].model_copy(update={"cached": True})
        task = self._running.get(key)
        joined = task is not None
        if task is None:
            task = asyncio.ensure_future(self._compute(key, compute))
            self._running[key] = task
        outcome = await asyncio.shield(task)
        return outcome.model_copy(update={"cached": True}) if joined else outcome

    async def _compute(self, key: str, compute: Callable[[], Awaitable[Outcome]]) -> Outcome:
        try:
            outcome = await compute()
            if outcome.validity is Validity.VALID:
                self._outcomes[key] = outcome
                self._append(CachedGrade(key=key, outcome=outcome))
            return outcome
        finally:
            self._running.pop(key, None)

    def _append(self, row: CachedGrade) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # One write to a file in append mode, led by a newline that ends whatever a crash left unfinished.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, b"\n" + row.model_dump_json().encode() + b"\n")
        finally:
            os.close(handle)

    async def close(self) -> None:
        """Cancel what is running."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
