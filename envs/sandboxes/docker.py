"""Back end `docker`: one container, one attached socket, one persistent bash per sandbox. Podman answers the same API.

The shell's bytes go over the attach connection in the event loop; only calls that make or remove something block, and
run in a few threads. A container removes itself when its owner dies: the connection closes, its supervisor
reads the end of its input and exits, and the engine deletes it (stdin_once, auto_remove). The reaper is for the rest.
"""

from __future__ import annotations

import asyncio
import math
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from swegym.core.errors import DependencyMissing, SandboxError, boundary
from swegym.core.sandbox import Sandbox, SandboxSpec
from swegym.envs.sandboxes.base import ShellSandbox, base_environment, new_sandbox_id
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.images import ImageBuilder, in_pool
from swegym.envs.sandboxes.reaper import OWNER_LABEL, owner_token
from swegym.envs.sandboxes.session import BOOTSTRAP, ShellSession

__all__ = ["DockerProvider", "DockerSandbox", "FrameParser"]

_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
"""What root needs in its own files; every other capability is dropped."""
_SNAPSHOT_REPOSITORY = "swegym/snapshot"


class FrameParser:
    """Splits an attach stream into frames: stream number (1 stdout, 2 stderr), three zeros, length, payload."""

    def __init__(self) -> None:
        self._stream = 0
        self._missing = 0
        self._header = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Pieces of payload with their stream numbers; a frame may come out in several pieces."""
        pieces = []
        at = 0
        while at < len(data):
            if self._missing:
                piece = data[at : at + self._missing]
                self._missing -= len(piece)
                at += len(piece)
                pieces.append((self._stream, piece))
                continue
            taken = data[at : at + 8 - len(self._header)]
            self._header += taken
            at += len(taken)
            if len(self._header) == 8:
                self._stream, self._missing = self._header[0], int.from_bytes(self._header[4:])
                self._header = b""
        return pieces


class _Attachment(asyncio.Protocol):
    """Feeds a session from the attach connection."""

    def __init__(self, session: ShellSession) -> None:
        self._session = session
        self._frames = FrameParser()

    def data_received(self, data: bytes) -> None:
        for stream, piece in self._frames.feed(data):
            (self._session.feed_data if stream == 2 else self._session.feed_output)(piece)

    def connection_lost(self, error: Exception | None) -> None:
        self._session.feed_eof(f"its container ended{f' ({error})' if error else ''}")


class DockerSandbox(ShellSandbox):
    """One container. Made by DockerProvider."""

    backend = "docker"

    def __init__(self, provider: DockerProvider, spec: SandboxSpec, own_image: str | None = None) -> None:
        super().__init__(spec)
        self._provider = provider
        self._own_image = own_image
        """Image that is deleted with this sandbox: the snapshot that it was forked from."""
        self._transport: asyncio.WriteTransport | None = None
        self._attached: Any = None

    async def start(self, image: str) -> None:
        """Create, attach, start, wait for the shell. Raises SandboxError."""
        client = self._provider.client
        with boundary(SandboxError, f"starting a container of {image}"):
            await self._provider.call(client.create_container, image, **self._options())
            params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._attached = await self._provider.call(client.attach_socket, self.sandbox_id, params)
            await self._connect(getattr(self._attached, "_sock", self._attached))
            await self._provider.call(client.start, self.sandbox_id)
        ulimits = {
            "data_kib": None,
            "num_processes": None,
            "file_kib": self.spec.limits.disk_bytes // 1024,
        }
        await self.session.start(ulimits=ulimits, timeout_s=self._provider.config.start_timeout_s)

    def _options(self) -> dict[str, Any]:
        spec, limits, config = self.spec, self.spec.limits, self._provider.config
        host_config = self._provider.client.create_host_config(
            network_mode="bridge" if spec.network else "none",
            auto_remove=True,
            cap_drop=["ALL"],
            cap_add=_CAPABILITIES,
            security_opt=["no-new-privileges"],
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.num_processes,
            nano_cpus=math.ceil(limits.cpus * 1e9),
            log_config={"Type": "none"},  # else the engine writes every byte of output to its disk
            runtime=config.runtime,
        )
        return {
            "name": self.sandbox_id,
            "entrypoint": BOOTSTRAP,
            "command": [],
            "environment": base_environment(spec),
            "working_dir": spec.workdir,
            "hostname": "sandbox",
            "user": config.user,
            "stdin_open": True,  # with `detach` False this also sets stdin_once
            "detach": False,
            "labels": {**spec.labels, "swegym": "1", OWNER_LABEL: self._provider.owner},
            "host_config": host_config,
        }

    async def _connect(self, raw: Any) -> None:
        loop = asyncio.get_running_loop()
        raw.setblocking(False)
        create = loop.create_unix_connection if raw.family == socket.AF_UNIX else loop.create_connection
        self._transport, _ = await create(lambda: _Attachment(self.session), sock=raw)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def snapshot(self) -> str:
        return await self._commit(keep=True)

    async def fork(self) -> Sandbox:
        image = await self._commit(keep=False)
        return await self._provider.start_sandbox(self.spec, image, own_image=image)

    async def _commit(self, *, keep: bool) -> str:
        await self.session.save_state()
        tag = new_sandbox_id().removeprefix("swegym-")
        with boundary(SandboxError, "committing a container"):
            commit = self._provider.client.commit
            await self._provider.call(commit, self.sandbox_id, repository=_SNAPSHOT_REPOSITORY, tag=tag)
        image = f"{_SNAPSHOT_REPOSITORY}:{tag}"
        if keep:
            self._provider.snapshots.add(image)
        return image

    async def _remove(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._attached is not None:
            self._attached.close()
        try:
            with boundary(SandboxError, f"removing container {self.sandbox_id}"):
                await self._provider.call(self._provider.remove_container, self.sandbox_id)
                if self._own_image is not None:
                    await self._provider.discard_image(self._own_image)
        finally:
            self._provider.forget(self)


class DockerProvider:
    """Back end `docker`. Raises DependencyMissing when it is made and no engine answers."""

    name = "docker"

    def __init__(self, config: SandboxConfig | None = None) -> None:
        import docker

        self.config = config or SandboxConfig(backend="docker")
        self.owner = owner_token()
        try:
            self.client: Any = docker.DockerClient.from_env(timeout=self.config.engine_timeout_s).api
            self.client.ping()
            build_client = docker.DockerClient.from_env(timeout=self.config.build_timeout_s).api
        except (docker.errors.DockerException, OSError) as error:
            raise DependencyMissing(
                f"no container engine answers ({error}); start Docker (docker/start_engine.sh, or the system's "
                "service), point DOCKER_HOST at an engine, or use --sandbox local"
            ) from None
        self._build_client = build_client
        self._images = ImageBuilder(build_client, self.config.base_image, self.config.user)
        self._pool = ThreadPoolExecutor(max(4, self.config.max_starts), thread_name_prefix="swegym-docker")
        self._starts = asyncio.Semaphore(self.config.max_starts)
        self._sandboxes: set[DockerSandbox] = set()
        self.snapshots: set[str] = set()
        self._discarded: list[str] = []
        self._discarding = asyncio.Lock()
        self._is_closed = False

    async def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """A blocking call to the engine, in a thread."""
        return await in_pool(self._pool, function, *arguments, **options)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See `SandboxProvider.create`. The image of a workspace is built at its first use.

        Raises:
            ImageMissing: the (base) image is neither here nor to be had.
        """
        self._require_open()
        if spec.image.startswith(f"{_SNAPSHOT_REPOSITORY}:"):
            return await self.start_sandbox(spec, spec.image)
        return await self.start_sandbox(spec, await self.call(self._images.ensure, spec))

    async def start_sandbox(self, spec: SandboxSpec, image: str, own_image: str | None = None) -> DockerSandbox:
        """A started container of an image that exists."""
        self._require_open()
        async with self._starts:
            sandbox = DockerSandbox(self, spec, own_image)
            self._sandboxes.add(sandbox)
            try:
                await sandbox.start(image)
            except BaseException:
                await sandbox.close()
                raise
        return sandbox

    def _require_open(self) -> None:
        if self._is_closed:
            raise SandboxError("this provider is closed")

    def remove_container(self, name: str) -> None:
        import docker

        try:
            self.client.remove_container(name, v=True, force=True)
        except docker.errors.NotFound:
            pass  # it was never made, or removed itself
        except docker.errors.APIError as error:
            if error.status_code != 409:  # 409: its removal is in progress
                raise

    async def discard_image(self, image: str | None) -> None:
        """Delete a snapshot, and those that were kept so far because another one or a container is built on them."""
        import docker

        async with self._discarding:  # the engine trips over removals of related images at the same time
            self._discarded += [image] if image else []
            for tag in reversed(self._discarded[:]):
                try:
                    await self.call(self.client.remove_image, tag, force=True)
                except docker.errors.ImageNotFound:
                    pass  # what was wanted
                except docker.errors.APIError as error:
                    if error.status_code != 409:
                        raise
                    continue  # 409: still in use
                self._discarded.remove(tag)

    def forget(self, sandbox: DockerSandbox) -> None:
        self._sandboxes.discard(sandbox)

    async def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        self._discarded += sorted(self.snapshots)
        for _ in range(len(self._discarded)):  # each pass frees what the images of the one before were built on
            if self._discarded:
                await self.discard_image(None)
        self._pool.shutdown(wait=False)
        self.client.close()
        self._build_client.close()
