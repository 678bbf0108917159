"""EnginePolicy: the Policy over one engine or several, local or in Ray actors."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Protocol

from swegym.core.errors import PolicyError, WeightSyncError
from swegym.core.policy import Completion, PolicyRequest, SamplingParams, Tokenizer
from swegym.train.engine.weight_files import WeightSource

__all__ = ["Engine", "EnginePolicy"]


class Engine(Protocol):
    """What VllmEngine and RemoteEngine have in common."""

    version: int
    max_model_len: int

    @property
    def is_alive(self) -> bool: ...

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingParams, request_id: str = ""
    ) -> Completion: ...

    async def update_weights(self, source: WeightSource, version: int) -> None: ...

    async def shutdown(self) -> None: ...


class EnginePolicy:
    """Sends each request to the live engine that has the fewest running."""

    uses_tokens = True

    def __init__(
        self, engines: Sequence[Engine], tokenizer: Tokenizer, *, name: str = "vllm", gather_s: float = 0.0
    ) -> None:
        """Set up.

        Args:
            engines: started ones with the same weights. The policy owns them: `close` shuts them down.
            tokenizer: turns completions into text.
            name: recorded on trajectories.
            gather_s: requests wait for the next multiple of this many seconds, so that many start together. Where a
                decoding step costs the same for one request as for fifty (a small model on a CPU), that saves most
                of the engine's work; elsewhere leave it at 0.
        """
        if not engines:
            raise ValueError("a policy needs at least one engine")
        self.name = name
        self.engines = tuple(engines)
        self._tokenizer = tokenizer
        self._num_running = [0] * len(engines)
        self._gather_s = gather_s

    @property
    def version(self) -> int:
        """Oldest version that is still served; -1 when no engine is alive."""
        return min((engine.version for engine in self.engines if engine.is_alive), default=-1)

    async def sample(self, request: PolicyRequest) -> Completion:
        """Continue `request.prompt_token_ids`.

        Raises:
            PromptTooLong: the prompt fills the context.
            PolicyError: the engine failed; the request is not sent again, because half of its tokens may be lost.
        """
        if self._gather_s:
            await asyncio.sleep(self._gather_s - time.monotonic() % self._gather_s)
        index = self._least_loaded()
        self._num_running[index] += 1
        request_id = f"{request.episode_id}/{request.turn}" if request.episode_id else ""
        try:
            completion = await self.engines[index].generate(request.prompt_token_ids, request.sampling, request_id)
        finally:
            self._num_running[index] -= 1
        return dataclasses.replace(completion, text=self._tokenizer.decode(completion.token_ids))

    async def update_weights(self, source: WeightSource, version: int) -> None:
        """Publish to every engine at once.

        Raises:
            WeightSyncError: at least one did not take them; the others have the new version.
        """
        results = await asyncio.gather(
            *(engine.update_weights(source, version) for engine in self.engines), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            if not isinstance(failure, Exception):
                raise failure
        if failures:
            what = "; ".join(str(failure) for failure in failures)
            raise WeightSyncError(f"{len(failures)} of {len(self.engines)} engines: {what}") from failures[0]

    async def close(self) -> None:
        """Shut every engine down."""
        await asyncio.gather(*(engine.shutdown() for engine in self.engines))

    def _least_loaded(self) -> int:
        alive = [index for index, engine in enumerate(self.engines) if engine.is_alive]
        if not alive:
            raise PolicyError(f"none of {len(self.engines)} engines is alive")
        return min(alive, key=lambda index: self._num_running[index])
