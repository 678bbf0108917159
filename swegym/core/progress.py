"""Progress: how long-running work tells what it does. The command line shows it; libraries only call it."""

from __future__ import annotations

import sys
import time
from typing import Protocol

__all__ = ["PlainProgress", "Progress", "Silent"]


class Progress(Protocol):
    """Receives stages, counts and remarks. Called from one thread."""

    def stage(self, title: str) -> None:
        """A new part of the work begins."""
        ...

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Position within the stage."""
        ...

    def say(self, line: str) -> None:
        """One line that stays."""
        ...


class Silent:
    """Shows nothing."""

    def stage(self, title: str) -> None: ...

    def advance(self, done: int, total: int, note: str = "") -> None: ...

    def say(self, line: str) -> None: ...


class PlainProgress:
    """Plain lines on stderr, for pipes and logs: stages and remarks at once, counts every `interval_s` seconds."""

    def __init__(self, interval_s: float = 10.0) -> None:
        self.interval_s = interval_s
        self._started = time.monotonic()
        self._last = 0.0
        self._title = ""

    def stage(self, title: str) -> None:
        self._title, self._last = title, time.monotonic()
        self.say(title)

    def advance(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last >= self.interval_s:
            self._last = now
            self.say(f"{self._title}: {done}/{total}{'  ' + note if note else ''}")

    def say(self, line: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        sys.stderr.write(f"[{minutes:02d}:{seconds:02d}] {line}\n")
        sys.stderr.flush()
