"""Many episodes at once: bounded concurrency in one event loop, one env per slot, grading beside the next episode."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from swegym.core.action import AsyncEnv, Observation
from swegym.core.agent import Agent
from swegym.core.errors import ConfigError, DependencyMissing, UnknownName
from swegym.core.outcome import Grader, Validity
from swegym.core.records import digest
from swegym.core.seeding import derive_seed
from swegym.core.store import EpisodeStore
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory
from swegym.rewards.compose import RewardSet
from swegym.run.episode import run_episode
from swegym.run.regrade import regrade

__all__ = ["rollout"]

logger = logging.getLogger(__name__)
MakeEnv = Callable[[], AsyncEnv]
MakeAgent = Callable[[Task], Agent]
_USER_MISTAKES = (ConfigError, UnknownName, DependencyMissing)


@dataclass(frozen=True, slots=True)
class _Job:
    index: int
    task: Task
    group_id: str
    seed: int


def _jobs(tasks: Iterable[Task], group_size: int, seed: int, label: str) -> Iterator[_Job]:
    num_drawn: Counter[str] = Counter()
    for position, task in enumerate(tasks):
        # Neither seed nor group depends on which other tasks there are: tasks dealt out to workers give the same.
        occurrence = num_drawn[task.task_id]
        num_drawn[task.task_id] += 1
        group_id = digest(str(seed), str(occurrence), task.task_id, label)
        group_id = f"{label}/{group_id}" if label else group_id
        for member in range(group_size):
            member_seed = derive_seed(seed, task.task_id, occurrence, member)
            yield _Job(position * group_size + member, task, group_id, member_seed)


async def rollout(
    tasks: Iterable[Task],
    make_env: MakeEnv,
    make_agent: MakeAgent,
    grader: Grader | None = None,
    rewards: RewardSet | Mapping[str, float] | None = None,
    *,
    group_size: int = 1,
    concurrency: int = 4,
    store: EpisodeStore | None = None,
    on_trajectory: Callable[[Trajectory], None] | None = None,
    seed: int = 0,
    label: str = "",
    num_retries: int = 1,
) -> list[Trajectory]:
    """Run `group_size` episodes of every task, grade them and write them down as they end.

    A failing episode becomes an invalid trajectory and stops nothing else. The user's mistakes (ConfigError,
    UnknownName, DependencyMissing) and a full disk stop everything. Cancelling closes every env first.

    Args:
        tasks: drawn lazily, in order; a task given twice makes two groups.
        make_env: makes the env of one slot; it is used for one episode after the other and closed at the end.
        make_agent: makes the agent of one episode.
        grader: stays the caller's to close. None: trajectories have no outcome.
        rewards: weights or resolved rewards; needed with a grader.
        group_size: episodes per task; they share a group_id.
        concurrency: episodes at a time. As many gradings may run beside them.
        store: gets every trajectory once it is graded; failed attempts that are tried again are not kept.
        on_trajectory: called after the store, for progress.
        seed: every episode's seed derives from it, the task, how often the task came before, and the member's number.
        label: put before every group id, to tell phases of a run apart in its store.
        num_retries: further attempts, with a new env, of an episode that the infrastructure spoiled.

    Returns:
        The trajectories, members of a group together, in the order of the tasks.

    Raises:
        ConfigError: an argument is out of range.
    """
    if group_size < 1 or concurrency < 1 or num_retries < 0:
        raise ConfigError("group_size and concurrency must be at least 1, num_retries at least 0")
    if grader is not None and rewards is None:
        raise ConfigError('a grader needs rewards, for example {"tests": 1.0}')
    if rewards is not None and not isinstance(rewards, RewardSet):
        rewards = RewardSet.from_weights(rewards)
    run = _Rollout(make_env, make_agent, grader, rewards, store, on_trajectory, concurrency, num_retries)
    return await run.run(_jobs(tasks, group_size, seed, label), concurrency)


class _Rollout:
    """State of one call of `rollout`."""

    def __init__(
        self,
        make_env: MakeEnv,
        make_agent: MakeAgent,
        grader: Grader | None,
        rewards: RewardSet | None,
        store: EpisodeStore | None,
        on_trajectory: Callable[[Trajectory], None] | None,
        num_gradings: int,
        num_retries: int,
    ) -> None:
        self._make_env, self._make_agent = make_env, make_agent
        self._grader, self._rewards = grader, rewards
        self._store, self._on_trajectory = store, on_trajectory
        self._gradings = asyncio.Semaphore(num_gradings)
        self._num_retries = num_retries
        self._finished: dict[int, Trajectory] = {}
        self._seen_errors: set[str] = set()

    async def run(self, jobs: Iterator[_Job], num_slots: int) -> list[Trajectory]:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_slots):
                    group.create_task(self._slot(jobs, group))
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from None  # the first is the cause; the others were cancelled for it
        return [self._finished[index] for index in sorted(self._finished)]

    async def _slot(self, jobs: Iterator[_Job], group: asyncio.TaskGroup) -> None:
        env: AsyncEnv | None = None
        try:
            for job in jobs:  # shared by all slots: each takes the next one
                for attempt in range(self._num_retries + 1):
                    env = env or self._make_env()
                    trajectory = await self._episode(job, env)
                    if trajectory.validity is not Validity.INFRASTRUCTURE:
                        break
                    await self._discard(env)
                    env = None
                    self._log_failure(job, trajectory, attempt)
                await self._gradings.acquire()  # a slow grader holds the episodes back
                group.create_task(self._grade(job, trajectory))
        finally:
            await self._discard(env)

    async def _episode(self, job: _Job, env: AsyncEnv) -> Trajectory:
        agent = self._make_agent(job.task)
        try:
            return await run_episode(job.task, env, agent, seed=job.seed, group_id=job.group_id)
        except _USER_MISTAKES:
            raise
        except Exception as error:  # a fault in one env or agent must not end the other episodes
            if type(error).__name__ not in self._seen_errors:
                logger.error("episode of %s failed", job.task.task_id, exc_info=error)
            self._seen_errors.add(type(error).__name__)
            return _failed(job, env, agent, error)

    async def _discard(self, env: AsyncEnv | None) -> None:
        if env is None:
            return
        try:
            await env.aclose()
        except Exception as error:  # noqa: BLE001 - closing may fail where the sandbox is lost; the rest goes on
            logger.warning("closing an environment failed: %s: %s", type(error).__name__, error)

    def _log_failure(self, job: _Job, trajectory: Trajectory, attempt: int) -> None:
        again = "trying again" if attempt < self._num_retries else "giving up"
        logger.warning("%s: %s (%s); %s", job.task.task_id, trajectory.end_reason, trajectory.validity_reason, again)

    async def _grade(self, job: _Job, trajectory: Trajectory) -> None:
        try:
            if self._grader is not None and self._rewards is not None:
                trajectory = await regrade(trajectory, job.task, self._grader, self._rewards)
        finally:
            self._gradings.release()
        if self._store is not None:
            self._store.append(trajectory)
        self._finished[job.index] = trajectory
        if self._on_trajectory is not None:
            self._on_trajectory(trajectory)


def _failed(job: _Job, env: AsyncEnv, agent: Agent, error: Exception) -> Trajectory:
    return Trajectory(
        episode_id=digest(job.group_id, str(job.seed), repr(error)),
        task_id=job.task.task_id,
        task_fingerprint=job.task.fingerprint,
        env_id=env.env_id,
        group_id=job.group_id,
        first_observation=Observation(text=""),
        truncated=True,
        end_reason=f"error:{type(error).__name__}",
        validity=Validity.INFRASTRUCTURE,
        validity_reason=f"{type(error).__name__}: {error}",
        seed=job.seed,
        policy=agent.policy_name,
        agent=agent.name,
    )


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
