"""What every sandbox that has a `ShellSession` shares: the Protocol's methods, life time, idempotent removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable

from swegym.core.errors import SandboxError, boundary
from swegym.core.sandbox import ExecResult, Sandbox, SandboxSpec
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.session import ShellSession

__all__ = [
    "DEPENDENCIES_PATH",
    "ShellSandbox",
    "abandon",
    "base_environment",
    "close_all",
    "new_sandbox_id",
    "prepared",
]

logger = logging.getLogger(__name__)

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

    def __init__(self, spec: SandboxSpec, config: SandboxConfig) -> None:
        self.sandbox_id = new_sandbox_id()
        self.spec = spec
        self.config = config
        self.session = ShellSession(self._write, self._on_lost, self._interrupt, config)
        self._removal: asyncio.Task[None] | None = None
        self._end_of_life: asyncio.TimerHandle | None = None

    def begin_life(self) -> None:
        """The sandbox has started (that has a limit of its own), or is handed out: its life time counts from now."""
        self._end_life_timer()
        limit_s, lose = self.spec.limits.lifetime_s, self.session.lose
        if self.session.lost_reason is None:
            reason = f"its life time of {limit_s:g} s is over"
            self._end_of_life = asyncio.get_running_loop().call_later(limit_s, lose, reason)

    def _end_life_timer(self) -> None:
        if self._end_of_life is not None:
            self._end_of_life.cancel()

    async def prepare(self) -> None:
        """Run the spec's `prepare_command`. Raises SandboxLost; what the command returned is not looked at."""
        if self.spec.prepare_command:
            timeout_s = self.config.prepare_timeout_s
            await self.session.run(self.spec.prepare_command, timeout_s=timeout_s, limit_bytes=65536)

    async def hand_out(self, labels: dict[str, str]) -> None:
        """For a pool, whose sandboxes wait ready: the life time counts from now, and these are the labels."""
        self.spec = self.spec.model_copy(update={"labels": labels})
        self.begin_life()
        with boundary(SandboxError, f"labelling sandbox {self.sandbox_id}"):
            self._write_labels()

    async def run(self, command: str, *, timeout_s: float = 120.0, limit_bytes: int = 1_048_576) -> ExecResult:
        return await self.session.run(command, timeout_s=timeout_s, limit_bytes=limit_bytes)

    async def read_file(self, path: str) -> bytes:
        return await self.session.read_file(path)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self.session.write_file(path, data, mode=mode)

    async def is_healthy(self) -> bool:
        """Whether the shell answers within `health_timeout_s` (beyond that, see `answer_timeout_s`)."""
        if self.session.lost_reason is not None:
            return False
        try:
            result = await self.session.run("", timeout_s=self.config.health_timeout_s, limit_bytes=0)
            return result.exit_code == 0
        except SandboxError:
            return False  # the question was whether it works

    async def close(self) -> None:
        self.session.lose("it was closed")
        assert self._removal is not None
        await asyncio.shield(self._removal)

    def _on_lost(self, reason: str) -> None:
        self._end_life_timer()
        self._removal = asyncio.get_running_loop().create_task(self._remove(), name=f"remove {self.sandbox_id}")
        self._removal.add_done_callback(self._note_removal)

    def _note_removal(self, removal: asyncio.Task[None]) -> None:
        """Say so when it failed: the owner may never close a sandbox that was lost."""
        if not removal.cancelled() and (error := removal.exception()) is not None:
            logger.warning("sandbox %s is not removed: %s", self.sandbox_id, error)

    @abstractmethod
    async def snapshot(self) -> str: ...

    async def fork(self) -> Sandbox:
        """See `Sandbox.fork`. Cancelled, it first comes to its end, so that this sandbox stays usable."""
        return await made_to_end(self._fork())

    @abstractmethod
    async def _fork(self) -> Sandbox: ...

    @abstractmethod
    async def _interrupt(self) -> None:
        """Send INTERRUPT_SIGNAL to process 1. Raises SandboxError."""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Bytes for the sandbox's stdin; dropped when it is gone."""

    @abstractmethod
    def _write_labels(self) -> None:
        """Write down the spec's labels where `list_sandboxes` finds them."""

    @abstractmethod
    async def _remove(self) -> None:
        """End every process and delete every file of the sandbox."""


async def made_to_end(making: Awaitable[Sandbox]) -> Sandbox:
    """Wait for a sandbox even when cancelled; then it is removed and the cancellation passed on."""
    future = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None:
            await future.result().close()
        raise


async def prepared(sandbox: ShellSandbox) -> None:
    """Prepare a new sandbox; one that dies of it is removed."""
    try:
        await sandbox.prepare()
    except BaseException:
        await abandon(sandbox)
        raise


async def abandon(sandbox: Sandbox) -> None:
    """Remove a sandbox that has failed. When that fails too, the log says so, and the first failure is not hidden."""
    with contextlib.suppress(SandboxError, OSError):
        await sandbox.close()


async def close_all(sandboxes: Iterable[Sandbox]) -> None:
    """Close every one, then raise the first error of those that could not be removed."""
    results = await asyncio.gather(*(sandbox.close() for sandbox in list(sandboxes)), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error
