"""An engine whose process ends fails its requests at once."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from swegym.core.errors import PolicyError, WeightSyncError
from swegym.core.policy import SamplingParams
from swegym.train.engine.config import EngineConfig
from swegym.train.engine.vllm_engine import VllmEngine

from .conftest import Weights

pytestmark = [pytest.mark.vllm, pytest.mark.chaos]
LONG = SamplingParams(max_tokens=500)


def wait_until_gone(process_ids: list[int], timeout_s: float = 20) -> list[int]:
    """Those that still run after the time limit."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        alive = [pid for pid in process_ids if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        if not alive:
            return []
        time.sleep(0.1)
    return alive


async def test_a_killed_engine_fails_requests_and_updates(checkpoints: tuple[Weights, Weights]) -> None:
    engine = VllmEngine(checkpoints[0].folder, EngineConfig(max_num_seqs=8))
    await engine.start()
    calls: list[asyncio.Task[Any]] = [asyncio.create_task(engine.generate([1, 2, index], LONG)) for index in range(12)]
    await asyncio.sleep(0.1)
    calls.append(asyncio.create_task(engine.update_weights(checkpoints[1].folder, 1)))
    while engine._admission.is_set():
        await asyncio.sleep(0)
    (process_id,) = engine.process_ids
    os.kill(process_id, signal.SIGKILL)
    errors = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), timeout=60)
    assert {type(error) for error in errors[:-1]} == {PolicyError}
    assert type(errors[-1]) is WeightSyncError
    assert not engine.is_alive
    with pytest.raises(PolicyError, match="dead"):
        await engine.generate([1], LONG)
    await engine.shutdown()
