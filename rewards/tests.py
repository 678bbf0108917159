"""The plain test reward: the repository's tests and nothing else."""

from __future__ import annotations

from collections.abc import Mapping

from swegym.core.outcome import Outcome
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory

__all__ = ["TestsReward"]


class TestsReward:
    """1 when every hidden test passes, else 0; how the episode ended does not matter."""

    name = "tests"
    ranges: Mapping[str, tuple[float, float]] = {"resolved": (0.0, 1.0)}
    __test__ = False  # its name makes pytest take it for a test class

    def __call__(self, task: Task, trajectory: Trajectory, outcome: Outcome) -> dict[str, float]:
        """Term `resolved`."""
        return {"resolved": float(outcome.resolved)}
