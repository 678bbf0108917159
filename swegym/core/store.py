"""EpisodeStore: an append-only folder of trajectories.

Format, version 1: `episodes/` holds files `part-WRITER.jsonl`. One line is one trajectory as JSON, written by one
`write` call to a file that only this writer appends to, so that several processes write side by side and a process
killed in the middle of a line leaves every other line whole. Readers skip a torn last line.
An episode written twice (a re-grade) counts as its last line, parts ordered by time of change.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.trajectory import Trajectory

__all__ = ["EpisodeStore"]


class EpisodeStore:
    """Reads and appends trajectories. Safe for several threads of one process and several processes."""

    def __init__(self, folder: Path | str, *, create: bool = True) -> None:
        self.folder = Path(folder)
        if not create and not self.folder.is_dir():
            raise ConfigError(f"no episode store at {self.folder}")
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def append(self, trajectory: Trajectory) -> None:
        """Write one trajectory. Raises OSError when the disk is full; nothing written before is harmed."""
        line = trajectory.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with self._lock:
            if self._descriptor is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"part-{uuid.uuid4().hex[:12]}.jsonl"
                self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            view = memoryview(line)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def __iter__(self) -> Iterator[Trajectory]:
        return self.select()

    def select(self, where: Callable[[Trajectory], bool] | None = None) -> Iterator[Trajectory]:
        """Trajectories in the order written, part by part. Torn or foreign lines are passed over."""
        for line in self._lines():
            try:
                trajectory = Trajectory.model_validate_json(line)
            except ValidationError:
                continue
            if where is None or where(trajectory):
                yield trajectory

    def get(self, episode_id: str) -> Trajectory:
        """The episode whose id is or starts with `episode_id`. Raises UnknownName, ConfigError (ambiguous prefix)."""
        needle = f'"episode_id":"{episode_id}'.encode()
        found: dict[str, Trajectory] = {}
        for line in self._lines():
            if needle in line:  # a cheap pass before parsing
                trajectory = Trajectory.model_validate_json(line)
                if trajectory.episode_id.startswith(episode_id):
                    found[trajectory.episode_id] = trajectory
        if episode_id in found:
            return found[episode_id]
        if len(found) > 1:
            raise ConfigError(f"episode {episode_id!r} is ambiguous: {', '.join(sorted(found)[:5])} ...")
        if not found:
            raise UnknownName("episode", episode_id, [item.episode_id for item in self.select()])
        return next(iter(found.values()))

    def close(self) -> None:
        """Close this writer's part; idempotent."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _lines(self) -> Iterator[bytes]:
        parts = self.folder.glob("part-*.jsonl") if self.folder.is_dir() else iter(())
        for part in sorted(parts, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            with part.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        yield line
