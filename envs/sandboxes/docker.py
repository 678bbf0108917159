"""Back end `docker`: one container, one attached socket, one persistent bash per sandbox. Podman answers the same API.

The shell's bytes go over the attach connection in the event loop; only calls that make or remove something block, and
run in a few threads. A container removes itself when its owner dies: the connection closes, its supervisor
reads the end of its input and exits, and the engine deletes it (stdin_once, auto_remove). The reaper is for the rest.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import socket
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from swegym.core.aio import run_to_end
from swegym.core.errors import SandboxError, boundary
from swegym.core.sandbox import Sandbox, SandboxSpec
from swegym.envs.sandboxes.base import (
    ShellSandbox,
    abandon,
    base_environment,
    close_all,
    made_to_end,
    new_sandbox_id,
    prepared,
)
from swegym.envs.sandboxes.bwrap import HIDDEN_PROC, READ_ONLY_PROC
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.engine import is_image_missing, remove_container
from swegym.envs.sandboxes.identity import OWNER_LABEL, container_record, owner_token, write_identity
from swegym.envs.sandboxes.image_store import ImageStore
from swegym.envs.sandboxes.images import ImageBuilder, in_pool
from swegym.envs.sandboxes.reaper import remove_folder
from swegym.envs.sandboxes.seccomp_docker import docker_security_options
from swegym.envs.sandboxes.session import BOOTSTRAP, INTERRUPT_SIGNAL, ShellSession
from swegym.envs.sandboxes.transfer import CannotArchive, Changes, unpack_changes

__all__ = ["DockerProvider", "DockerSandbox", "FrameParser"]

_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER"]
"""What root needs in its own files; every other capability is dropped."""
_HIDDEN_SYS = ("/sys/firmware", "/sys/devices/virtual/powercap")
_PROVIDER_LABEL = "swegym.provider"
_SNAPSHOT_REPOSITORY = "swegym/snapshot"


def _clock_offset_s() -> float:
    """What changes only when somebody sets the clock."""
    return time.time() - time.monotonic()


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

    def __init__(self, provider: DockerProvider, spec: SandboxSpec, image: str, own_image: str | None = None) -> None:
        super().__init__(spec, provider.config)
        self._provider = provider
        self.image = image
        self._clock_offset_s = _clock_offset_s()
        self._own_image = own_image
        """Image that is deleted with this sandbox: a commit that it was forked from."""
        self._transport: asyncio.WriteTransport | None = None
        self._attached: Any = None

    async def start(self) -> None:
        """Create, attach, start, wait for the shell. Raises SandboxError."""
        client = self._provider.client
        with boundary(SandboxError, f"starting a container of {self.image}"):
            await self._create()
            params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._attached = await self._provider.call(client.attach_socket, self.sandbox_id, params)
            await self._connect(getattr(self._attached, "_sock", self._attached))
            await self._provider.call(client.start, self.sandbox_id)
        ulimits = {
            "data_kib": None,
            "num_processes": None,
            "file_kib": self.spec.limits.disk_bytes // 1024,
            "disk_kib": self.spec.limits.disk_bytes // 1024,
        }
        await self.session.start(ulimits=ulimits, timeout_s=self._provider.config.start_timeout_s)

    async def _create(self) -> None:
        """Create the container; where a ghost holds its name (409), under another one."""
        import docker

        for attempt in range(3):
            try:
                await self._provider.call(self._provider.client.create_container, self.image, **self._options())
                return
            except docker.errors.APIError as error:
                if error.status_code != 409 or attempt == 2:
                    raise
                self.sandbox_id = new_sandbox_id()

    def _options(self) -> dict[str, Any]:
        spec, limits, config = self.spec, self.spec.limits, self._provider.config
        is_root = (config.user or "root").partition(":")[0] in ("root", "0")
        host_config = self._provider.client.create_host_config(
            network_mode="bridge" if spec.network else "none",
            auto_remove=True,
            cap_drop=["ALL"],
            cap_add=_CAPABILITIES if is_root else [],  # Podman really gives them to another user, Docker does not
            security_opt=self._provider.security_options,
            ipc_mode="private",
            cgroupns="private",
            shm_size=limits.memory_bytes // 2,  # counted against the memory limit
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.num_processes,
            nano_cpus=math.ceil(limits.cpus * 1e9),
            log_config={"Type": "none"},  # else the engine writes every byte of output to its disk
            runtime=config.runtime,
        )
        # Given as a whole, since naming any replaces the engine's own list, which old engines keep short.
        host_config["MaskedPaths"] = [*(f"/proc/{name}" for name in HIDDEN_PROC), *_HIDDEN_SYS]
        host_config["ReadonlyPaths"] = [f"/proc/{name}" for name in READ_ONLY_PROC]
        # An image need not know a user that is only a number, and then the home would be `/`, which is root's.
        home = {} if is_root or not (config.user or "")[:1].isdigit() else {"HOME": "/tmp"}
        return {
            "name": self.sandbox_id,
            "entrypoint": BOOTSTRAP,
            "command": [],
            "environment": home | base_environment(spec),
            "working_dir": spec.workdir,
            "hostname": "sandbox",
            "user": config.user,
            "stop_signal": "SIGKILL",  # Podman removes by a stop first, and our first process ends by no other signal
            "stdin_open": True,  # with `detach` False this also sets stdin_once
            "detach": False,
            "labels": {**config.labels, **spec.labels, **self._provider.labels},
            "host_config": host_config,
        }

    async def _connect(self, raw: Any) -> None:
        loop = asyncio.get_running_loop()
        raw.setblocking(False)
        create = loop.create_unix_connection if raw.family == socket.AF_UNIX else loop.create_connection
        self._transport, _ = await create(lambda: _Attachment(self.session), sock=raw)

    @property
    def _record(self) -> Path:
        return container_record(self.sandbox_id, self._provider.config.temp_folder)

    def _write_labels(self) -> None:
        self._record.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_identity(self._record, self._provider.config.labels | self.spec.labels)

    async def _interrupt(self) -> None:
        with boundary(SandboxError, f"signalling container {self.sandbox_id}"):
            await self._provider.attempt(self._provider.client.kill, self.sandbox_id, INTERRUPT_SIGNAL)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def snapshot(self) -> str:
        image = await run_to_end(self._commit())
        self._provider.snapshots.add(image)
        return image

    async def fork_into(self, ready: Sandbox) -> Sandbox:
        """As `fork`, in a sandbox of the same spec that has started and was not used. It is removed if that fails."""
        assert isinstance(ready, DockerSandbox)
        return await made_to_end(self._fork(ready))

    async def _fork(self, ready: DockerSandbox | None = None) -> Sandbox:
        """A fresh container of the same image gets what changed; one of a commit where that is not possible."""
        if ready is not None and ready.image != self.image:
            await ready.close()
            ready = None
        starting = asyncio.ensure_future(
            self._provider.start_sandbox(self.spec, self.image) if ready is None else asyncio.sleep(0, ready)
        )
        try:
            return await self._copy_to(starting)
        except BaseException as error:
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                await abandon(starting.result())
            if not isinstance(error, CannotArchive):
                raise
        image = await self._commit()
        try:
            return await self._provider.start_sandbox(self.spec, image, own_image=image)
        except BaseException:
            await self._provider.discard_image(image)
            raise

    async def _copy_to(self, starting: Awaitable[DockerSandbox]) -> DockerSandbox:
        """Send what changed here. Raises CannotArchive: this needs a commit."""
        async with self.session.dialogue() as request:
            changes = Changes(request, _clock_offset_s() - self._clock_offset_s)
            await changes.begin()
            if not changes.is_complete:  # else the rest is in memory, and this sandbox can go on
                copy = await starting
                await unpack_changes(changes, copy.session)
                return copy
        copy = await starting
        await unpack_changes(changes, copy.session)
        return copy

    async def _commit(self) -> str:
        """An image of the present state. The engine stops every process meanwhile."""
        tag = new_sandbox_id().removeprefix("swegym-")
        commit = self._provider.client.commit
        async with self.session.dialogue():
            with boundary(SandboxError, "committing a container"):
                await self._provider.call(commit, self.sandbox_id, repository=_SNAPSHOT_REPOSITORY, tag=tag)
        return f"{_SNAPSHOT_REPOSITORY}:{tag}"

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
            remove_folder(self._record)
            self._provider.forget(self)


class DockerProvider:
    """Back end `docker`. Raises DependencyMissing when it is made and no engine answers."""

    name = "docker"

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig(backend="docker")
        self.labels = {"swegym": "1", OWNER_LABEL: owner_token(), _PROVIDER_LABEL: secrets.token_hex(8)}
        """On every container of this provider."""
        self._store = ImageStore(self.config.engine_url, self.config.engine_timeout_s, self.config.build_timeout_s)
        self.client: Any = self._store.client
        self.security_options = docker_security_options(self.client.version())
        self._images = ImageBuilder(self._store, self.config.base_image, self.config.user)
        self._pool = ThreadPoolExecutor(max(4, self.config.max_starts), thread_name_prefix="swegym-docker")
        self._starts = asyncio.Semaphore(self.config.max_starts)
        self._sandboxes: set[DockerSandbox] = set()
        self.snapshots: set[str] = set()
        self._discarded: list[str] = []
        self._discarding = asyncio.Lock()
        self._is_closed = False

    async def call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        """A blocking call to the engine, in a thread. It is waited for even when cancelled."""
        return await run_to_end(in_pool(self._pool, function, *arguments, **options))

    async def attempt(self, function: Any, *arguments: Any) -> Any:
        """A call that makes nothing, and may be given up while it goes on."""
        return await in_pool(self._pool, function, *arguments)

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See `SandboxProvider.create`. The image of a workspace is built at its first use.

        Raises:
            ImageMissing: the (base) image is neither here nor to be had.
        """
        self._require_open()
        if spec.image.startswith(f"{_SNAPSHOT_REPOSITORY}:"):
            return await self.start_sandbox(spec, spec.image)
        try:
            sandbox = await self.start_sandbox(spec, await self._images.ensure(spec))
        except SandboxError as error:
            if not is_image_missing(error):
                raise
            self._images.forget(spec)  # somebody removed the image since we looked
            sandbox = await self.start_sandbox(spec, await self._images.ensure(spec))
        await prepared(sandbox)
        return sandbox

    async def start_sandbox(self, spec: SandboxSpec, image: str, own_image: str | None = None) -> DockerSandbox:
        """A started container of an image that exists."""
        self._require_open()
        async with self._starts:
            sandbox = DockerSandbox(self, spec, image, own_image)
            self._sandboxes.add(sandbox)
            try:
                await sandbox.start()
            except BaseException:
                await abandon(sandbox)
                raise
        sandbox.begin_life()
        return sandbox

    def _require_open(self) -> None:
        if self._is_closed:
            raise SandboxError("this provider is closed")

    def remove_container(self, name: str) -> None:
        remove_container(self.client, name)

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
        try:
            await close_all(self._sandboxes)
            with boundary(SandboxError, "removing what is left of this provider"):
                await self._remove_the_rest()
        finally:
            self._images.close()
            self._pool.shutdown(wait=False)
            self._store.close()

    async def _remove_the_rest(self) -> None:
        """Containers that the engine made after we had given up waiting for it, and snapshots."""
        label = f"{_PROVIDER_LABEL}={self.labels[_PROVIDER_LABEL]}"
        for container in await self.call(self.client.containers, all=True, filters={"label": label}):
            await self.call(self.remove_container, container["Id"])
        self._discarded += sorted(self.snapshots)
        for _ in range(len(self._discarded)):  # each pass frees what the images of the one before were built on
            if self._discarded:
                await self.discard_image(None)
