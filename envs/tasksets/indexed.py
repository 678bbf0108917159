"""What every task set that holds its tasks in memory has in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from swegym.core.errors import UnknownName
from swegym.core.task import Task

__all__ = ["IndexedTasks"]


class IndexedTasks:
    """The public half of a `TaskSet`: tasks by id, in order."""

    def __init__(self, name: str, tasks: Iterable[Task]) -> None:
        self.name = name
        self._tasks = {task.task_id: task for task in tasks}

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks.values())

    def ids(self, split: str | None = None) -> list[str]:
        """Task ids in order; `split` picks those with that label."""
        return [task.task_id for task in self if split is None or task.labels.get("split") == split]

    def get(self, task_id: str) -> Task:
        """Raises UnknownName."""
        if task_id not in self._tasks:
            raise UnknownName(f"task in {self.name!r}", task_id, list(self._tasks))
        return self._tasks[task_id]
