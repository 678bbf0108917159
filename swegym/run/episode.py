"""run_episode: the one loop that collection, evaluation, RL and replay share."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from swegym.core.action import AsyncEnv, Observation, StepResult
from swegym.core.agent import Agent, Decision
from swegym.core.errors import PolicyError, PromptTooLong, RolloutError, SandboxError, TaskError
from swegym.core.outcome import Validity
from swegym.core.task import Task
from swegym.core.trajectory import ParentRef, Trajectory, Turn
from swegym.run.branch import check_prefix, resume

T = TypeVar("T")
__all__ = ["run_episode"]

START_TIMEOUT_S = 1800.0
"""Wall time of a reset: it may build an image or install dependencies."""
SUBMISSION_TIMEOUT_S = 300.0
"""Wall time of taking the work tree's diff."""


class _Recorder:
    """Collects the turns of one episode; the only place where a failed rollout is recorded."""

    def __init__(self, task: Task, env: AsyncEnv, agent: Agent, seed: int | None, group_id: str) -> None:
        self.started = time.monotonic()
        self.turns: list[Turn] = []
        self.first = Observation(text="")
        self.has_begun = False
        self.fields: dict[str, object] = {
            "episode_id": uuid.uuid4().hex[:16],
            "task_id": task.task_id,
            "task_fingerprint": task.fingerprint,
            "env_id": env.env_id,
            "group_id": group_id,
            "seed": seed,
            "policy": agent.policy_name,
            "agent": agent.name,
            "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }

    def go_on_from(self, prefix: Trajectory) -> None:
        self.started -= prefix.duration_s
        self.turns = list(prefix.turns)
        self.first = prefix.first_observation
        self.fields["parent"] = ParentRef(episode_id=prefix.episode_id, turn=len(prefix.turns))
        self.fields["sandbox"] = prefix.sandbox

    def turn(self, decision: Decision, result: StepResult | None) -> None:
        self.turns.append(
            Turn(
                index=len(self.turns),
                text=decision.text,
                action=decision.action,
                format_error=decision.format_error,
                observation=result.observation if result else None,
                finish_reason=decision.finish_reason,
                sampling=decision.sampling,
                policy_duration_s=round(decision.duration_s, 6),
                env_duration_s=round(float(result.info.get("duration_s", 0.0)), 6) if result else 0.0,
                info={k: v for k, v in result.info.items() if k in ("tests", "killed_by", "notices")} if result else {},
            )
        )

    def fail(self, error: RolloutError) -> None:
        validity = Validity.TASK if isinstance(error, TaskError) else Validity.INFRASTRUCTURE
        self.fields |= {
            "truncated": True,
            "end_reason": f"error:{type(error).__name__}",
            "validity": validity,
            "validity_reason": str(error),
        }

    def trajectory(self, agent: Agent, submission: str | None) -> Trajectory:
        return Trajectory.model_validate(
            self.fields
            | {
                "first_observation": self.first,
                "turns": tuple(self.turns),
                "contexts": agent.contexts() if self.has_begun else (),  # else they are another episode's
                "submission": submission,
                "duration_s": round(time.monotonic() - self.started, 6),
            }
        )


async def run_episode(
    task: Task,
    env: AsyncEnv,
    agent: Agent,
    *,
    seed: int | None = None,
    group_id: str = "",
    prefix: Trajectory | None = None,
    stop_after: int | None = None,
) -> Trajectory:
    """Run one episode to its end. It is not graded yet: `outcome` and `rewards` are filled by the grading stage.

    A failure of the sandbox, the engine or the task makes the trajectory invalid and is recorded in it; every other
    exception, and cancellation, propagates after the env was closed by its owner.

    Args:
        task: what it is about.
        env: starts the task; with a prefix it is in the middle of it already.
        agent: decides.
        seed: for the env and the agent's sampling.
        group_id: of the trajectory.
        prefix: what has happened in the env so far (see `swegym.run.branch`); the agent takes it over and goes on. The
            trajectory begins with its turns and tokens, and names it as its parent.
        stop_after: leave off after so many turns, those of the prefix included. The env stays where it is, for forks
            that go on from there, and the trajectory, whose end_reason is "paused", is their prefix.

    Raises:
        ConfigError: the prefix is of another task, or is over, or this agent cannot take it over.
    """
    if prefix is not None:
        check_prefix(prefix, task)
    record = _Recorder(task, env, agent, seed, group_id)
    submission: str | None = None
    deadline = asyncio.timeout(None)
    try:
        async with deadline:
            if prefix is None:
                record.first, info = await _within(START_TIMEOUT_S, "the reset", env.start(task, seed=seed))
                record.fields["sandbox"] = str(info.get("sandbox", ""))
            else:
                record.go_on_from(prefix)
            left_s = task.limits.episode_timeout_s - (prefix.duration_s if prefix else 0.0)
            deadline.reschedule(asyncio.get_running_loop().time() + left_s)
            agent.begin(task, record.first, episode_id=str(record.fields["episode_id"]), seed=seed)
            if prefix is not None:
                resume(agent, prefix)
            record.has_begun = True
            await _loop(record, env, agent, stop_after)
    except TimeoutError:
        if not deadline.expired():
            raise
        record.fields |= {"truncated": True, "end_reason": "episode_timeout"}
    except PromptTooLong:
        record.fields |= {"truncated": True, "end_reason": "context_limit"}
    except (SandboxError, PolicyError, TaskError) as error:
        record.fail(error)
    if "validity" not in record.fields and record.fields["end_reason"] != "paused":
        try:
            submission = await _within(SUBMISSION_TIMEOUT_S, "taking the diff", env.submission())
        except (SandboxError, TaskError) as error:
            record.fail(error)
    return record.trajectory(agent, submission)


async def _within(timeout_s: float, what: str, coroutine: Coroutine[Any, Any, T]) -> T:
    """Bound a call that has no limit of its own, so that no slot hangs for ever."""
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            return await coroutine
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise SandboxError(f"{what} took longer than {timeout_s:g} s") from error


async def _loop(record: _Recorder, env: AsyncEnv, agent: Agent, stop_after: int | None) -> None:
    while stop_after is None or len(record.turns) < stop_after:
        decision = await agent.decide()
        if decision.stop_reason:
            record.turn(decision, None)
            record.fields |= {"truncated": True, "end_reason": decision.stop_reason}
            return
        result = await env.act(decision.action, error=decision.format_error)
        record.turn(decision, result)
        if result.terminated or result.truncated:
            record.fields |= {
                "terminated": result.terminated,
                "truncated": result.truncated,
                "end_reason": str(result.info.get("end_reason", "submitted")),
            }
            return
        agent.observe(result.observation)
    record.fields["end_reason"] = "paused"
