"""Drives SWE-ReX and mini-swe-agent inside their own environment, for benchmarks/sandbox.py.

Reads one JSON request a line and answers with one line; ends, and stops what it started, when its input ends. Durations
are taken here, around the peer's own call, so that this channel is not in them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
os.environ.setdefault("SWE_REX_LOG_STREAM_LEVEL", "ERROR")


class Mini:
    """mini-swe-agent's DockerEnvironment as it comes: `docker exec` with `bash -lc`."""

    def __init__(self) -> None:
        self._environment: Any = None

    async def open(self, image: str, label: str, workdir: str, network: str) -> None:
        from minisweagent.environments.docker import DockerEnvironment

        arguments = ["--rm", "--network", network, "--label", label]
        self._environment = DockerEnvironment(image=image, cwd=workdir, run_args=arguments, container_timeout="1h")

    async def run(self, command: str, how: str) -> tuple[str, int]:
        result = self._environment.execute({"command": command})
        return result["output"], result["returncode"]

    async def close(self) -> None:
        self._environment = None  # its own clean-up goes on in the background


class SweRex:
    """SWE-ReX's DockerDeployment with one bash session, and its one-shot `execute`."""

    def __init__(self) -> None:
        self._deployment: Any = None
        self._workdir = ""

    async def open(self, image: str, label: str, workdir: str, network: str) -> None:
        from swerex.deployment.docker import DockerDeployment
        from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

        arguments = ["--network", network, "--label", label, "-w", workdir]
        self._deployment = DockerDeployment(image=image, pull="never", docker_args=arguments)
        await self._deployment.start()
        await self._deployment.runtime.create_session(CreateBashSessionRequest())
        await self._deployment.runtime.run_in_session(BashAction(command=f"cd {workdir}"))
        self._workdir = workdir

    async def run(self, command: str, how: str) -> tuple[str, int]:
        from swerex.runtime.abstract import BashAction, Command

        if how == "execute":
            result = await self._deployment.runtime.execute(Command(command=command, shell=True, cwd=self._workdir))
            return result.stdout + result.stderr, result.exit_code
        result = await self._deployment.runtime.run_in_session(BashAction(command=command, check="silent"))
        return result.output, result.exit_code

    async def close(self) -> None:
        deployment, self._deployment = self._deployment, None
        if deployment is not None:
            await deployment.stop()


PEERS = {"mini": Mini, "swerex": SweRex}


class Worker:
    """What is open, by name."""

    def __init__(self) -> None:
        self._open: dict[str, Any] = {}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request: open, run, start (open, first command, close) or memory."""
        operation = request.pop("operation")
        return await getattr(self, f"do_{operation}")(**request)

    async def do_open(self, name: str, peer: str, **where: str) -> dict[str, Any]:
        contender = PEERS[peer]()
        self._open[name] = contender
        started = time.perf_counter()
        await contender.open(**where)
        return {"seconds": time.perf_counter() - started}

    async def do_run(self, name: str, how: str, command: str) -> dict[str, Any]:
        started = time.perf_counter()
        output, exit_code = await self._open[name].run(command, how)
        return {"seconds": time.perf_counter() - started, "output": output, "exit_code": exit_code}

    async def do_start(self, peer: str, command: str, **where: str) -> dict[str, Any]:
        self._open["started"] = contender = PEERS[peer]()
        started = time.perf_counter()
        await contender.open(**where)
        output, exit_code = await contender.run(command, "session")
        seconds = time.perf_counter() - started
        del self._open["started"]
        await contender.close()
        return {"seconds": seconds, "output": output, "exit_code": exit_code}

    async def do_memory(self, peer: str, count: int, **where: str) -> dict[str, Any]:
        first, *others = [PEERS[peer]() for _ in range(count + 1)]
        await first.open(**where)  # loads what the first one loads
        gc.collect()
        before = resident_bytes()
        try:
            for number, contender in enumerate(others):
                self._open[f"idle-{number}"] = contender
                await contender.open(**where)
            gc.collect()
            helpers = sum(map(resident_bytes, child_pids()))
            return {
                "bytes_each": (resident_bytes() - before) / count,
                "helper_bytes_each": helpers / (count + 1),
            }
        finally:
            for contender in (first, *others):
                await contender.close()

    async def close(self) -> None:
        for contender in self._open.values():
            await contender.close()


def child_pids() -> list[int]:
    """Processes that this one started and that still run."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def resident_bytes(pid: int | None = None) -> int:
    """Resident memory of this process; of another one only what it does not share."""
    resident, shared = map(int, Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1:3])
    return (resident - (shared if pid else 0)) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the peers print must not come between the answers
    worker = Worker()
    with asyncio.Runner() as runner:
        try:
            for text in sys.stdin:
                try:
                    answer = runner.run(worker.answer(json.loads(text)))
                except Exception as error:  # noqa: BLE001  whatever a peer raises is the answer
                    answer = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(answer), file=answers, flush=True)
        finally:
            runner.run(worker.close())


if __name__ == "__main__":
    main()
