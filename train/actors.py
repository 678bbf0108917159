"""What runs inside Ray actors: a rollout worker and a learner. Thin: everything that decides is elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import ConfigError
from swegym.core.policy import Policy, Tokenizer
from swegym.core.seeding import derive_seed
from swegym.core.store import EpisodeStore
from swegym.core.trajectory import Trajectory
from swegym.train.config import RlConfig, RolloutSection
from swegym.train.engine.actor import RemoteEngine

if TYPE_CHECKING:
    from swegym.train.collector import Collector
    from swegym.train.sft import SftExample

__all__ = ["LearnerActor", "OpenPolicy", "RolloutActor", "WorkerPlace", "engine_policy", "reap_node", "torch_policy"]

OpenPolicy = Callable[[], tuple[Policy, Tokenizer | None]]
"""Makes a worker's policy in the worker's process; travels there by pickle."""


def torch_policy(checkpoint: str) -> tuple[Policy, Tokenizer]:
    """Samples in the worker's own process."""
    from swegym.train.cwm.checkpoint import load_checkpoint
    from swegym.train.torch_policy import TorchPolicy

    tokenizer = BpeTokenizer.load(checkpoint)
    return TorchPolicy(load_checkpoint(checkpoint), tokenizer), tokenizer


def engine_policy(checkpoint: str, engines: Sequence[RemoteEngine], gather_s: float) -> tuple[Policy, Tokenizer]:
    """Samples in engines that are actors of their own."""
    from swegym.train.engine.policy import EnginePolicy

    tokenizer = BpeTokenizer.load(checkpoint)
    return EnginePolicy(engines, tokenizer, gather_s=gather_s), tokenizer


def reap_node(rollout: RolloutSection) -> int:
    """Remove what dead workers left on the node that this runs on. Returns the number of sandboxes."""
    from swegym.envs.sandboxes.config import SandboxConfig
    from swegym.envs.sandboxes.reaper import reap

    options = SandboxConfig(**rollout.sandbox_options)
    return len(reap(options.temp_folder, engine_url=options.engine_url))


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """Where a rollout worker runs."""

    node_id: str
    """Ray's."""
    process_id: int
    sandbox: str
    """Name of the back end that its episodes run in."""


class RolloutActor:
    """Runs and grades episodes; many share its event loop. Call `start` first, and again when Ray has restarted it."""

    def __init__(self, config: RlConfig, open_policy: OpenPolicy, folder: str) -> None:
        self._config, self._open_policy, self._folder = config, open_policy, Path(folder)
        self._policy: Any = None
        self._started: Collector | None = None

    async def start(self) -> WorkerPlace:
        """Remove what a dead worker left on this node, then set up.

        Raises:
            ConfigError: the run folder is not visible on this node, or as Collector.
            UnknownName, DependencyMissing: as Collector.
        """
        import ray

        from swegym.train.collector import Collector

        node_id = ray.get_runtime_context().get_node_id()
        if not self._folder.is_dir():
            raise ConfigError(
                f"node {ray.util.get_node_ip_address()} sees no folder {self._folder}: the run folder and the "
                "checkpoint must lie on a file system that all nodes share"
            )
        if self._started is None:
            await asyncio.to_thread(reap_node, self._config.rollout)
            self._policy, tokenizer = self._open_policy()
            self._started = Collector(self._config, self._policy, tokenizer, EpisodeStore(self._folder / "episodes"))
        return WorkerPlace(node_id, os.getpid(), self._started.sandbox)

    async def collect(
        self, task_ids: Sequence[str], group_size: int, temperature: float, seed: int, label: str
    ) -> list[Trajectory]:
        """See Collector.collect."""
        return await self._collector.collect(task_ids, group_size, temperature, seed, label)

    async def num_finished(self) -> int:
        """Episodes finished since the worker started."""
        return self._collector.num_finished

    async def update_weights(self, folder: str, version: int) -> None:
        """For the in-process torch engine only; vLLM engines get theirs themselves."""
        from swegym.train.cwm.checkpoint import load_checkpoint

        self._policy.update_weights(load_checkpoint(folder).state_dict(), version)

    async def close(self) -> None:
        """Remove every sandbox."""
        if self._started is not None:
            await self._started.close()

    @property
    def _collector(self) -> Collector:
        assert self._started is not None, "call start() first"
        return self._started


class LearnerActor:
    """One learner."""

    def __init__(self, config: RlConfig, checkpoint: str) -> None:
        import torch

        from swegym.train.cwm.checkpoint import load_checkpoint
        from swegym.train.learner import Learner

        torch.manual_seed(config.seed)
        self._tokenizer = BpeTokenizer.load(checkpoint)
        self._learner = Learner(load_checkpoint(checkpoint), config)
        self._rehearsal: Iterator[SftExample] = iter(())
        self._num_rehearsal = config.algo.rehearsal_examples
        if self._num_rehearsal:
            from swegym.train.demonstrations import demonstrations, library_mutations

            seed = derive_seed(config.seed, "rehearsal")
            self._rehearsal = demonstrations(library_mutations(), self._tokenizer, seed)

    def version(self) -> int:
        """Optimizer steps done; also tells that the learner has started."""
        return self._learner.policy_version

    def step(self, groups: Sequence[Sequence[Trajectory]]) -> dict[str, float]:
        """See Learner.step."""
        return self._learner.step(groups, tuple(islice(self._rehearsal, self._num_rehearsal)))

    def save_weights(self, folder: str) -> str:
        """Write a Hugging Face folder; returns it."""
        return str(self._learner.save_weights(folder, self._tokenizer))

    def save_state(self, folder: str, step: int) -> str:
        """Write a checkpoint that a run can resume from; returns its path."""
        from swegym.train.train_state import save_train_state

        return str(save_train_state(folder, step, self._learner.state_dict()))
