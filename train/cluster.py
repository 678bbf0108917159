"""Cluster: the actors of one RL job on Ray, seen from the driver as ordinary calls."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swegym.core.errors import SwegymError, TrainingError
from swegym.core.trajectory import Trajectory
from swegym.train.actors import LearnerActor, RolloutActor
from swegym.train.config import RlConfig
from swegym.train.engine.actor import RemoteEngine
from swegym.train.ray_runtime import ray_runtime

__all__ = ["Cluster", "open_cluster"]

POLL_S = 0.5


class Cluster:
    """Learner, engines and rollout workers."""

    def __init__(self, config: RlConfig, checkpoint: Path, folder: Path) -> None:
        """Start every actor. Ray must be running.

        Args:
            config: of the run.
            checkpoint: Hugging Face folder to start from.
            folder: the run's; `episodes`, `weights` and `checkpoints` in it are written.
        """
        import ray

        self.folder = folder
        self.config = config
        self._weights = folder / "weights"
        self._version = 0
        self._loop = asyncio.new_event_loop()
        self.engines: list[RemoteEngine] = []
        source = str(checkpoint.absolute())
        learner = ray.remote(num_cpus=1)(LearnerActor).remote(config, source)
        if config.engine.type == "vllm":
            self.engines = self._loop.run_until_complete(self._start_engines(source))
        worker = ray.remote(num_cpus=1, max_concurrency=1000)(RolloutActor)
        episodes = str((folder / "episodes").absolute())
        self._workers = [
            worker.remote(config, source, episodes, self.engines) for _ in range(config.rollout.num_workers)
        ]
        self._learner = learner
        self._get(learner.version.remote())  # a learner that cannot start is told at once
        self.sandbox: str = self._get(self._workers[0].sandbox.remote())

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
        """Run and grade `group_size` episodes per task. Trajectories come back by task, in the order given.

        Raises:
            TrainingError: a worker died.
        """
        import ray

        shares = [list(task_ids[index :: len(self._workers)]) for index in range(len(self._workers))]
        before = sum(self._get([worker.num_finished.remote() for worker in self._workers]))
        pending = [
            worker.collect.remote(share, group_size, temperature, seed, label)
            for worker, share in zip(self._workers, shares, strict=True)
            if share
        ]
        calls = list(pending)
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=POLL_S)
            on_progress(sum(self._get([worker.num_finished.remote() for worker in self._workers])) - before)
        trajectories: list[Trajectory] = [item for part in self._get(calls) for item in part]
        place = {task_id: index for index, task_id in enumerate(task_ids)}
        return sorted(trajectories, key=lambda item: place[item.task_id])

    def learn(self, groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
        """One learner step; see Learner.step."""
        metrics: dict[str, float] = self._get(self._learner.step.remote(groups))
        return metrics

    def publish(self, version: int) -> float:
        """Give the learner's weights to every engine. Returns seconds.

        Raises:
            WeightSyncError: an engine did not take them.
        """
        started = time.perf_counter()
        target = self._weights / f"version-{version:06d}"
        self._get(self._learner.save_weights.remote(str(target.absolute())))
        if self.engines:
            self._loop.run_until_complete(self._update_engines(target, version))
        else:
            self._get([worker.update_weights.remote(str(target.absolute()), version) for worker in self._workers])
        if self._version:
            shutil.rmtree(self._weights / f"version-{self._version:06d}", ignore_errors=True)
        self._version = version
        return time.perf_counter() - started

    def save(self, step: int) -> None:
        """Write a resumable checkpoint. Raises CheckpointError."""
        self._get(self._learner.save_state.remote(str((self.folder / "checkpoints").absolute()), step))

    def export(self, name: str) -> Path:
        """Write the learner's weights as a Hugging Face folder under `checkpoints/`."""
        target = self.folder / "checkpoints" / name
        self._get(self._learner.save_weights.remote(str(target.absolute())))
        return target

    def close(self) -> None:
        """Remove sandboxes and end the engines; Ray ends the rest."""
        try:
            self._get([worker.close.remote() for worker in self._workers])
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

    def _get(self, calls: Any) -> Any:
        import ray

        try:
            return ray.get(calls)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, SwegymError):
                raise error.cause from None
            raise TrainingError(f"{type(error.cause).__name__}: {error.cause}") from error
        except ray.exceptions.RayActorError as error:
            lines = str(error).strip().splitlines()
            raise TrainingError(
                f"an actor of the run died: {lines[0]} {lines[-1] if len(lines) > 1 else ''}"
            ) from error


@contextmanager
def open_cluster(config: RlConfig, checkpoint: Path, folder: Path) -> Iterator[Cluster]:
    """Ray and the actors inside a block; all of it is gone afterwards, whatever ended the block."""
    num_actors = 1 + config.rollout.num_workers + (config.engine.num_engines if config.engine.type == "vllm" else 0)
    with ray_runtime(num_actors):
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
