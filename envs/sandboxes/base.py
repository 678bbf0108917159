"""What every sandbox that has a `ShellSession` shares: the Protocol's methods, life time, idempotent removal."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod

from swegym.core.errors import SandboxError
from swegym.core.sandbox import ExecResult, Sandbox, SandboxSpec
from swegym.envs.sandboxes.session import ShellSession

__all__ = ["DEPENDENCIES_PATH", "ShellSandbox", "base_environment", "new_sandbox_id"]

DEPENDENCIES_PATH = "/opt/swegym/dependencies"


def new_sandbox_id() -> str:
    return f"swegym-{secrets.token_hex(6)}"


def base_environment(spec: SandboxSpec) -> dict[str, str]:
    """Variables that every sandbox has: nothing prompts, pages or depends on the day; the spec's come last."""
    environment = {
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "PYTHONHASHSEED": "0",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_EDITOR": "true",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "PIP_NO_INPUT": "1",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    if spec.dependencies is not None:
        environment["PYTHONPATH"] = DEPENDENCIES_PATH
    return environment | spec.environment


class ShellSandbox(ABC):
    """A sandbox around a session. A back end moves its bytes, copies it and removes it."""

    backend = ""

    def __init__(self, spec: SandboxSpec, sandbox_id: str | None = None) -> None:
        self.sandbox_id = sandbox_id or new_sandbox_id()
        self.spec = spec
        self.session = ShellSession(self._write, self._on_lost)
        self._removal: asyncio.Task[None] | None = None
        self._end_of_life = asyncio.get_running_loop().call_later(
            spec.limits.lifetime_s, self.session.lose, f"its life time of {spec.limits.lifetime_s:g} s is over"
        )

    async def run(self, command: str, *, timeout_s: float = 120.0, limit_bytes: int = 1_048_576) -> ExecResult:
        return await self.session.run(command, timeout_s=timeout_s, limit_bytes=limit_bytes)

    async def read_file(self, path: str) -> bytes:
        return await self.session.read_file(path)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self.session.write_file(path, data, mode=mode)

    async def is_healthy(self) -> bool:
        """Whether the shell answers within 5 s (or within 15 s, when the sandbox is then given up)."""
        if self.session.lost_reason is not None:
            return False
        try:
            return (await self.session.run(":", timeout_s=5.0, limit_bytes=0)).exit_code == 0
        except SandboxError:
            return False  # the question was whether it works

    async def close(self) -> None:
        self.session.lose("it was closed")
        assert self._removal is not None
        await asyncio.shield(self._removal)

    def _on_lost(self, reason: str) -> None:
        self._end_of_life.cancel()
        self._removal = asyncio.get_running_loop().create_task(self._remove(), name=f"remove {self.sandbox_id}")

    @abstractmethod
    async def snapshot(self) -> str: ...

    @abstractmethod
    async def fork(self) -> Sandbox: ...

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Bytes for the sandbox's stdin; dropped when it is gone."""

    @abstractmethod
    async def _remove(self) -> None:
        """End every process and delete every file of the sandbox."""
