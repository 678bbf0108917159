"""RewardFn: (task, trajectory, outcome) -> named terms in declared ranges. Pure, so that it can be recomputed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from swegym.core.errors import RewardError
from swegym.core.outcome import Outcome
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory

__all__ = ["RewardFn", "check_terms"]


class RewardFn(Protocol):
    """A named reward. Called only for valid trajectories with a valid outcome."""

    name: str
    ranges: Mapping[str, tuple[float, float]]
    """Term name -> lowest and highest value it can take."""

    def __call__(self, task: Task, trajectory: Trajectory, outcome: Outcome) -> dict[str, float]: ...


def check_terms(reward: RewardFn, terms: Mapping[str, float]) -> None:
    """Raise RewardError unless the terms are exactly the declared ones, finite and in range."""
    if set(terms) != set(reward.ranges):
        raise RewardError(f"reward {reward.name!r} returned terms {sorted(terms)}, declared {sorted(reward.ranges)}")
    for name, value in terms.items():
        low, high = reward.ranges[name]
        if not math.isfinite(value) or not low <= value <= high:
            raise RewardError(f"reward {reward.name!r}: term {name} = {value} is outside its range [{low}, {high}]")
