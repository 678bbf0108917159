"""Many environments at once: commands per second, and what an idle one costs in our process."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from contenders import Engine, ExecRun
from measure import same_output
from setting import Setting
from workload import EDIT, MIX, WORKDIR, WorkloadTasks

from swegym.core.action import ToolCall
from swegym.core.errors import DependencyMissing
from swegym.envs.sandboxes import make_provider
from swegym.envs.swe_env import SweEnv

__all__ = ["idle_bytes", "measure_memory", "measure_rate"]

_LIMIT_KIB = 1024.0
"""An idle environment may cost this much of our process."""


async def measure_rate(setting: Setting) -> None:
    """Rows rate/... : environments that step through the mix, against as many threads over `exec_run`."""
    if setting.engine is None or "docker" not in setting.backends:
        setting.results.leave_out("rate", "threads over exec_run", setting.no_engine or "docker is not in --backends")
        return
    for number in setting.counts.environments:
        if not setting.wants(f"rate/{number}"):
            continue
        async with AsyncExitStack() as stack:
            await _measure_rate_of(setting, stack, number)
        setting.results.write()


async def _measure_rate_of(setting: Setting, stack: AsyncExitStack, number: int) -> None:
    assert setting.engine is not None
    tasks = WorkloadTasks(setting.repository)
    expected: dict[str, str] = {}
    runs: dict[str, Callable[[], Awaitable[float]]] = {}
    image = ""
    for backend in setting.backends:
        provider = setting.ours(stack, backend)
        environments = [SweEnv(taskset=tasks, sandbox=provider) for _ in range(number)]
        for environment in environments:
            stack.push_async_callback(environment.aclose)
        await _start(environments, tasks)
        if backend == "docker":
            probe = await provider.create(setting.spec(setting.repository, "environment"))
            image = setting.image_of(probe)
            await probe.close()
        runs[backend] = _environments(environments, expected, setting.counts.block_s)
    containers = await asyncio.gather(*(asyncio.to_thread(setting.engine.start, image) for _ in range(number)))
    stack.push_async_callback(_remove, setting.engine, [container.id for container in containers])
    threads = ThreadPoolExecutor(number)
    stack.callback(threads.shutdown)
    contenders = [ExecRun(container) for container in containers]
    runs["exec_run"] = _threads(threads, contenders, expected, setting.counts.block_s)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(setting.counts.blocks):
        for name, run in runs.items():
            rates[name].append(await run())
    for backend in setting.backends:
        setting.results.compare(
            f"rate/{number} ({backend})",
            rates[backend],
            rates["exec_run"],
            "threads over exec_run",
            "commands/s",
            aim=8.0 if number == 16 else None,
            more_is_better=True,
        )


async def _start(environments: list[SweEnv], tasks: WorkloadTasks) -> None:
    """All of them at once; when one fails the others are given up before it is raised."""
    try:
        async with asyncio.TaskGroup() as starts:
            for environment in environments:
                starts.create_task(environment.start(tasks.get("benchmark")))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def _environments(
    environments: list[SweEnv], expected: dict[str, str], block_s: float
) -> Callable[[], Awaitable[float]]:
    async def step(environment: SweEnv, offset: int, deadline: float) -> int:
        count = 0
        while time.perf_counter() < deadline:
            command = MIX[(offset + count) % len(MIX)]
            result = await environment.act(ToolCall(tool="bash", body=command))
            text = result.observation.text
            same_output(expected.setdefault(command, text).encode(), text.encode(), f"environment, {command!r}")
            count += 1
        return count

    async def run() -> float:
        started = time.perf_counter()
        counts = await asyncio.gather(
            *(step(environment, index, started + block_s) for index, environment in enumerate(environments))
        )
        return sum(counts) / (time.perf_counter() - started)

    return run


def _threads(
    pool: ThreadPoolExecutor, contenders: list[ExecRun], expected: dict[str, str], block_s: float
) -> Callable[[], Awaitable[float]]:
    for contender in contenders:
        contender.run_now(EDIT)

    def step(contender: ExecRun, offset: int, deadline: float) -> int:
        count = 0
        while time.perf_counter() < deadline:
            command = MIX[(offset + count) % len(MIX)]
            answer = contender.run_now(command)
            same_output(
                expected.setdefault(command, answer.output.decode()).encode(), answer.output, f"exec_run, {command!r}"
            )
            count += 1
        return count

    async def run() -> float:
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        counts = await asyncio.gather(
            *(
                loop.run_in_executor(pool, step, contender, index, started + block_s)
                for index, contender in enumerate(contenders)
            )
        )
        return sum(counts) / (time.perf_counter() - started)

    return run


async def _remove(engine: Engine, containers: list[str]) -> None:
    await asyncio.gather(*(asyncio.to_thread(engine.remove, container) for container in containers))


async def measure_memory(setting: Setting) -> None:
    """Rows memory/... : resident memory per idle environment, in a fresh process, against the limit and SWE-ReX."""
    kib: dict[str, float] = {}
    for backend in setting.backends:
        kib[backend] = await _idle_kib(setting, backend)
        setting.results.compare(
            f"memory/idle ({backend})", kib[backend], _LIMIT_KIB, "the limit of 1 MB", "KiB", aim=1.0
        )
    if "docker" in kib and setting.engine is not None:
        async with AsyncExitStack() as stack:
            probe = await setting.ours(stack, "docker").create(setting.spec(setting.repository, "repository"))
            image = setting.image_of(probe)
        try:
            swerex = await setting.swerex_image(image)
        except DependencyMissing as error:
            setting.results.leave_out("memory/idle (docker)", "SWE-ReX, its own process", str(error))
            return
        assert setting.peers is not None
        answer = await setting.peers.ask(
            "memory",
            peer="swerex",
            image=swerex,
            label=setting.engine.label,
            workdir=WORKDIR,
            network=setting.engine.network,
            count=setting.counts.idle_peers,
        )
        own, helpers = answer["bytes_each"] / 1024, answer["helper_bytes_each"] / 1024
        measure = "memory/idle (docker)"
        setting.results.compare(measure, kib["docker"], own, "SWE-ReX, its own process", "KiB")
        setting.results.compare(measure, kib["docker"], own + helpers, "SWE-ReX, its docker clients too", "KiB")
    setting.results.write()


async def _idle_kib(setting: Setting, backend: str) -> float:
    script = str(Path(__file__).with_name("sandbox.py"))
    arguments = ["--idle", backend, str(setting.counts.idle), str(setting.repository)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, *arguments, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"measuring the memory of {backend} ended with {process.returncode}")
    return float(json.loads(output)["bytes_each"]) / 1024


async def idle_bytes(backend: str, count: int, repository: Path) -> dict[str, Any]:
    """Start one environment, then `count` more; what these cost each. Run in a process of its own."""
    tasks = WorkloadTasks(repository)
    provider = make_provider(backend)
    environments = [SweEnv(taskset=tasks, sandbox=provider) for _ in range(count + 1)]
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await environments[0].start(tasks.get("benchmark"))
        gc.collect()
        before = _resident_bytes()
        await _start(environments[1:], tasks)
        gc.collect()
        return {"bytes_each": (_resident_bytes() - before) / count}
    finally:
        await provider.close()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
