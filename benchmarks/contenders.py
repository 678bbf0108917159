"""Ways to run a command in a container, each timed by its own clock: ours, the Docker SDK, the CLI, a bare shell.

The bare shells are the bound: bash reads commands from a socket or a pipe and prints a mark after each. Nothing limits
a command there, keeps its output's size, or survives an `exit`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from workload import WORKDIR

from swegym.core.sandbox import Sandbox

__all__ = ["Answer", "Contender", "DockerExec", "Engine", "ExecRun", "Ours", "RawPipes", "RawSocket"]

LABEL = "swegym.benchmark"


@dataclass(frozen=True, slots=True)
class Answer:
    """One command's output and what it took."""

    seconds: float
    output: bytes
    exit_code: int


class Contender(Protocol):
    """Runs commands in one container that is already there."""

    async def run(self, command: str) -> Answer:
        """Run one command."""
        ...


class Ours:
    """A sandbox of this project."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def run(self, command: str) -> Answer:
        """`Sandbox.run` with its defaults."""
        started = time.perf_counter()
        result = await self._sandbox.run(command)
        return Answer(time.perf_counter() - started, result.output, result.exit_code)


class Engine:
    """The plain containers of one benchmark run, by the Docker SDK. `close` removes whatever bears the run's label."""

    def __init__(self, num_connections: int = 64) -> None:
        import docker

        self.client: Any = docker.from_env(timeout=300, max_pool_size=num_connections)
        self.client.ping()
        self.run_id = secrets.token_hex(6)
        self.images: list[str] = []
        self._network: Any = None

    @property
    def network(self) -> str:
        """Name of a bridge network of this run, for peers that publish a port; made at the first use.

        The engine's own bridge would do as well, where there is one.
        """
        if self._network is None:
            name = f"swegym-benchmark-{self.run_id}"
            self._network = self.client.networks.create(name, driver="bridge", labels={LABEL: self.run_id})
        return str(self._network.name)

    @property
    def label(self) -> str:
        """KEY=VALUE that every container of this run bears."""
        return f"{LABEL}={self.run_id}"

    def start(self, image: str, command: list[str] | None = None, **options: Any) -> Any:
        """A running container without a network that ends by itself in an hour."""
        defaults = {"detach": True, "auto_remove": True, "network_mode": "none", "working_dir": WORKDIR}
        defaults["labels"] = {LABEL: self.run_id}
        return self.client.containers.run(image, command or ["sleep", "3600"], **(defaults | options))

    def left_behind(self) -> list[Any]:
        """Containers of this run that still exist."""
        found: list[Any] = self.client.containers.list(all=True, ignore_removed=True, filters={"label": self.label})
        return found

    def remove(self, container: str) -> None:
        """Remove a container that may be going already."""
        import docker

        try:
            self.client.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            pass  # what was wanted
        except docker.errors.APIError as error:
            if error.status_code != 409:  # its removal is in progress
                raise

    def remove_image(self, image: str) -> None:
        """Remove an image that may be gone."""
        import docker

        with contextlib.suppress(docker.errors.ImageNotFound):
            self.client.images.remove(image, force=True)

    def close(self) -> None:
        """Remove the run's containers, committed images and network."""
        for container in self.left_behind():
            self.remove(container.id)
        for image in self.images:
            self.remove_image(image)
        deadline = time.monotonic() + 30
        while self.left_behind() and time.monotonic() < deadline:
            time.sleep(0.1)
        if left := self.left_behind():
            raise RuntimeError(f"containers that cannot be removed: {[container.name for container in left]}")
        if self._network is not None:
            self._network.remove()
        self.client.close()


class ExecRun:
    """The Docker SDK's `exec_run`."""

    def __init__(self, container: Any) -> None:
        self._container = container

    async def run(self, command: str) -> Answer:
        """One exec."""
        return self.run_now(command)

    def run_now(self, command: str) -> Answer:
        """The same for threads."""
        started = time.perf_counter()
        exit_code, output = self._container.exec_run(["bash", "-c", command], workdir=WORKDIR)
        return Answer(time.perf_counter() - started, output, exit_code)


class DockerExec:
    """`docker exec`, the command line."""

    def __init__(self, container: Any) -> None:
        self._name = container.name

    async def run(self, command: str) -> Answer:
        """One process of the client."""
        started = time.perf_counter()
        arguments = ["docker", "exec", "-w", WORKDIR, self._name, "bash", "-c", command]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        return Answer(time.perf_counter() - started, done.stdout, done.returncode)


class _RawShell:
    """Writes a command and a line that prints a mark, reads up to the mark."""

    def __init__(self, write: Callable[[bytes], object], read: Callable[[], bytes]) -> None:
        self._write, self._read = write, read
        write(b"exec 2>&1\n")

    async def run(self, command: str) -> Answer:
        """One command; blocks."""
        mark = secrets.token_hex(16).encode()
        started = time.perf_counter()
        self._write(command.encode() + b"\nprintf '\\n%s %d\\n' " + mark + b" $?\n")
        pieces: list[bytes] = []
        tail = b""
        while not (tail.endswith(b"\n") and mark in tail):
            piece = self._read()
            if not piece:
                raise RuntimeError("the bare shell has ended")
            pieces.append(piece)
            tail = (tail + piece)[-200:]
        seconds = time.perf_counter() - started
        output, _, code = b"".join(pieces).rpartition(b"\n" + mark + b" ")
        return Answer(seconds, output, int(code))


class RawSocket(_RawShell):
    """bash at the other end of a container's attach connection."""

    def __init__(self, engine: Engine, image: str) -> None:
        api = engine.client.api
        self.container = engine.client.containers.create(
            image,
            ["bash"],
            stdin_open=True,
            auto_remove=True,
            network_mode="none",
            working_dir=WORKDIR,
            labels={LABEL: engine.run_id},
        )
        attached = api.attach_socket(self.container.id, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        self._attached = attached
        self._socket = attached._sock
        self._socket.settimeout(120)
        self._stream = self._socket.makefile("rb", buffering=1 << 18)
        self.container.start()
        super().__init__(self._socket.sendall, self._frame)

    def _frame(self) -> bytes:
        header = self._stream.read(8)
        return self._stream.read(int.from_bytes(header[4:])) if len(header) == 8 else b""

    def close(self) -> None:
        """Close the connection; the container's shell then ends."""
        self._stream.close()
        self._attached.close()


class RawPipes(_RawShell):
    """bash on this machine, without any isolation: the bound for the local back end."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            # as in a local sandbox; a `python` found elsewhere may be a wrapper that takes longer than Python
            env={"PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        super().__init__(self._process.stdin.write, lambda: os.read(output, 1 << 18))

    def close(self) -> None:
        """End the shell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()
