"""A real local provider that a test can hold up, and what else the tests of the pool share."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes.pool import PooledSandbox


async def until(condition: Callable[[], bool], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def inner(sandbox: Sandbox) -> Sandbox:
    assert isinstance(sandbox, PooledSandbox)
    return sandbox.inner


class Watched:
    """A real local provider that can be held up, told to fail, and that counts."""

    name = "local"

    def __init__(self, real: SandboxProvider) -> None:
        self.real = real
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.num_starts = 0
        self.made: list[Sandbox] = []

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.num_starts += 1
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        sandbox = await self.real.create(spec)
        self.made.append(sandbox)
        return sandbox

    async def close(self) -> None:
        await self.real.close()


def folders(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "sandboxes").glob("swegym-*")}


def environment(spec: SandboxSpec, **values: str) -> SandboxSpec:
    return spec.model_copy(update={"environment": values})


def docker_cli(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()
