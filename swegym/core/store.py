"""EpisodeStore: an append-only folder of trajectories.

Format, version 1: `episodes/` holds files `part-TIME-WRITER.jsonl`, TIME being when the part was begun (ns since the
epoch, 19 digits). One line is one trajectory as JSON with its `schema_version`; fields that equal their default of
that version are left out. A line is appended to a file that only this writer appends to, so several processes write
side by side, and a process killed in the middle of a line leaves every other line whole. Readers pass over a torn line.
An episode written twice (a re-grade) counts as its last line, parts ordered by name, thus by when they were begun.
"""

from __future__ import annotations

import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.trajectory import TRAJECTORY_SCHEMA_VERSION, Trajectory

__all__ = ["EpisodeStore"]

_EPISODE_ID = re.compile(rb'"episode_id":\s*"([^"\\]+)"')
_VERSION = f'{{"schema_version":{TRAJECTORY_SCHEMA_VERSION},'.encode()


class EpisodeStore:
    """Reads and appends trajectories. Safe for several threads of one process and several processes."""

    def __init__(self, folder: Path | str, *, create: bool = True) -> None:
        self.folder = Path(folder)
        if not create and not self.folder.is_dir():
            raise ConfigError(f"no episode store at {self.folder}")
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._owner = os.getpid()

    def append(self, trajectory: Trajectory) -> None:
        """Write one trajectory. Raises OSError when the disk is full; nothing written before or after is harmed."""
        # The version is a default as well, but it must stand in every line: it says what the other defaults were.
        line = _VERSION + trajectory.model_dump_json(exclude_defaults=True).encode()[1:] + b"\n"
        with self._lock:
            descriptor = self._part()
            view = memoryview(line)
            try:
                while view:
                    view = view[os.write(descriptor, view) :]
            except OSError:
                self._close()  # half a line may be written: the next one starts a part of its own
                raise

    def __iter__(self) -> Iterator[Trajectory]:
        return self.select()

    def select(self, where: Callable[[Trajectory], bool] | None = None) -> Iterator[Trajectory]:
        """Each episode once, part by part in the order written. Torn or foreign lines are passed over."""
        last = {episode_id: position for position, episode_id, _ in self._lines()}
        for position, episode_id, line in self._lines():
            if last.get(episode_id) != position:
                continue
            try:
                trajectory = Trajectory.model_validate_json(line)
            except ValidationError:
                continue
            if where is None or where(trajectory):
                yield trajectory

    def ids(self) -> list[str]:
        """Ids of all episodes in the order first written; parses nothing else."""
        return list(dict.fromkeys(episode_id for _, episode_id, _ in self._lines()))

    def get(self, episode_id: str) -> Trajectory:
        """The episode whose id is or starts with `episode_id`. Raises UnknownName, ConfigError (ambiguous prefix)."""
        found: dict[str, Trajectory] = {}
        for _, candidate, line in self._lines():
            if candidate.startswith(episode_id):
                try:
                    found[candidate] = Trajectory.model_validate_json(line)
                except ValidationError:
                    continue
        if episode_id in found:
            return found[episode_id]
        if len(found) > 1:
            raise ConfigError(f"episode {episode_id!r} is ambiguous: {', '.join(sorted(found)[:5])} ...")
        if not found:
            raise UnknownName("episode", episode_id, self.ids()[:20])
        return next(iter(found.values()))

    def close(self) -> None:
        """Close this writer's part; idempotent."""
        with self._lock:
            self._close()

    def _part(self) -> int:
        if self._owner != os.getpid():  # after a fork the part is the parent's
            self._descriptor, self._owner = None, os.getpid()
        if self._descriptor is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"part-{time.time_ns():019d}-{uuid.uuid4().hex[:8]}.jsonl"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None and self._owner == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def _lines(self) -> Iterator[tuple[tuple[str, int], str, bytes]]:
        """((part, line number), episode id, line) of every whole line that looks like a trajectory."""
        parts = self.folder.glob("part-*.jsonl") if self.folder.is_dir() else iter(())
        for part in sorted(parts):
            with part.open("rb") as lines:
                for number, line in enumerate(lines):
                    match = _EPISODE_ID.search(line)
                    if match and line.startswith(b"{") and line.endswith(b"}\n"):
                        yield (part.name, number), match[1].decode("utf-8", "replace"), line
