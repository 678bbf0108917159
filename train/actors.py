"""What runs inside Ray actors: a rollout worker and a learner. Thin: everything that decides is elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.seeding import derive_seed
from swegym.core.store import EpisodeStore
from swegym.core.trajectory import Trajectory
from swegym.train.config import RlConfig
from swegym.train.engine.actor import RemoteEngine

if TYPE_CHECKING:
    from swegym.train.sft import SftExample

__all__ = ["LearnerActor", "RolloutActor"]


class RolloutActor:
    """Runs and grades episodes; many share its event loop."""

    def __init__(self, config: RlConfig, checkpoint: str, episodes: str, engines: Sequence[RemoteEngine]) -> None:
        from swegym.train.collector import Collector

        tokenizer = BpeTokenizer.load(checkpoint)
        self._torch_policy: Any = None
        policy: Any
        if config.engine.type == "torch":
            from swegym.train.cwm.checkpoint import load_checkpoint
            from swegym.train.torch_policy import TorchPolicy

            policy = self._torch_policy = TorchPolicy(load_checkpoint(checkpoint), tokenizer)
        else:
            from swegym.train.engine.policy import EnginePolicy

            policy = EnginePolicy(engines, tokenizer, gather_s=config.engine.gather_s)
        self._collector = Collector(config, policy, tokenizer, EpisodeStore(episodes))

    async def sandbox(self) -> str:
        """Name of the back end that episodes run in."""
        return self._collector.sandbox

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
        if self._torch_policy is not None:
            from swegym.train.cwm.checkpoint import load_checkpoint

            self._torch_policy.update_weights(load_checkpoint(folder).state_dict(), version)

    async def close(self) -> None:
        """Remove every sandbox."""
        await self._collector.close()


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
