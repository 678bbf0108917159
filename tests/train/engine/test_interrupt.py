"""Ctrl-C while Ray and vLLM are busy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import psutil  # type: ignore[import-untyped]
import pytest

from .conftest import Weights
from .test_engine_death import wait_until_gone

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.chaos]


def test_ctrl_c_leaves_no_process(checkpoints: tuple[Weights, Weights]) -> None:
    """The terminal sends SIGINT to the whole foreground group; Ray and vLLM must be gone when the program is."""
    program = f"""
        import asyncio
        from swegym.core.policy import SamplingParams
        from swegym.train.engine.actor import RemoteEngine
        from swegym.train.ray_runtime import ray_runtime

        async def main():
            engine = await RemoteEngine.create({str(checkpoints[0].folder)!r})
            calls = [engine.generate([1, n], SamplingParams(max_tokens=400)) for n in range(200)]
            print("running", flush=True)
            await asyncio.gather(*calls)
            await asyncio.sleep(60)

        if __name__ == "__main__":
            with ray_runtime(num_cpus=1):
                asyncio.run(main())
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(children) >= 4  # gcs server, raylet, the actor's worker, the engine
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) in (-signal.SIGINT, 130)
    process.stdout.close()
    assert wait_until_gone(children) == []
