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
from dataclasses import replace
from pathlib import Path
from typing import Any

from swegym.core.errors import ConfigError, ImageMissing, SandboxError
from swegym.core.sandbox import ExecResult, Sandbox, SandboxSpec
from swegym.envs.sandboxes.base import ShellSandbox, new_sandbox_id
from swegym.envs.sandboxes.bwrap import Mounts, bwrap_arguments, write_etc
from swegym.envs.sandboxes.cgroups import ControlGroup
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.detect import require_bwrap, runs_overlay, why_no_namespaces
from swegym.envs.sandboxes.pipes import PipeReader, PipeWriter
from swegym.envs.sandboxes.reaper import OWNER_FILE, default_temp_folder, owner_token, remove_folder
from swegym.envs.sandboxes.session import BOOTSTRAP

__all__ = ["LocalProvider", "LocalSandbox"]

_WRITABLE = ("upper", "tmp", "home")
_PIPE_BYTES = 256 * 1024


class LocalSandbox(ShellSandbox):
    """One bubblewrap process tree and its folder. Made by LocalProvider."""

    backend = "local"

    def __init__(self, provider: LocalProvider, spec: SandboxSpec) -> None:
        super().__init__(spec)
        self._provider = provider
        self.folder = provider.folder / self.sandbox_id
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin: PipeWriter | None = None
        self._pipes: list[PipeReader | PipeWriter] = []
        self._group: ControlGroup | None = None
        self._num_oom_kills = 0

    async def start(self, origin: Path | None) -> None:
        """Make the folder (a copy of `origin`'s writable parts, if given), start bubblewrap, wait for the shell."""
        await asyncio.to_thread(self._make_folder, origin)
        await self._spawn()
        limits = self.spec.limits
        self._group = await self._limit()
        ulimits = {
            "data_kib": None if self._group else limits.memory_bytes // 1024,
            "num_processes": limits.num_processes,
            "file_kib": limits.disk_bytes // 1024,
        }
        await self.session.start(ulimits=ulimits, timeout_s=self._provider.config.start_timeout_s)

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
        if result.exit_code == 137 and self._group is not None:
            before, self._num_oom_kills = self._num_oom_kills, self._group.num_oom_kills()
            if self._num_oom_kills > before:
                return replace(result, killed_by="oom")
        return result

    def _make_folder(self, origin: Path | None) -> None:
        self.folder.mkdir(mode=0o700)
        (self.folder / OWNER_FILE).write_text(owner_token())
        (self.folder / "work").mkdir()
        if origin is not None:
            copy_folders([f"{origin}/{name}" for name in _WRITABLE], self.folder)
            return
        for name in _WRITABLE:
            (self.folder / name).mkdir()
        if self.spec.workspace is not None and not self._provider.has_overlay:
            copy_folders([f"{self.spec.workspace}/."], self.folder / "upper")

    async def _spawn(self) -> None:
        has_overlay = self.spec.workspace is not None and self._provider.has_overlay
        mounts = Mounts(
            workdir=str(self.folder / "upper"),
            work=str(self.folder / "work") if has_overlay else None,
            tmp=str(self.folder / "tmp"),
            home=str(self.folder / "home"),
            etc=str(self._provider.folder / "etc"),
        )
        command = bwrap_arguments(
            self._provider.bwrap_path, self.spec, mounts, user_namespace=self._provider.has_user_namespace
        )
        # Spawned by the loop's own thread: the kernel ends the sandbox when the thread that spawned it ends.
        self._process = process = subprocess.Popen(
            [*command, *BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # a Ctrl-C at the terminal is the owner's to handle
        )
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

    def _write(self, data: bytes) -> None:
        if self._stdin is not None:
            self._stdin.write(data)

    async def snapshot(self) -> str:
        await self.session.save_state()
        snapshot_id = f"swegym-snapshot-{new_sandbox_id().removeprefix('swegym-')}"
        target = self._provider.folder / snapshot_id
        target.mkdir(mode=0o700)
        self._provider.snapshots.add(target)
        (target / OWNER_FILE).write_text(owner_token())
        await asyncio.to_thread(copy_folders, [f"{self.folder}/{name}" for name in _WRITABLE], target)
        return snapshot_id

    async def fork(self) -> Sandbox:
        await self.session.save_state()
        return await self._provider.start_sandbox(self.spec, self.folder)

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
        self.folder = Path(self.config.temp_folder) if self.config.temp_folder else default_temp_folder()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise ConfigError(f"{self.folder} belongs to another user; set sandbox.temp_folder to a folder of yours")
        write_etc(self.folder / "etc")
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
        elif spec.workspace is None and spec.image:
            raise ImageMissing(
                f"the local back end has no images and {spec.image!r} comes without a workspace folder; "
                "use --sandbox docker for this task"
            )
        for name in ("workspace", "dependencies"):
            folder = getattr(spec, name)
            if folder is not None and not (Path(folder).is_absolute() and Path(folder).is_dir()):
                raise ConfigError(f"sandbox {name} {folder!r} is not an absolute path of a folder")
        return await self.start_sandbox(spec, origin)

    async def start_sandbox(self, spec: SandboxSpec, origin: Path | None) -> LocalSandbox:
        """A started sandbox, with a copy of what `origin` (a sandbox's or a snapshot's folder) had written."""
        if self._is_closed:
            raise SandboxError("this provider is closed")
        async with self._starts:
            sandbox = LocalSandbox(self, spec)
            self._sandboxes.add(sandbox)
            try:
                await sandbox.start(origin)
            except BaseException:
                await sandbox.close()
                raise
        return sandbox

    def forget(self, sandbox: LocalSandbox) -> None:
        self._sandboxes.discard(sandbox)

    async def close(self) -> None:
        self._is_closed = True
        await asyncio.gather(*(sandbox.close() for sandbox in list(self._sandboxes)))
        while self.snapshots:
            await asyncio.to_thread(remove_folder, self.snapshots.pop())


def copy_folders(sources: list[str], target: Path) -> None:
    """Copy trees with everything an overlay keeps in them (white-outs, extended attributes, links, modes)."""
    command = ["cp", "-a", "--reflink=auto", "--", *sources, str(target)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SandboxError(f"copying a sandbox's files failed: {done.stderr.decode(errors='replace').strip()}")


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
