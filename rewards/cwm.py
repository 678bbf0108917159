"""CWM's three-valued reward. Source: cwm.md 5.3 (the release compares with >=, where the paper says "above")."""

from __future__ import annotations

from collections.abc import Mapping

from swegym.core.outcome import Outcome
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory

__all__ = ["CwmReward"]


class CwmReward:
    """+1 when the hidden tests pass, 0 when the patch is similar to the gold patch, -1 otherwise.

    An episode that ran into a limit earns -1 whatever its work tree holds: CWM's policy must hand in its patch.
    """

    name = "cwm"
    ranges: Mapping[str, tuple[float, float]] = {"outcome": (-1.0, 1.0)}
    min_similarity = 0.5

    def __call__(self, task: Task, trajectory: Trajectory, outcome: Outcome) -> dict[str, float]:
        """Term `outcome`."""
        if trajectory.truncated:
            return {"outcome": -1.0}
        if outcome.resolved:
            return {"outcome": 1.0}
        is_similar = outcome.similarity is not None and outcome.similarity >= self.min_similarity
        return {"outcome": 0.0 if is_similar else -1.0}
