"""Back end `local`: bubblewrap namespaces over an overlay of the task's files. Needs no daemon and no image.

Everything that a sandbox may write lies in one host folder (`upper`, `tmp`, `home`), so a fork is a copy of it. The
root of its file system is read-only. Memory and processes are limited by a control group where one can be made, else
memory per process, and processes only when the owner is not root; file sizes are limited, the disk as a whole is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from swegym.core.aio import run_to_end
from swegym.core.errors import ConfigError, ImageMissing, SandboxError, boundary
from swegym.core.sandbox import ExecResult, Sandbox, SandboxSpec
from swegym.envs.sandboxes.base import ShellSandbox, abandon, close_all, new_sandbox_id, prepared
from swegym.envs.sandboxes.bwrap import HOME_PATH, Mounts, User, bwrap_arguments, write_etc
from swegym.envs.sandboxes.cgroups import ControlGroup
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.copying import copy_content, copy_folders
from swegym.envs.sandboxes.detect import require_bwrap, runs_overlay, why_no_namespaces
from swegym.envs.sandboxes.identity import temp_root, write_identity, write_labels
from swegym.envs.sandboxes.landlock import closes_abstract_sockets, without_abstract_sockets
from swegym.envs.sandboxes.pipes import PipeReader, PipeWriter
from swegym.envs.sandboxes.reaper import remove_folder
from swegym.envs.sandboxes.seccomp import seccomp_problem, write_filter
from swegym.envs.sandboxes.session import BOOTSTRAP, INTERRUPT_SIGNAL

__all__ = ["LocalProvider", "LocalSandbox"]

_WRITABLE = ("upper", "tmp", "home")
_PIPE_BYTES = 256 * 1024


class LocalSandbox(ShellSandbox):
    """One bubblewrap process tree and its folder. Made by LocalProvider."""

    backend = "local"

    def __init__(self, provider: LocalProvider, spec: SandboxSpec) -> None:
        super().__init__(spec, provider.config)
        self._provider = provider
        self.folder = provider.folder / self.sandbox_id
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: PipeWriter | None = None
        self._pipes: list[PipeReader | PipeWriter] = []
        self._group: ControlGroup | None = None
        self._num_oom_kills = 0

    async def start(self, origin: Path | None, frozen: AbstractAsyncContextManager[None]) -> None:
        """Make the folder (a copy of `origin`'s writable parts, if given), start bubblewrap, wait for the shell."""
        with boundary(SandboxError, f"making a sandbox in {self._provider.folder}"):
            async with frozen:
                await run_to_end(asyncio.to_thread(self._make_folder, origin))
            await self._spawn()
        limits = self.spec.limits
        self._group = await self._limit()
        ulimits = {
            "data_kib": None if self._group else limits.memory_bytes // 1024,
            "num_processes": limits.num_processes,
            "file_kib": limits.disk_bytes // 1024,
            "disk_kib": limits.disk_bytes // 1024,
        }
        await self.session.start(
            ulimits=ulimits,
            writable=(self.spec.workdir, "/tmp", HOME_PATH),
            timeout_s=self._provider.config.start_timeout_s,
        )

    async def _limit(self) -> ControlGroup | None:
        """Put process 1, which waits for its first input, into a control group."""
        assert self._process is not None
        group = ControlGroup.create(self.sandbox_id, self.spec.limits)
        while group is not None and self._process.poll() is None:
            children = child_pids(self._process.pid)
            if children:
                try:
                    group.add(children[0])
                except ProcessLookupError:
                    break  # it has ended already: the session says why
                return group
            await asyncio.sleep(0.001)
        if group is not None:
            group.remove()
        return None

    async def run(self, command: str, *, timeout_s: float = 120.0, limit_bytes: int = 1_048_576) -> ExecResult:
        result = await super().run(command, timeout_s=timeout_s, limit_bytes=limit_bytes)
        if self._group is not None:
            before, self._num_oom_kills = self._num_oom_kills, self._group.num_oom_kills()
            if result.exit_code and result.killed_by is None and self._num_oom_kills > before:
                return replace(result, killed_by="oom")
        return result

    def _make_folder(self, origin: Path | None) -> None:
        self.folder.mkdir(mode=0o700)
        write_identity(self.folder, self._labels)
        (self.folder / "work").mkdir()
        if origin is not None:
            copy_folders([origin / name for name in _WRITABLE], self.folder)
            return
        for name in _WRITABLE:
            (self.folder / name).mkdir()
        if self.spec.workspace is not None and not self._provider.has_overlay:
            copy_content(Path(self.spec.workspace), self.folder / "upper")

    async def _spawn(self) -> None:
        has_overlay = self.spec.workspace is not None and self._provider.has_overlay
        mounts = Mounts(
            workdir=str(self.folder / "upper"),
            work=str(self.folder / "work") if has_overlay else None,
            tmp=str(self.folder / "tmp"),
            home=str(self.folder / "home"),
            etc=str(self._provider.etc),
        )
        self._process = process = self._popen(mounts)
        ends = []
        for file in (process.stdin, process.stdout, process.stderr):
            assert file is not None
            ends.append(os.dup(file.fileno()))
            file.close()
        for end in ends[:2]:
            with contextlib.suppress(PermissionError):  # over the user's quota of pipe memory: 64 KiB do as well
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        session = self.session
        self._stdin = PipeWriter(ends[0])
        self._pipes = [
            self._stdin,
            PipeReader(ends[1], session.feed_output, lambda: session.feed_eof("its first process ended")),
            PipeReader(ends[2], session.feed_data, lambda: None),
        ]

    def _popen(self, mounts: Mounts) -> subprocess.Popen[bytes]:
        """bubblewrap, which inherits three pipes and the descriptor of its filter, and closes that before our shell."""
        provider = self._provider
        with contextlib.ExitStack() as stack:
            filter_fd = write_filter() if provider.has_filter else None
            if filter_fd is not None:
                stack.callback(os.close, filter_fd)
            command = bwrap_arguments(
                provider.bwrap_path,
                self.spec,
                mounts,
                user=provider.user,
                user_namespace=provider.has_user_namespace,
                filter_fd=filter_fd,
            )
            first = BOOTSTRAP
            if self.spec.network and closes_abstract_sockets():
                first = without_abstract_sockets(BOOTSTRAP)
            # Spawned by the loop's own thread: the kernel ends the sandbox when the thread that spawned it ends.
            return subprocess.Popen(
                [*command, *first],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,  # a Ctrl-C at the terminal is the owner's to handle
                pass_fds=[] if filter_fd is None else [filter_fd],
            )

    @property
    def _labels(self) -> dict[str, str]:
        return self._provider.config.labels | self.spec.labels

    def _write_labels(self) -> None:
        write_labels(self.folder, self._labels)

    async def _interrupt(self) -> None:
        assert self._process is not None
        with boundary(SandboxError, f"signalling sandbox {self.sandbox_id}"):
            for pid in child_pids(self._process.pid):
                os.kill(pid, INTERRUPT_SIGNAL)

    def _write(self, data: bytes) -> None:
        if self._stdin is not None:
            self._stdin.write(data)

    async def snapshot(self) -> str:
        return await run_to_end(self._snapshot())

    async def _snapshot(self) -> str:
        snapshot_id = f"swegym-snapshot-{new_sandbox_id().removeprefix('swegym-')}"
        target = self._provider.folder / snapshot_id
        self._provider.snapshots.add(target)
        try:
            async with self._frozen():
                await asyncio.to_thread(self._copy_to, target)
        except BaseException:
            self._provider.snapshots.discard(target)
            await asyncio.to_thread(remove_folder, target)
            raise
        return snapshot_id

    def _copy_to(self, target: Path) -> None:
        with boundary(SandboxError, f"making a snapshot in {target}"):
            target.mkdir(mode=0o700)
            write_identity(target, self._labels)
            copy_folders([self.folder / name for name in _WRITABLE], target)

    async def _fork(self) -> Sandbox:
        return await self._provider.start_sandbox(self.spec, self.folder, self._frozen())

    @contextlib.asynccontextmanager
    async def _frozen(self) -> AsyncIterator[None]:
        """Nothing writes, and the state of the shell is on disk."""
        async with self.session.dialogue() as request:
            await request("_swegym_freeze")
            yield

    async def _remove(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        if self._process is not None:
            kill_tree(self._process.pid)
            await _wait(self._process)
        if self._group is not None:
            await asyncio.to_thread(self._group.remove)
        await asyncio.to_thread(remove_folder, self.folder)
        self._provider.forget(self)


class LocalProvider:
    """Back end `local`. Raises DependencyMissing (no bubblewrap), ConfigError (no namespaces) when it is made."""

    name = "local"

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig(backend="local")
        self.bwrap_path = require_bwrap().path
        self.has_user_namespace = self._require_namespaces()
        self.has_filter = self._require_filter()
        self.user = User.parse(self.config.user)
        if self.config.user is not None and not self.has_user_namespace:
            raise ConfigError("sandbox.user needs a user namespace, which this kernel refuses; leave it out")
        self.folder = temp_root(self.config.temp_folder)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise ConfigError(f"{self.folder} belongs to another user; set sandbox.temp_folder to a folder of yours")
        self.etc = self.folder / f"etc-{self.user.uid}-{self.user.gid}"
        write_etc(self.etc, self.user)
        self.has_overlay = self._probe_overlay()
        self._starts = asyncio.Semaphore(self.config.max_starts)
        self._sandboxes: set[LocalSandbox] = set()
        self.snapshots: set[Path] = set()
        self._is_closed = False

    def _require_namespaces(self) -> bool:
        """Whether a user namespace is used; raises ConfigError when there is no isolation to be had."""
        reason = why_no_namespaces(self.bwrap_path)
        if reason is None:
            return True
        if self.config.unsafe and os.geteuid() == 0 and why_no_namespaces(self.bwrap_path, with_user=False) is None:
            return False
        hint = "as root, --unsafe goes on without a user namespace" if os.geteuid() == 0 else "use the docker back end"
        raise ConfigError(
            f"the local sandbox needs user namespaces and this kernel refuses them ({reason}); "
            f"allow them (sysctl user.max_user_namespaces), or {hint}"
        )

    def _require_filter(self) -> bool:
        """Whether system calls are filtered; raises ConfigError where they cannot be, unless `unsafe` is set."""
        problem = seccomp_problem()
        if problem is not None and not self.config.unsafe:
            raise ConfigError(
                f"the local sandbox filters system calls: {problem}; use docker, or --unsafe to do without"
            )
        return problem is None

    def _probe_overlay(self) -> bool:
        if self.config.workdir_storage == "copy":
            return False
        probe = self.folder / new_sandbox_id().replace("swegym-", "probe-")
        try:
            works = runs_overlay(self.bwrap_path, probe, self.has_user_namespace)
        finally:
            remove_folder(probe)
        if not works and self.config.workdir_storage == "overlay":
            raise ConfigError(f"no overlay can be mounted on {self.folder}; set sandbox.workdir_storage to copy")
        return works

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """See `SandboxProvider.create`. `spec.image` is only read when it is the id of a snapshot.

        Raises:
            ImageMissing: there is no workspace to show, only an image.
            ConfigError: a folder of the spec does not exist.
        """
        origin: Path | None = None
        if spec.image.startswith("swegym-snapshot-"):
            origin = self.folder / Path(spec.image).name
            if not origin.is_dir():
                raise ImageMissing(f"no snapshot {spec.image!r} here; snapshots live as long as their provider")
        elif spec.dockerfile is not None:
            raise ImageMissing(
                f"the local back end has no images, so it cannot build {spec.dockerfile}; "
                "use --sandbox docker for this task"
            )
        elif spec.workspace is None and spec.image:
            raise ImageMissing(
                f"the local back end has no images and {spec.image!r} comes without a workspace folder; "
                "use --sandbox docker for this task"
            )
        for name in ("workspace", "dependencies"):
            folder = getattr(spec, name)
            if folder is not None and not (Path(folder).is_absolute() and Path(folder).is_dir()):
                raise ConfigError(f"sandbox {name} {folder!r} is not an absolute path of a folder")
        sandbox = await self.start_sandbox(spec, origin)
        if origin is None:
            await prepared(sandbox)
        return sandbox

    async def start_sandbox(
        self, spec: SandboxSpec, origin: Path | None, frozen: AbstractAsyncContextManager[None] | None = None
    ) -> LocalSandbox:
        """A started sandbox.

        Args:
            spec: what it is.
            origin: a sandbox's or a snapshot's folder, whose writable parts are copied.
            frozen: entered while they are.
        """
        if self._is_closed:
            raise SandboxError("this provider is closed")
        async with self._starts:
            sandbox = LocalSandbox(self, spec)
            self._sandboxes.add(sandbox)
            try:
                await sandbox.start(origin, frozen or contextlib.nullcontext())
            except BaseException:
                await abandon(sandbox)
                raise
        sandbox.begin_life()
        return sandbox

    def forget(self, sandbox: LocalSandbox) -> None:
        self._sandboxes.discard(sandbox)

    async def close(self) -> None:
        self._is_closed = True
        try:
            await close_all(self._sandboxes)
        finally:
            while self.snapshots:
                await asyncio.to_thread(remove_folder, self.snapshots.pop())


def child_pids(pid: int) -> list[int]:
    """Children of a process; none when it has ended, or when the kernel has no such file."""
    try:
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []


def kill_tree(bwrap_pid: int) -> None:
    """Kill process 1 of the sandbox; bubblewrap ends when the kernel has ended every process in there."""
    for pid in child_pids(bwrap_pid) or [bwrap_pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def _wait(process: subprocess.Popen[Any]) -> None:
    """Wait for the end of a killed process without a thread."""
    loop = asyncio.get_running_loop()
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        while process.poll() is None:
            await asyncio.sleep(0.002)
        return
    ended: asyncio.Future[None] = loop.create_future()

    def on_end() -> None:
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, on_end)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    process.wait()
