"""Branching: several episodes that share their beginning.

    trunk = await run_episode(task, env, agent, stop_after=4)       # or any recorded episode, cut by `prefix_of`
    forks = [await env.afork() for _ in range(8)]
    branches = [await run_episode(task, fork, agent, prefix=trunk, seed=i) for i, fork in enumerate(forks)]

Best-of-n from a state, tree search and groups from a prefix are loops over these three lines.
"""

from __future__ import annotations

from swegym.core.agent import Agent, ResumableAgent
from swegym.core.errors import ConfigError
from swegym.core.outcome import Validity
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory

__all__ = ["check_prefix", "prefix_of", "resume"]


def prefix_of(trajectory: Trajectory, num_turns: int) -> Trajectory:
    """The first turns of an episode, for `run_episode(prefix=...)`, in an env where just these have been done.

    Raises:
        ConfigError: it has not so many turns with an observation.
    """
    turns = trajectory.turns[:num_turns]
    if num_turns < 0 or len(turns) < num_turns or any(turn.observation is None for turn in turns):
        raise ConfigError(f"episode {trajectory.episode_id} has no {num_turns} turns with an observation each")
    duration_s = sum(turn.policy_duration_s + turn.env_duration_s for turn in turns)
    changes: dict[str, object] = {"turns": turns, "terminated": False, "truncated": False, "end_reason": "paused"}
    changes |= {"submission": None, "outcome": None, "rewards": {}, "reward": None, "duration_s": duration_s}
    return trajectory.model_copy(update=changes | {"validity": Validity.VALID, "validity_reason": ""})


def check_prefix(prefix: Trajectory, task: Task) -> None:
    """Raises ConfigError: an episode of this task cannot go on from there."""
    if prefix.task_id != task.task_id or prefix.task_fingerprint not in ("", task.fingerprint):
        raise ConfigError(f"the prefix {prefix.episode_id} is of task {prefix.task_id!r}, not of this {task.task_id!r}")
    if prefix.terminated or prefix.truncated:
        raise ConfigError(
            f"the prefix {prefix.episode_id} is over ({prefix.end_reason}): run it with stop_after, or use prefix_of"
        )


def resume(agent: Agent, prefix: Trajectory) -> None:
    """Have the agent take the prefix over. Raises ConfigError: it cannot."""
    if not isinstance(agent, ResumableAgent):
        raise ConfigError(f"agent {agent.name!r} cannot go on from a prefix: it has no method `resume`")
    agent.resume(prefix.turns, prefix.contexts)
