"""Whose a sandbox is, and the labels that it has: how both are written down.

An owner is a process: its id, its start time, the machine's boot id and its pid namespace. A process id alone is not
enough, since ids are given out again. An engine may serve several machines, or several containers of one machine: an
owner of another boot or namespace cannot be looked at from here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = [
    "OWNER_LABEL",
    "WARM_LABEL",
    "container_record",
    "is_surely_dead",
    "owner_is_alive",
    "owner_token",
    "read_labels",
    "temp_root",
    "write_identity",
    "write_labels",
]

OWNER_LABEL = "swegym.owner"
WARM_LABEL = "swegym.warm"
"""On a sandbox that waits ready in a pool."""
OWNER_FILE = "owner"
LABELS_FILE = "labels.json"


def owner_token(pid: int | None = None) -> str:
    """Names a process so that no later one is taken for it; this one by default."""
    pid = pid or os.getpid()
    return f"{pid}:{_start_ticks(pid)}:{_boot_id()}:{_pid_namespace()}"


def owner_is_alive(token: str) -> bool:
    """False for a token of another boot or pid namespace, of a dead process, and for what is no token."""
    pid, _, _ = token.partition(":")
    return pid.isdigit() and owner_token(int(pid)) == token and _start_ticks(int(pid)) is not None


def is_surely_dead(token: str, *, can_outlive_boot: bool) -> bool:
    """Whether the owner is surely dead: a folder's is once the machine has booted anew, a container's may be remote."""
    if owner_is_alive(token):
        return False
    _, _, boot_id, namespace = token.split(":") if token.count(":") == 3 else ("", "", _boot_id(), _pid_namespace())
    is_this_boot, is_this_namespace = boot_id == _boot_id(), namespace == _pid_namespace()
    return is_this_namespace if is_this_boot else not can_outlive_boot


def _start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return str(Path("/proc/self/ns/pid").stat().st_ino)


def default_temp_folder() -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"swegym-{os.getuid()}"


def temp_root(temp_folder: str | None) -> Path:
    """`SandboxConfig.temp_folder`, or its default."""
    return Path(temp_folder) if temp_folder else default_temp_folder()


def write_identity(folder: Path, labels: dict[str, str]) -> None:
    """Say in a sandbox's (or snapshot's) own folder whose it is. The owner comes last: with it, all is there."""
    write_labels(folder, labels)
    (folder / OWNER_FILE).write_text(owner_token())


def write_labels(folder: Path, labels: dict[str, str]) -> None:
    (folder / LABELS_FILE).write_text(json.dumps(labels))


def container_record(sandbox_id: str, temp_folder: str | None) -> Path:
    """Folder that holds the present labels of a container; those of the container itself cannot change."""
    return temp_root(temp_folder) / "containers" / sandbox_id


def read_labels(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / LABELS_FILE).read_text()))
    except (OSError, ValueError):
        return {}  # being written at this moment
