"""The peers as contenders: they run in a process of their own, in their own environment (peers/worker.py)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

from contenders import Answer, Engine

from swegym.core.errors import DependencyMissing
from swegym.core.records import digest

__all__ = ["Peer", "PeerProcess", "swerex_image"]

_WORKER = Path(__file__).parent / "peers" / "worker.py"
_LONGEST_ANSWER_BYTES = 64 * 1024**2
_SWEREX = "/opt/swerex"
_LAUNCHER = f"#!{_SWEREX}/bin/python\nfrom swerex.server import main\n\nmain()\n"


class PeerProcess:
    """One worker. Requests go one after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, folder: Path) -> PeerProcess:
        """Start the worker in FOLDER/venv, its complaints going to FOLDER/worker.log.

        Raises:
            DependencyMissing: the peers are not installed there.
        """
        python = folder / "venv" / "bin" / "python"
        if not (folder / "venv" / ".complete").exists():
            raise DependencyMissing(f"not installed in {folder}; run with --install-peers")
        with (folder / "worker.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                str(python),
                str(_WORKER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LONGEST_ANSWER_BYTES,
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
            )
        return cls(process)

    async def ask(self, operation: str, **values: Any) -> dict[str, Any]:
        """One request and its answer.

        Raises:
            RuntimeError: the peer failed or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"operation": operation, **values}).encode() + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peers' process ended during {operation!r}; see worker.log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"peer, {operation!r}: {answer['error']}")
        return answer

    async def close(self) -> None:
        """Have it stop what it started, and end it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 30)
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


class Peer:
    """A peer's open environment as a contender."""

    def __init__(self, process: PeerProcess, name: str, how: str = "session") -> None:
        self._process, self._name, self._how = process, name, how

    async def run(self, command: str) -> Answer:
        """One command, timed in the peer's own process."""
        answer = await self._process.ask("run", name=self._name, how=self._how, command=command)
        return Answer(answer["seconds"], answer["output"].encode(errors="replace"), answer["exit_code"])


def swerex_image(engine: Engine, image: str, folder: Path) -> str:
    """The image with SWE-ReX's server in an environment of its own inside; built once.

    Raises:
        DependencyMissing: the server's files have not been installed in FOLDER/server.
    """
    markers = [*(folder / "server").glob(".python-*")]
    if not markers:
        raise DependencyMissing(f"its server is not in {folder / 'server'}; run with --install-peers")
    version = markers[0].name.removeprefix(".python-")
    dockerfile = (
        f"FROM {image}\n"
        f"RUN python3 -m venv --without-pip {_SWEREX}\n"
        f"COPY server {_SWEREX}/lib/python{version}/site-packages\n"
        "COPY swerex-remote /usr/local/bin/swerex-remote\n"
    )
    tag = f"swegym/benchmark-swerex:{digest(engine.client.images.get(image).id, dockerfile)}"
    import docker

    try:
        engine.client.images.get(tag)
    except docker.errors.ImageNotFound:
        context = BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            tar.add(folder / "server", "server")
            for name, text, mode in (("Dockerfile", dockerfile, 0o644), ("swerex-remote", _LAUNCHER, 0o755)):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(text), mode
                tar.addfile(entry, BytesIO(text.encode()))
        context.seek(0)
        engine.client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True, network_mode="none")
    return tag
