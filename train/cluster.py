"""Cluster: the actors of one RL job on Ray, seen from the driver as ordinary calls."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from swegym.core.trajectory import Trajectory
from swegym.train.actors import LearnerActor, engine_policy, torch_policy
from swegym.train.capacity import (
    check_capacity,
    default_sandboxes_per_node,
    node_capacities,
    sandboxes_per_worker,
)
from swegym.train.config import RlConfig
from swegym.train.engine.actor import RemoteEngine
from swegym.train.ray_runtime import OWN_RAY, ray_answer, ray_runtime
from swegym.train.rollout_workers import RolloutWorkers

__all__ = ["Cluster", "check_placement", "open_cluster"]


class Cluster:
    """Learner, engines and rollout workers."""

    def __init__(self, config: RlConfig, checkpoint: Path, folder: Path) -> None:
        """Start every actor. Ray must be running.

        Args:
            config: of the run.
            checkpoint: Hugging Face folder to start from.
            folder: the run's; `episodes`, `weights` and `checkpoints` in it are written.

        Raises:
            ConfigError, UnknownName, DependencyMissing: an actor cannot start with this configuration.
            TrainingError: an actor died, or does not start in time.
        """
        import ray

        self.folder = folder
        self.config = config
        self._weights = folder / "weights"
        self._version = 0
        self._loop = asyncio.new_event_loop()
        self.engines: list[RemoteEngine] = []
        self._workers: RolloutWorkers | None = None
        source = str(checkpoint.absolute())
        self._learner = ray.remote(num_cpus=1)(LearnerActor).remote(config, source)
        try:
            if config.engine.type == "vllm":
                self.engines = self._loop.run_until_complete(self._start_engines(source))
                open_policy = partial(engine_policy, source, self.engines, config.engine.gather_s)
            else:
                open_policy = partial(torch_policy, source)
            self.workers = self._workers = RolloutWorkers(config, open_policy, folder)
            ray_answer(self._learner.version.remote())  # a learner that cannot start is told at once
            self.workers.start()
        except BaseException:
            self.close()
            raise
        self.sandbox = self.workers.sandbox

    def collect(
        self,
        task_ids: Sequence[str],
        group_size: int,
        *,
        temperature: float,
        seed: int,
        label: str,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[Trajectory]:
        """See RolloutWorkers.collect."""
        return self.workers.collect(
            task_ids, group_size, temperature=temperature, seed=seed, label=label, on_progress=on_progress
        )

    def learn(self, groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
        """One learner step; see Learner.step."""
        metrics: dict[str, float] = ray_answer(self._learner.step.remote(groups))
        return metrics

    def publish(self, version: int) -> float:
        """Give the learner's weights to every engine. Returns seconds.

        Raises:
            WeightSyncError: an engine did not take them.
        """
        started = time.perf_counter()
        target = self._weights / f"version-{version:06d}"
        ray_answer(self._learner.save_weights.remote(str(target.absolute())))
        if self.engines:
            self._loop.run_until_complete(self._update_engines(target, version))
        else:
            self.workers.update_weights(target, version)
        if self._version:
            shutil.rmtree(self._weights / f"version-{self._version:06d}", ignore_errors=True)
        self._version = version
        return time.perf_counter() - started

    def save(self, step: int) -> None:
        """Write a resumable checkpoint. Raises CheckpointError."""
        ray_answer(self._learner.save_state.remote(str((self.folder / "checkpoints").absolute()), step))

    def export(self, name: str) -> Path:
        """Write the learner's weights as a Hugging Face folder under `checkpoints/`."""
        target = self.folder / "checkpoints" / name
        ray_answer(self._learner.save_weights.remote(str(target.absolute())))
        return target

    def close(self) -> None:
        """Remove sandboxes and end the engines; Ray ends the rest."""
        try:
            if self._workers is not None:
                self._workers.close()
            self._loop.run_until_complete(self._shut_engines_down())
        finally:
            self._loop.close()
            shutil.rmtree(self._weights, ignore_errors=True)

    async def _start_engines(self, checkpoint: str) -> list[RemoteEngine]:
        config = self.config
        starts = [
            RemoteEngine.create(checkpoint, config.engine.vllm.model_copy(update={"seed": config.seed + index}))
            for index in range(config.engine.num_engines)
        ]
        return list(await asyncio.gather(*starts))

    async def _shut_engines_down(self) -> None:
        await asyncio.gather(*(engine.shutdown() for engine in self.engines))

    async def _update_engines(self, folder: Path, version: int) -> None:
        await asyncio.gather(*(engine.update_weights(folder.absolute(), version) for engine in self.engines))


def check_placement(config: RlConfig) -> None:
    """Refuse a configuration whose actors could never be placed on the Ray that runs. Raises ConfigError."""
    import ray

    check_capacity(
        node_capacities(ray.nodes()),
        num_workers=config.rollout.num_workers,
        sandboxes_each=sandboxes_per_worker(config.rollout),
        num_other_cpus=_num_other_actors(config),
        is_own=config.ray.address == OWN_RAY,
    )


def _num_other_actors(config: RlConfig) -> int:
    return 1 + (config.engine.num_engines if config.engine.type == "vllm" else 0)


@contextmanager
def open_cluster(config: RlConfig, checkpoint: Path, folder: Path) -> Iterator[Cluster]:
    """Ray and the actors inside a block; all of it is gone afterwards, whatever ended the block."""
    num_actors = config.rollout.num_workers + _num_other_actors(config)
    num_sandboxes = config.ray.sandboxes_per_node or default_sandboxes_per_node()
    with ray_runtime(num_actors, num_sandboxes=num_sandboxes, address=config.ray.address):
        check_placement(config)
        cluster = Cluster(config, checkpoint, folder)
        try:
            yield cluster
        finally:
            cluster.close()


def shuffled_rewards(trajectories: Sequence[Trajectory], seed: int) -> list[Trajectory]:
    """The same trajectories with their rewards dealt out at random: the control of `algo.shuffle_rewards`."""
    rewards = [item.reward for item in trajectories if item.reward is not None]
    random.Random(seed).shuffle(rewards)
    deck = iter(rewards)
    return [item if item.reward is None else item.model_copy(update={"reward": next(deck)}) for item in trajectories]
