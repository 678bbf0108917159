"""EngineActor: a VllmEngine in a Ray actor. RemoteEngine: the same methods on this side of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swegym.core.errors import PolicyError, PromptTooLong, SwegymError, WeightSyncError
from swegym.core.policy import Completion, SamplingParams
from swegym.train.engine.config import EngineConfig
from swegym.train.engine.vllm_engine import VllmEngine
from swegym.train.engine.weight_files import WeightSource

__all__ = ["EngineActor", "RemoteEngine"]

MAX_CONCURRENT_CALLS = 10_000
"""Calls that wait in the actor; far above what runs, so that a weight update never queues behind requests."""


class EngineActor:
    """Async actor around one engine. Start it with `RemoteEngine.create`."""

    def __init__(self, checkpoint: str, config: EngineConfig, version: int) -> None:
        self._engine = VllmEngine(checkpoint, config, version=version)

    async def start(self) -> int:
        """Start the engine. Returns max_model_len in tokens."""
        await self._engine.start()
        return self._engine.max_model_len

    async def generate(self, prompt_token_ids: Sequence[int], sampling: SamplingParams, request_id: str) -> Completion:
        """See VllmEngine.generate."""
        return await self._engine.generate(prompt_token_ids, sampling, request_id)

    async def update_weights(self, source: WeightSource, version: int) -> None:
        """See VllmEngine.update_weights."""
        await self._engine.update_weights(source, version)

    async def shutdown(self) -> None:
        """See VllmEngine.shutdown."""
        await self._engine.shutdown()

    async def failure(self) -> str:
        """Why the engine is dead; empty while it is not."""
        return self._engine.failure

    async def process_ids(self) -> tuple[int, ...]:
        """Of the engine's own processes, for diagnosis."""
        return self._engine.process_ids


class RemoteEngine:
    """Client of an EngineActor with VllmEngine's methods and errors. Pickles, so that rollout actors may hold one."""

    def __init__(self, actor: Any, max_model_len: int, version: int) -> None:
        """Use `create`."""
        self.actor = actor
        self.max_model_len = max_model_len
        self.version = version
        self.failure = ""

    @classmethod
    async def create(
        cls,
        checkpoint: Path | str,
        config: EngineConfig | None = None,
        *,
        version: int = 0,
        num_cpus: float = 1,
        num_gpus: float = 0,
    ) -> RemoteEngine:
        """Start an actor with an engine in it. Ray must be running.

        Args:
            checkpoint: Hugging Face folder, readable on the actor's node.
            config: see EngineConfig.
            version: policy version of the checkpoint.
            num_cpus: that Ray sets aside for it.
            num_gpus: likewise; tensor_parallel_size of them on a GPU machine.

        Raises:
            ConfigError, DependencyMissing, PolicyError: as VllmEngine.start.
        """
        import ray

        folder = str(Path(checkpoint).absolute())  # the actor has another working folder
        remote = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_concurrency=MAX_CONCURRENT_CALLS)(EngineActor)
        actor = remote.remote(folder, config or EngineConfig(), version)
        try:
            max_model_len = await _answer(actor.start.remote())
        except BaseException:  # also when cancelled: an actor that nobody holds would keep its process
            ray.kill(actor)
            raise
        return cls(actor, max_model_len, version)

    @property
    def is_alive(self) -> bool:
        """Whether its engine worked when it was last called."""
        return not self.failure

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingParams, request_id: str = ""
    ) -> Completion:
        """See VllmEngine.generate; PolicyError also when the actor is gone."""
        call = self.actor.generate.remote(list(prompt_token_ids), sampling, request_id)
        completion: Completion = await self._checked(call)
        return completion

    async def update_weights(self, source: WeightSource, version: int) -> None:
        """See VllmEngine.update_weights. A state dict travels through Ray's object store."""
        await self._checked(self.actor.update_weights.remote(source, version))
        self.version = version

    async def shutdown(self) -> None:
        """End the engine, then the actor. Harmless when repeated."""
        import ray

        if self.failure != _ENDED:
            self.failure = _ENDED
            with suppress(PolicyError):  # it died before: nothing is left to end
                await _answer(self.actor.shutdown.remote())
            ray.kill(self.actor)

    async def _checked(self, call: Any) -> Any:
        import ray

        if self.failure:
            raise PolicyError(f"the engine is dead: {self.failure}")
        try:
            return await _answer(call)
        except PromptTooLong:
            raise
        except (PolicyError, WeightSyncError) as error:
            # An engine that fails at once has the least load: unless it is marked it would be sent everything.
            if isinstance(error.__cause__, ray.exceptions.RayActorError):
                self.failure = str(error)
            else:
                self.failure = self.failure or await _answer(self.actor.failure.remote())
            raise


_ENDED = "it was shut down"


async def _answer(call: Any) -> Any:
    """Await an actor's answer, with our own errors as they were raised and not as Ray wraps them."""
    import ray

    try:
        return await call
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, SwegymError):
            raise cause from None  # Ray's text repeats the remote traceback
        raise PolicyError(f"engine actor: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise PolicyError(f"engine actor: {type(error).__name__}: {str(error).splitlines()[0]}") from error
