"""Numbers about many trajectories: pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from swegym.core.outcome import Validity
from swegym.core.records import Record
from swegym.core.trajectory import Trajectory

__all__ = ["TrajectoryStatistics", "trajectory_statistics"]


class TrajectoryStatistics(Record):
    """Means are over valid trajectories; None where there is none."""

    num_trajectories: int
    num_valid: int
    invalid_share: float
    mean_reward: float | None
    resolved_share: float | None
    """Of the graded valid ones."""
    mean_turns: float | None
    mean_agent_tokens: float | None
    num_agent_tokens: int
    """Of all, valid or not."""
    format_error_share: float | None
    """Turns whose text held no well-formed action."""
    end_reasons: dict[str, int]
    validity: dict[str, int]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def trajectory_statistics(trajectories: Sequence[Trajectory]) -> TrajectoryStatistics:
    """Count and average; no trajectories give zero counts."""
    valid = [item for item in trajectories if item.validity is Validity.VALID]
    num_invalid = len(trajectories) - len(valid)
    return TrajectoryStatistics(
        num_trajectories=len(trajectories),
        num_valid=len(valid),
        invalid_share=num_invalid / len(trajectories) if trajectories else 0.0,
        mean_reward=_mean([item.reward for item in valid if item.reward is not None]),
        resolved_share=_mean([float(item.outcome.resolved) for item in valid if item.outcome is not None]),
        mean_turns=_mean([len(item.turns) for item in valid]),
        mean_agent_tokens=_mean([item.num_agent_tokens for item in valid]),
        num_agent_tokens=sum(item.num_agent_tokens for item in trajectories),
        format_error_share=_mean([float(bool(turn.format_error)) for item in valid for turn in item.turns]),
        end_reasons=dict(Counter(item.end_reason for item in trajectories)),
        validity=dict(Counter(item.validity.value for item in trajectories)),
    )
