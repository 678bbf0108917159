"""Settings of a vLLM engine. Nothing in the engine's code depends on the kind of device; what does is in here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from swegym.core.records import Record

__all__ = ["EngineConfig", "engine_arguments", "engine_environment"]

CPU_KV_CACHE_BYTES = 512 * 1024**2
WEIGHT_BACKEND = "swegym_file"


class EngineConfig(Record):
    """What a run decides about its engines. Fields left None get a default that suits the device."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of weights and KV cache. Learner and engine agree to 1e-4 only in float32."""
    max_model_len: int | None = Field(default=None, ge=2)
    """Prompt and completion together, in tokens; None: the checkpoint's max_position_embeddings."""
    max_num_seqs: int = Field(default=128, ge=1)
    """Most requests in one decoding step; the others wait."""
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    """Most tokens of one step; None: vLLM's choice on a GPU, room for a whole context on a CPU."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """Devices that share one engine."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory; not read when kv_cache_bytes is set, nor on a CPU."""
    kv_cache_bytes: int | None = Field(default=None, ge=1)
    """Size of the KV cache; None: the rest of a GPU's share, 512 MiB on a CPU."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens per KV cache block, the grain of prefix caching; None: vLLM's on a GPU, 32 on a CPU."""
    prefix_caching: bool = True
    """Whether turns of one episode share what they have in common."""
    enforce_eager: bool | None = None
    """No compilation, no graph capture; None: compile on a GPU only."""
    keep_kv_cache: bool = False
    """Over a weight update. False: running requests are computed again with the new weights, so that their next tokens
    have exactly the new policy's log-probabilities. True: they go on with the old cache (as CWM did), which costs
    nothing and leaves a small mismatch."""
    cpu_threads: int = Field(default=1, ge=1)
    """OpenMP threads of a CPU engine."""
    seed: int = Field(default=0, ge=0)
    """For requests that bring no seed of their own. Give each engine of a run another one."""


def engine_environment(config: EngineConfig, *, is_cpu: bool) -> dict[str, str]:
    """Environment variables that the engine's processes need while they start.

    On a CPU: one process instead of two where one device serves; and no torch.compile, which vLLM applies to two small
    sampling functions even in eager mode and which would hold up the first request for 16 s.
    """
    variables = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if is_cpu:
        variables["OMP_NUM_THREADS"] = str(config.cpu_threads)
        if config.tensor_parallel_size == 1:
            variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        if config.enforce_eager is not False:
            variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def engine_arguments(
    config: EngineConfig, checkpoint: Path, model_config: dict[str, Any], *, is_cpu: bool
) -> dict[str, Any]:
    """Keyword arguments for vLLM's AsyncEngineArgs.

    Args:
        config: settings of the run.
        checkpoint: Hugging Face folder.
        model_config: its `config.json`.
        is_cpu: which defaults to take.
    """
    max_model_len = config.max_model_len or int(model_config["max_position_embeddings"])
    arguments: dict[str, Any] = {
        "model": str(checkpoint),
        "skip_tokenizer_init": True,  # token ids in, token ids out
        "generation_config": "vllm",  # stop ids and temperatures come from the request alone
        "logprobs_mode": "processed_logprobs",
        "dtype": config.dtype,
        "seed": config.seed,
        "max_model_len": max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enable_prefix_caching": config.prefix_caching,
        "enforce_eager": is_cpu if config.enforce_eager is None else config.enforce_eager,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "weight_transfer_config": {"backend": WEIGHT_BACKEND},
        "worker_extension_cls": "swegym.train.engine.weight_transfer.WorkerExtension",
    }
    if model_config.get("model_type") == "cwm":
        # A CWM is a Llama with windows on some layers; vLLM's Llama reads layer_types and is faster than its fallback.
        arguments["hf_overrides"] = {"architectures": ["LlamaForCausalLM"]}
    if is_cpu:
        arguments["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
        arguments["block_size"] = 32
        arguments["max_num_batched_tokens"] = max(max_model_len, 4096)
        # A seeded request whose prompt is cut over two steps kills a CPU engine: vLLM rewinds the request's generator,
        # and CPU generators cannot be rewound.
        arguments["enable_chunked_prefill"] = False
    for name, value in (
        ("kv_cache_memory_bytes", config.kv_cache_bytes),
        ("block_size", config.block_size),
        ("max_num_batched_tokens", config.max_num_batched_tokens),
    ):
        if value is not None:
            arguments[name] = value
    return arguments
