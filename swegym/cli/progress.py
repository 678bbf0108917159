"""Progress on the terminal: a live bar where somebody watches, plain lines in pipes and logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swegym.core.progress import Progress

__all__ = ["RichProgress", "show_progress"]


class RichProgress:
    """Implements `swegym.core.progress.Progress` with one live bar; stages and remarks scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
        )
        self._row = self._bars.add_task("", total=None, note="", visible=False)
        self._started = time.monotonic()

    def start(self) -> None:
        """Begin to draw."""
        self._bars.start()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._bars.stop()

    def stage(self, title: str) -> None:
        """A new part of the work begins."""
        self.say(title)
        self._bars.reset(self._row, description=title, total=None, completed=0, note="", visible=True)

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Position within the stage."""
        self._bars.update(self._row, completed=done, total=total, note=note)

    def say(self, line: str) -> None:
        """One line that stays."""
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._console.print(f"[{minutes:02d}:{seconds:02d}] {line}", markup=False, highlight=False)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Progress on stderr for the length of the block."""
    if not sys.stderr.isatty():
        from swegym.core.progress import PlainProgress

        yield PlainProgress()
        return
    progress = RichProgress()
    progress.start()
    try:
        yield progress
    finally:
        progress.stop()
