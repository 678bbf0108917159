"""Wall time of the stages of a build."""

from __future__ import annotations

import time

__all__ = ["Clock"]


class Clock:
    """Laps by name; the time since the last lap counts."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now
