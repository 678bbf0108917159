"""The grading stage of one trajectory, at rollout time or any time later."""

from __future__ import annotations

from collections.abc import Mapping

from swegym.core.errors import SandboxError, TaskError
from swegym.core.outcome import Grader, Outcome, Validity
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory
from swegym.rewards.compose import RewardSet, score

__all__ = ["regrade"]


async def regrade(
    trajectory: Trajectory, task: Task, grader: Grader, rewards: RewardSet | Mapping[str, float]
) -> Trajectory:
    """Grade the recorded submission (again) and compute the rewards (again).

    An episode that failed itself (`end_reason` is `error:...`) has no result to grade and comes back as it is. An
    earlier grade, also one that could not decide, is replaced.

    Raises:
        ConfigError, UnknownName: `rewards` do not resolve, or the grader does not know the task.
    """
    if trajectory.end_reason.startswith("error:"):
        return trajectory
    try:
        outcome = await grader.grade(task, trajectory.submission or "")
    except (SandboxError, TaskError) as error:
        validity = Validity.TASK if isinstance(error, TaskError) else Validity.INFRASTRUCTURE
        outcome = Outcome(
            task_id=task.task_id, resolved=False, validity=validity, reason=str(error), grader=grader.name
        )
    return score(task, trajectory, outcome, rewards)
