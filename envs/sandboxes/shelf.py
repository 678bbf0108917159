"""Which sandboxes wait ready and which should: the warm pool's book-keeping. It starts, checks and removes nothing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from swegym.core.sandbox import Sandbox, SandboxSpec

__all__ = ["Shelf", "Waiting"]


@dataclass(slots=True, eq=False)
class Waiting:
    """A request's place in the line. `got`: a ready sandbox, or None for room to start one."""

    key: str | None
    got: asyncio.Future[Sandbox | None]


@dataclass(slots=True)
class _Section:
    """The ready sandboxes of one spec, the oldest first, with the time since when each waits."""

    spec: SandboxSpec
    asked_at: float = 0.0
    ready: deque[tuple[float, Sandbox]] = field(default_factory=deque)
    num_expected: int = 0


class Shelf:
    """Ready sandboxes by key: what a spec is apart from its labels. The clock is time.monotonic.

    Args:
        per_key: how many of a key should be ready.
        limit: how many in all; for more, those of the keys that were asked for longest ago go.
        idle_s: how long one may wait, and how long a key is remembered without being asked for.
    """

    def __init__(self, per_key: int, limit: int, idle_s: float) -> None:
        self._per_key, self._limit, self._idle_s = min(per_key, limit), limit, idle_s
        self._sections: dict[str, _Section] = {}
        """The key asked for longest ago comes first."""

    def __len__(self) -> int:
        return sum(len(section.ready) for section in self._sections.values())

    def ask(self, key: str, spec: SandboxSpec) -> None:
        """Note that somebody wants this key now."""
        section = self._sections.pop(key, None) or _Section(spec)
        section.asked_at = time.monotonic()
        self._sections[key] = section

    def most_wanted(self, excluded: Container[str]) -> str | None:
        """The key asked for most recently of which one more should be started, if any."""
        num_newer = 0
        oldest_s = time.monotonic() - self._idle_s
        for key, section in reversed(self._sections.items()):
            num_ready = len(section.ready) + section.num_expected
            if num_newer + num_ready >= self._limit or section.asked_at < oldest_s:
                return None
            if num_ready < self._per_key and key not in excluded:
                return key
            num_newer += num_ready
        return None

    def expect(self, key: str) -> SandboxSpec:
        """One more is being started: of the spec that is returned."""
        section = self._sections[key]
        section.num_expected += 1
        return section.spec

    def disappoint(self, key: str) -> None:
        """It did not start."""
        self._sections[key].num_expected -= 1

    def put(self, key: str, sandbox: Sandbox) -> None:
        """It did."""
        section = self._sections[key]
        section.num_expected -= 1
        section.ready.append((time.monotonic(), sandbox))

    def take(self, key: str) -> Sandbox | None:
        """The ready one that has waited longest."""
        section = self._sections.get(key)
        return section.ready.popleft()[1] if section is not None and section.ready else None

    def take_oldest(self) -> Sandbox | None:
        """A ready one of the key asked for longest ago."""
        for section in self._sections.values():
            if section.ready:
                return section.ready.popleft()[1]
        return None

    def surplus(self) -> list[Sandbox]:
        """Take out what is above the limit, counting those that are being started."""
        over = len(self) + sum(section.num_expected for section in self._sections.values()) - self._limit
        return [sandbox for _ in range(over) if (sandbox := self.take_oldest()) is not None]

    def take_stale(self) -> list[Sandbox]:
        """Take out what has waited too long, and forget the keys that nobody wants any more."""
        oldest_s = time.monotonic() - self._idle_s
        stale = []
        for key, section in list(self._sections.items()):
            while section.ready and section.ready[0][0] <= oldest_s:
                stale.append(section.ready.popleft()[1])
            if not section.ready and not section.num_expected and section.asked_at <= oldest_s:
                del self._sections[key]
        return stale

    def take_all(self) -> list[Sandbox]:
        return [sandbox for _ in range(len(self)) if (sandbox := self.take_oldest()) is not None]

    def next_retirement_s(self) -> float | None:
        """Seconds until `take_stale` has something to do; None when there is nothing."""
        times = [section.ready[0][0] if section.ready else section.asked_at for section in self._sections.values()]
        return max(0.0, min(times) + self._idle_s - time.monotonic()) if times else None
