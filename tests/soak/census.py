"""Counts everything that a leak could leave: in our process, in the kernel, on disk, in the engine."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path

from swegym.envs.sandboxes.identity import OWNER_LABEL, owner_token

_SANDBOX_ID = re.compile(r"swegym-[0-9a-f]{12}")
_SNAPSHOT = "swegym/snapshot"


@dataclasses.dataclass(frozen=True)
class Census:
    """What exists at one moment on account of this process."""

    backend: str
    rss_bytes: int
    num_threads: int
    num_descriptors: int
    num_async_tasks: int
    num_children: int
    """Processes that descend from this one."""
    num_sandbox_processes: int
    """Processes anywhere on the machine with a file system of one of our sandboxes, our children or not."""
    num_mounts: int
    num_cgroups: int
    num_folders: int
    """Entries of the sandboxes' temporary folder."""
    num_containers: int
    num_images: int
    """Snapshots left by forks."""

    def leaks(self) -> dict[str, int]:
        """What has to be as it was; memory, threads and, with an engine, descriptors have bounds of their own."""
        loose = {"rss_bytes", "num_threads"} | ({"num_descriptors"} if self.backend == "docker" else set())
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in {*loose, "backend"}}

    @classmethod
    def take(cls, backend: str, folder: Path, sandbox_ids: set[str]) -> Census:
        """Look around; in the event loop's thread.

        Args:
            backend: name of the back end.
            folder: the sandboxes' temporary folder.
            sandbox_ids: of every sandbox so far.
        """
        gc.collect()
        containers, images = _engine_objects() if backend == "docker" else (0, 0)
        inside, mounts = str(folder), _text("/proc/self/mountinfo")
        return cls(
            backend=backend,
            rss_bytes=rss_bytes(),
            num_threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
            num_descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,  # less the one that lists them
            num_async_tasks=len(asyncio.all_tasks()),
            num_children=len(descendants(os.getpid())),
            num_sandbox_processes=sum(inside in _text(f"/proc/{pid}/mountinfo") for pid, _ in _processes()),
            num_mounts=sum(inside in line for line in mounts.splitlines()),
            num_cgroups=_cgroups(sandbox_ids),
            num_folders=sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0,
            num_containers=containers,
            num_images=images,
        )


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""  # the process ended in the meantime


def _processes() -> Iterator[tuple[int, int]]:
    """(process, parent) of every process on the machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (status := _text(entry / "stat")):
            yield int(entry.name), int(status.rpartition(")")[2].split()[1])


def descendants(root: int) -> list[int]:
    """Processes below `root`, zombies included."""
    children: dict[int, list[int]] = {}
    for pid, parent in _processes():
        children.setdefault(parent, []).append(pid)
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def open_files() -> list[str]:
    """What the descriptors of this process lead to, for the message of a failed test."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            found.append(str(link.readlink()))
    return sorted(found)


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(_text("/proc/self/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cgroups(sandbox_ids: set[str]) -> int:
    names = (name for _, folders, _ in os.walk("/sys/fs/cgroup") for name in folders)
    return sum(1 for name in names if (match := _SANDBOX_ID.search(name)) and match[0] in sandbox_ids)


def _engine_objects() -> tuple[int, int]:
    import docker

    client = docker.DockerClient.from_env(timeout=60)
    try:
        label = {"label": f"{OWNER_LABEL}={owner_token()}"}
        containers = client.api.containers(all=True, filters=label)
        images = client.api.images(name=_SNAPSHOT, filters=label)  # a commit keeps its container's labels
        return len(containers), len(images)
    finally:
        client.close()
