"""Settings: what a device decides, and what the user decides over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from swegym.core.errors import WeightSyncError
from swegym.train.engine.config import EngineConfig, engine_arguments, engine_environment
from swegym.train.engine.weight_files import check_same_tensors

CWM = {"model_type": "cwm", "max_position_embeddings": 1024}


def test_a_cpu_gets_its_own_defaults() -> None:
    arguments = engine_arguments(EngineConfig(), Path("model"), CWM, is_cpu=True)
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert arguments["max_model_len"] == 1024
    assert arguments["max_num_batched_tokens"] == 4096
    assert arguments["enable_chunked_prefill"] is False
    assert arguments["enforce_eager"] is True
    assert arguments["hf_overrides"] == {"architectures": ["LlamaForCausalLM"]}
    long = {**CWM, "max_position_embeddings": 9000}
    assert engine_arguments(EngineConfig(), Path("model"), long, is_cpu=True)["max_num_batched_tokens"] == 9000


def test_a_gpu_is_left_to_vllm() -> None:
    config = EngineConfig(dtype="bfloat16", tensor_parallel_size=2)
    arguments = engine_arguments(config, Path("model"), {**CWM, "model_type": "llama"}, is_cpu=False)
    assert arguments["enforce_eager"] is False
    assert (arguments["dtype"], arguments["tensor_parallel_size"]) == ("bfloat16", 2)
    left_out = {
        "kv_cache_memory_bytes",
        "block_size",
        "max_num_batched_tokens",
        "enable_chunked_prefill",
        "hf_overrides",
    }
    assert not left_out & set(arguments)
    assert set(engine_environment(config, is_cpu=False)) == {"HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"}


def test_the_user_has_the_last_word() -> None:
    config = EngineConfig(
        max_model_len=300,
        kv_cache_bytes=1000,
        block_size=64,
        max_num_batched_tokens=700,
        enforce_eager=False,
        cpu_threads=3,
    )
    arguments = engine_arguments(config, Path("model"), CWM, is_cpu=True)
    names = ("max_model_len", "kv_cache_memory_bytes", "block_size", "max_num_batched_tokens", "enforce_eager")
    assert [arguments[name] for name in names] == [300, 1000, 64, 700, False]
    environment = engine_environment(config, is_cpu=True)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "TORCHDYNAMO_DISABLE" not in environment  # the user asked for compilation
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in engine_environment(EngineConfig(tensor_parallel_size=2), is_cpu=True)
    with pytest.raises(ValidationError):
        EngineConfig(max_num_seqs=0)


def test_every_kind_of_mismatch_is_named() -> None:
    served = {"a": (2, 3), "b": (4,), "c": (5,), "d": (6,)}
    check_same_tensors(served, dict(reversed(served.items())))
    with pytest.raises(
        WeightSyncError, match=r"b is missing; z is unexpected; a has shape \(3, 2\), expected \(2, 3\)$"
    ):
        check_same_tensors(served, {"a": (3, 2), "c": (5,), "d": (6,), "z": (1,)})
    with pytest.raises(WeightSyncError, match=r"a is missing; b is missing; c is missing and 1 more$"):
        check_same_tensors(served, {})
