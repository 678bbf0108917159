"""Sandbox: one isolated file system with one persistent bash. Back ends live in `swegym.envs.sandboxes`.

Every method is a coroutine. A sandbox runs one command at a time. A command that fails, is killed or breaks the shell
is a *result*; only a sandbox that no longer answers raises (`SandboxLost`), and that is never a task's result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from swegym.core.records import Record

__all__ = ["ExecResult", "KilledBy", "Sandbox", "SandboxLimits", "SandboxProvider", "SandboxSpec"]

KilledBy = Literal["timeout", "oom", "disk", "output"]
"""Which limit ended a command or a process of it: time, memory, disk, or amount of output."""


class SandboxLimits(Record):
    """Hard limits of one sandbox."""

    memory_bytes: int = Field(default=2 * 1024**3, ge=32 * 1024**2)
    num_processes: int = Field(default=512, ge=8)
    cpus: float = Field(default=1.0, gt=0)
    disk_bytes: int = Field(default=2 * 1024**3, ge=1024**2)
    lifetime_s: float = Field(default=7200.0, gt=0)
    """After this the sandbox is removed whatever happens."""


class SandboxSpec(Record):
    """Everything needed to make a sandbox, by any back end."""

    image: str
    workspace: str | None = None
    """Absolute host folder whose content appears (copy on write) at `workdir`; None: the image already has it."""
    dockerfile: str | None = None
    """Absolute host path of a Dockerfile, its folder being the build context; the workspace and dependencies are put on
    the image that it makes. Only back ends with images can use it."""
    dependencies: str | None = None
    """Absolute host folder mounted read-only at /opt/swegym/dependencies and put on PYTHONPATH."""
    workdir: str = "/testbed"
    environment: dict[str, str] = Field(default_factory=dict)
    network: bool = False
    limits: SandboxLimits = SandboxLimits()
    labels: dict[str, str] = Field(default_factory=dict)
    """For listing and reaping; a run puts its id here."""
    prepare_command: str = ""
    """Run once in a new sandbox before anybody gets it, not in forks nor in what starts from a snapshot; in a warm pool
    it is over when a sandbox is taken. It must leave the shell as it was; the sandbox's user finds out if it failed."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Result of one command."""

    output: bytes
    """stdout and stderr in the order written; head and tail when it was longer than the limit."""
    exit_code: int
    """The shell's; 128 + signal when killed; 124 for our time limit, 137 for our disk limit."""
    duration_s: float
    truncated_bytes: int = 0
    """Bytes dropped between head and tail."""
    killed_by: KilledBy | None = None
    shell_restarted: bool = False
    """The command ended the shell (`exit`, `exec`, a kill); the next command runs in a new one, same directory."""

    @property
    def text(self) -> str:
        """Output as text; invalid UTF-8 becomes U+FFFD, line ends stay as they are."""
        return self.output.decode("utf-8", errors="replace")


@runtime_checkable
class Sandbox(Protocol):
    """One sandbox. Made and started by a provider."""

    sandbox_id: str
    backend: str

    async def run(self, command: str, *, timeout_s: float = 120.0, limit_bytes: int = 1_048_576) -> ExecResult:
        """Run a command in the persistent shell (stdin is /dev/null).

        Raises SandboxLost: the sandbox does not answer.
        """
        ...

    async def read_file(self, path: str) -> bytes:
        """Raises FileNotFoundError, SandboxError (not a regular file), SandboxLost."""
        ...

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Parents are created. Raises SandboxError, SandboxLost."""
        ...

    async def snapshot(self) -> str:
        """Keep the file system's present state under an id that `SandboxProvider.create` accepts as image."""
        ...

    async def fork(self) -> Sandbox:
        """An independent copy of the file system, working directory, variables and functions."""
        ...

    async def is_healthy(self) -> bool: ...

    async def close(self) -> None:
        """Remove everything; idempotent."""
        ...


@runtime_checkable
class SandboxProvider(Protocol):
    """A back end."""

    name: str

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A started sandbox. Raises SandboxError, ImageMissing."""
        ...

    async def close(self) -> None:
        """Remove every sandbox of this provider; idempotent."""
        ...
