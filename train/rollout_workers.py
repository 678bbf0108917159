"""RolloutWorkers: the rollout actors of one run, spread over the nodes of a Ray cluster, seen as ordinary calls.

A worker's sandboxes live on its own node. Ray places the workers (SPREAD, resource "sandbox") and restarts those whose
process or node died; what a dead worker had not finished goes to the others. Episodes that keep killing their workers
become infrastructure failures, never rewards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swegym.core.action import Observation
from swegym.core.errors import SwegymError, TrainingError
from swegym.core.outcome import Validity
from swegym.core.records import digest
from swegym.core.registries import tasksets
from swegym.core.store import EpisodeStore
from swegym.core.trajectory import Trajectory
from swegym.train.actors import OpenPolicy, RolloutActor, WorkerPlace, reap_node
from swegym.train.capacity import SANDBOX_RESOURCE, sandboxes_per_worker
from swegym.train.config import RlConfig
from swegym.train.ray_runtime import ActorLost, ray_answer

__all__ = ["RolloutWorkers"]

logger = logging.getLogger(__name__)

ENV_ID = "swegym/Swe-v0"
"""Of the environment that Collector makes."""
POLL_S = 0.5
CLOSE_TIMEOUT_S = 120.0
MAX_RESTARTS = -1
"""Of one worker, by Ray: as often as it takes; what bounds a worker that keeps dying is MAX_ISSUES."""
MAX_ISSUES = 3
"""Times that the same episodes are begun by workers that die over them."""


@dataclass
class _Share:
    """Tasks that one worker is busy with."""

    worker: Any
    task_ids: list[str]
    num_issues: int = 1


@dataclass(frozen=True)
class _Order:
    """What `collect` was asked for."""

    group_size: int
    temperature: float
    seed: int
    label: str


@dataclass
class _Progress:
    """Largest number of episodes that each worker has reported."""

    before: dict[Any, int] = field(default_factory=dict)
    most: int = 0


class RolloutWorkers:
    """`rollout.num_workers` rollout actors."""

    def __init__(self, config: RlConfig, open_policy: OpenPolicy, folder: Path) -> None:
        """Ask Ray for the actors; `start` waits for them. Ray must be running.

        Args:
            config: of the run.
            open_policy: makes the policy in each worker.
            folder: the run's, on a file system that all nodes share; episodes are written to `episodes` in it.
        """
        import ray

        self._config, self._folder = _with_absolute_folders(config), folder.absolute()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._weights: tuple[str, int] | None = None
        self.places: list[WorkerPlace] = []
        """Of the workers as they started."""
        actor = ray.remote(
            num_cpus=1,
            resources={SANDBOX_RESOURCE: sandboxes_per_worker(config.rollout)},
            scheduling_strategy="SPREAD",
            max_concurrency=1000,
            max_restarts=MAX_RESTARTS,
        )(RolloutActor)
        self._all: list[Any] = [
            actor.remote(self._config, open_policy, str(self._folder)) for _ in range(config.rollout.num_workers)
        ]
        self._live: list[Any] = []
        self._returning: dict[Any, Any] = {}
        """Workers that died, each with its call of `start`, which waits for Ray to restart it."""

    def start(self) -> None:
        """Wait until every worker has started.

        Raises:
            ConfigError, UnknownName, DependencyMissing: the configuration names something that is not there.
            TrainingError: resources do not become free in `ray.start_timeout_s`.
        """
        import ray

        calls = [worker.start.remote() for worker in self._all]
        _, waiting = ray.wait(calls, num_returns=len(calls), timeout=self._config.ray.start_timeout_s)
        if waiting:
            free = ray.available_resources()
            raise TrainingError(
                f"{len(waiting)} of {len(calls)} rollout workers did not start within "
                f"{self._config.ray.start_timeout_s:g} s (ray.start_timeout_s): each needs 1 CPU and "
                f"{sandboxes_per_worker(self._config.rollout)} units of {SANDBOX_RESOURCE!r}; the cluster has "
                f"{free.get('CPU', 0):g} CPU and {free.get(SANDBOX_RESOURCE, 0):g} units free"
            )
        self.places = list(ray_answer(calls))
        self._live = list(self._all)

    @property
    def sandbox(self) -> str:
        """Name of the back end that episodes run in."""
        return self.places[0].sandbox

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
            TrainingError: no worker is left, or an actor raised what is no episode's fault.
        """
        import ray

        order = _Order(group_size, temperature, seed, label)
        self._take_back()
        progress = _Progress({worker: self._num_finished(worker) for worker in self._live})
        calls = self._issue(list(task_ids), order, num_issues=1)
        trajectories: list[Trajectory] = []
        while calls:
            done, _ = ray.wait(list(calls), num_returns=1, timeout=POLL_S)
            for call in done:
                share = calls.pop(call)
                try:
                    trajectories += ray_answer(call)
                except ActorLost as error:
                    self._lose(share.worker, error)
                    if share.num_issues < MAX_ISSUES:
                        calls |= self._issue(share.task_ids, order, share.num_issues + 1)
                    else:
                        trajectories += self._give_up(share.task_ids, order, error)
            on_progress(self._update(progress))
        place = {task_id: index for index, task_id in enumerate(task_ids)}
        return sorted(trajectories, key=lambda item: place[item.task_id])

    def update_weights(self, folder: Path, version: int) -> None:
        """Give new weights to every worker's own policy; a worker that is restarted later gets them then."""
        self._weights = (str(folder.absolute()), version)
        calls = {worker: worker.update_weights.remote(*self._weights) for worker in self._live}
        for worker, call in calls.items():
            try:
                ray_answer(call)
            except ActorLost as error:
                self._lose(worker, error)

    def close(self) -> None:
        """Remove every sandbox of this run on every node, end the workers and give their units back."""
        import ray

        calls = [worker.close.remote() for worker in self._live]
        for call in calls:
            try:
                ray_answer(call, CLOSE_TIMEOUT_S)
            except TrainingError as error:  # it died, or hangs: the reaper takes what it leaves
                logger.warning("closing a rollout worker: %s", error)
        for worker in self._all:
            ray.kill(worker)
        self._live, self._returning = [], {}
        for node_id, call in _on_every_node(reap_node, self._config.rollout).items():
            try:
                ray_answer(call, CLOSE_TIMEOUT_S)
            except TrainingError as error:
                logger.warning("reaping on node %s: %s", node_id[:8], error)

    # --- parts --------------------------------------------------------------------------------------------------------

    def _issue(self, task_ids: list[str], order: _Order, num_issues: int) -> dict[Any, _Share]:
        """Deal the tasks out to the living workers."""
        if not self._live:
            self._await_one()
        calls = {}
        for index, worker in enumerate(self._live):
            if share := task_ids[index :: len(self._live)]:
                call = worker.collect.remote(share, order.group_size, order.temperature, order.seed, order.label)
                calls[call] = _Share(worker, share, num_issues)
        return calls

    def _lose(self, worker: Any, error: ActorLost) -> None:
        if worker not in self._live:
            return  # another of its calls has told already
        logger.warning("a rollout worker is lost; the others take over: %s", error)
        self._live.remove(worker)
        _on_every_node(reap_node, self._config.rollout)  # its own may have others on it; nobody waits for the answers
        # Ray repeats this one call until it has restarted the worker, or has given it up.
        self._returning[worker] = worker.start.options(max_task_retries=-1).remote()

    def _take_back(self, timeout_s: float = 0.0) -> None:
        """Put restarted workers to work again."""
        import ray

        if not self._returning:
            return
        ready, _ = ray.wait(list(self._returning.values()), num_returns=1, timeout=timeout_s)
        for worker, call in list(self._returning.items()):
            if call in ready:
                del self._returning[worker]
                try:
                    ray_answer(call)
                    if self._weights is not None:
                        ray_answer(worker.update_weights.remote(*self._weights))
                except SwegymError as error:  # it died again, or cannot work on the node that it came to
                    logger.warning("a rollout worker does not come back: %s", error)
                    ray.kill(worker)
                    continue
                self._live.append(worker)

    def _await_one(self) -> None:
        while not self._live and self._returning:
            waiting = len(self._returning)
            self._take_back(self._config.ray.start_timeout_s)
            if not self._live and len(self._returning) == waiting:
                break
        if not self._live:
            raise TrainingError(f"every rollout worker is lost ({len(self._all)} started) and none could be restarted")

    def _give_up(self, task_ids: Sequence[str], order: _Order, error: ActorLost) -> list[Trajectory]:
        store = EpisodeStore(self._folder / "episodes")
        try:
            members = range(order.group_size)
            failed = [lost_episode(task_id, member, order.label, error) for task_id in task_ids for member in members]
            for item in failed:
                store.append(item)
        finally:
            store.close()
        logger.warning("%d episodes are given up: their workers died %d times", len(failed), MAX_ISSUES)
        return failed

    def _num_finished(self, worker: Any) -> int:
        try:
            return int(ray_answer(worker.num_finished.remote()))
        except ActorLost:
            return 0  # its call of `collect` tells

    def _update(self, progress: _Progress) -> int:
        """Episodes finished since the call began; never less than before."""
        finished = sum(
            max(0, self._num_finished(worker) - progress.before.get(worker, 0)) for worker in list(self._live)
        )
        progress.most = max(progress.most, finished)
        return progress.most


def _with_absolute_folders(config: RlConfig) -> RlConfig:
    """A worker's process has another working folder than the driver's."""
    taskset = config.data.taskset
    if taskset in tasksets or not Path(taskset).is_dir():
        return config
    data = config.data.model_copy(update={"taskset": str(Path(taskset).absolute())})
    return config.model_copy(update={"data": data})


def lost_episode(task_id: str, member: int, label: str, error: Exception) -> Trajectory:
    """The record of an episode whose worker died: invalid, without a reward."""
    group_id = f"{label}/{digest('lost', task_id)}"
    return Trajectory(
        episode_id=digest(group_id, str(member)),
        task_id=task_id,
        env_id=ENV_ID,
        group_id=group_id,
        first_observation=Observation(text=""),
        truncated=True,
        end_reason=f"error:{type(error).__name__}",
        validity=Validity.INFRASTRUCTURE,
        validity_reason=str(error),
    )


def _on_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Node id -> call of the function there, on every living node that can hold sandboxes."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(SANDBOX_RESOURCE)]
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    return {
        node["NodeID"]: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in nodes
    }
