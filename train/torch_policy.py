"""TorchPolicy: the in-process token policy. For tests, small models and machines without vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

from torch import Tensor

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import PolicyError, WeightSyncError, boundary
from swegym.core.policy import Completion, PolicyRequest
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.generation import check_prompt, generate

__all__ = ["TorchPolicy"]


class TorchPolicy:
    """Implements `swegym.core.policy.Policy`; concurrent calls are gathered into one batch.

    Generation runs in a worker thread, so the event loop stays free. One event loop uses it at a time. The model
    belongs to the policy: nobody else may change its weights; `update_weights` copies new ones in between two batches.
    """

    name = "torch"
    uses_tokens = True

    def __init__(
        self,
        model: CwmForCausalLM,
        tokenizer: BpeTokenizer,
        *,
        policy_version: int = 0,
        max_batch: int = 256,
        gather_s: float = 0.002,
    ) -> None:
        """Make a policy.

        Args:
            model: already on its device; put into eval mode.
            tokenizer: only to give completions their readable text.
            policy_version: of the weights in `model`.
            max_batch: most requests in one batch.
            gather_s: how long the first request of an idle policy waits for others to join it.
        """
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.policy_version = policy_version
        self.max_batch = max_batch
        self.gather_s = gather_s
        self._weights_lock = threading.Lock()
        self._stop = threading.Event()
        self._pending: list[tuple[PolicyRequest, asyncio.Future[Completion]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def sample(self, request: PolicyRequest) -> Completion:
        """Continue the prompt. `max_tokens` is cut to the room that the model's positions leave.

        Raises:
            PromptTooLong: no room for one token.
            PolicyError: the prompt is empty or not of this vocabulary, generation failed, or the policy is closed.
        """
        if self._stop.is_set():
            raise PolicyError("this policy is closed")
        check_prompt(request.prompt_token_ids, self.model.config)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._pending.append((request, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Copy new weights in once the running batch is over, then take their version.

        Args:
            state: every parameter by its checkpoint name.
            version: must exceed the present one.

        Raises:
            WeightSyncError: a name or shape does not fit, or the version does not rise; nothing has changed then.
        """
        own = self.model.state_dict()
        wrong = sorted(own.keys() ^ state.keys()) or [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise WeightSyncError(f"weights of version {version} do not fit the model: {', '.join(wrong[:3])}")
        if version <= self.policy_version:
            raise WeightSyncError(f"weights of version {version} come after version {self.policy_version}")
        with self._weights_lock:
            self.model.load_state_dict(dict(state))
            self.policy_version = version

    async def close(self) -> None:
        """End what is running with finish reason "abort" and refuse further calls; idempotent."""
        self._stop.set()
        if self._worker is not None and self._worker.get_loop() is asyncio.get_running_loop():
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        """Serve batches until nobody waits."""
        batch: list[tuple[PolicyRequest, asyncio.Future[Completion]]] = []
        abandoned = threading.Event()
        try:
            await asyncio.sleep(self.gather_s)
            while self._pending:
                waiting = [entry for entry in self._pending if not entry[1].done()]  # callers may have been cancelled
                batch, self._pending = waiting[: self.max_batch], waiting[self.max_batch :]
                try:
                    completions = await asyncio.to_thread(self._complete, [request for request, _ in batch], abandoned)
                except PolicyError as error:
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for (_, future), completion in zip(batch, completions, strict=True):
                    if not future.done():
                        future.set_result(completion)
        finally:
            abandoned.set()  # the thread outlives a cancelled task: let it end at its next step
            for _, future in [*batch, *self._pending]:
                if not future.done():
                    future.cancel()
            self._pending = []

    def _complete(self, requests: list[PolicyRequest], abandoned: threading.Event) -> list[Completion]:
        with boundary(PolicyError, "torch policy"), self._weights_lock:
            version = self.policy_version
            generations = generate(
                self.model,
                [request.prompt_token_ids for request in requests],
                [request.sampling for request in requests],
                lambda: abandoned.is_set() or self._stop.is_set(),
            )
        return [
            Completion(
                text=self.tokenizer.decode(generation.token_ids),
                finish_reason=generation.finish_reason,
                token_ids=tuple(generation.token_ids),
                logprobs=tuple(generation.logprobs),
                policy_versions=(version,) * len(generation.token_ids),
            )
            for generation in generations
        ]
