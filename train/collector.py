"""Collector: runs groups of episodes on tasks of one task set with one policy, and grades them."""

from __future__ import annotations

from collections.abc import Sequence

from swegym.agents.forager import ForagerAgent, ForagerConfig
from swegym.core.policy import Policy, SamplingParams, Tokenizer
from swegym.core.store import EpisodeStore
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.swe_env import SweEnv
from swegym.envs.tasksets.folder import resolve_task_set
from swegym.rewards.compose import RewardSet
from swegym.run.rollout import rollout
from swegym.train.capacity import grading_concurrency
from swegym.train.config import RlConfig

__all__ = ["Collector"]


class Collector:
    """Everything that a rollout worker holds: task set, sandboxes, grader, policy, store."""

    def __init__(self, config: RlConfig, policy: Policy, tokenizer: Tokenizer | None, store: EpisodeStore) -> None:
        """Set up; no sandbox starts yet.

        Raises:
            ConfigError, UnknownName, DependencyMissing: the configuration names something that is not there.
        """
        self._config, self._policy, self._tokenizer, self._store = config, policy, tokenizer, store
        self._taskset = resolve_task_set(config.data.taskset)
        options = dict(config.rollout.sandbox_options)
        options["labels"] = {"run": store.folder.parent.name} | options.get("labels", {})
        self._provider = make_provider(config.rollout.sandbox, **options)
        self._grader = SweGrader(self._provider, self._taskset, jobs=grading_concurrency(config.rollout))
        self._rewards = RewardSet.from_weights(config.algo.reward)
        self.sandbox = self._provider.name
        self.num_finished = 0

    async def collect(
        self, task_ids: Sequence[str], group_size: int, temperature: float, seed: int, label: str
    ) -> list[Trajectory]:
        """Run and grade `group_size` episodes of each task; they are stored with `label` as their group's prefix."""
        rollout_config = self._config.rollout
        config = ForagerConfig(
            sampling=SamplingParams(temperature=temperature),
            max_context_tokens=rollout_config.max_context_tokens,
            max_action_tokens=rollout_config.max_action_tokens,
        )

        def make_env() -> SweEnv:
            return SweEnv(taskset=self._taskset, sandbox=self._provider, grade="deferred")

        def make_agent(_: Task) -> ForagerAgent:
            return ForagerAgent(self._policy, tokenizer=self._tokenizer, profile=rollout_config.profile, config=config)

        return await rollout(
            [self._taskset.get(task_id) for task_id in task_ids],
            make_env,
            make_agent,
            self._grader,
            self._rewards,
            group_size=group_size,
            concurrency=rollout_config.concurrency,
            store=self._store,
            on_trajectory=self._count,
            seed=seed,
            label=label,
        )

    async def close(self) -> None:
        """Remove every sandbox."""
        await self._grader.close()
        await self._provider.close()
        self._store.close()

    def _count(self, _: Trajectory) -> None:
        self.num_finished += 1
