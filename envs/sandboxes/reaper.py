"""Finds sandboxes and removes those whose owner is dead, whatever killed it.

A sandbox carries its owner: process id, that process's start time and the machine's boot id, as a label of its
container or as a file in its folder. A process id alone is not enough, since ids are given out again.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swegym.envs.sandboxes.cgroups import ControlGroup

__all__ = ["OWNER_LABEL", "SandboxRecord", "list_sandboxes", "owner_is_alive", "owner_token", "reap", "remove_folder"]

OWNER_LABEL = "swegym.owner"
OWNER_FILE = "owner"


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One sandbox that exists on this machine."""

    sandbox_id: str
    backend: str
    owner: str
    is_orphan: bool
    """Its owner is dead."""


def owner_token(pid: int | None = None) -> str:
    """Names a process so that no later one is taken for it; this one by default."""
    pid = pid or os.getpid()
    return f"{pid}:{_start_ticks(pid)}:{_boot_id()}"


def owner_is_alive(token: str) -> bool:
    """False for a token of another boot, of a dead process, and for what is no token."""
    pid, _, _ = token.partition(":")
    return pid.isdigit() and owner_token(int(pid)) == token and _start_ticks(int(pid)) is not None


def _start_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def default_temp_folder() -> Path:
    import tempfile

    return Path(tempfile.gettempdir()) / f"swegym-{os.getuid()}"


def list_sandboxes(temp_folder: str | None = None) -> list[SandboxRecord]:
    """Every sandbox of this user's temporary folder and of the engine, when one answers."""
    records = [_record(path.name, "local", token) for path, token in _folders(temp_folder)]
    return records + [
        _record(container["Names"][0].lstrip("/"), "docker", container["Labels"].get(OWNER_LABEL, ""))
        for container in _containers()
    ]


def reap(temp_folder: str | None = None) -> list[SandboxRecord]:
    """Remove every sandbox whose owner is dead; returns what was removed."""
    removed = []
    for path, token in _folders(temp_folder):
        if not owner_is_alive(token):
            ControlGroup.remove_named(path.name)
            remove_folder(path)
            removed.append(_record(path.name, "local", token))
    for container in _containers():
        token = container["Labels"].get(OWNER_LABEL, "")
        if not owner_is_alive(token):
            _remove_container(container["Id"])
            removed.append(_record(container["Names"][0].lstrip("/"), "docker", token))
    return removed


def _record(sandbox_id: str, backend: str, token: str) -> SandboxRecord:
    return SandboxRecord(sandbox_id, backend, token, is_orphan=not owner_is_alive(token))


def _folders(temp_folder: str | None) -> list[tuple[Path, str]]:
    root = Path(temp_folder) if temp_folder else default_temp_folder()
    found = []
    for path in sorted(root.glob("swegym-*")) if root.is_dir() else []:
        try:
            found.append((path, (path / OWNER_FILE).read_text()))
        except OSError:
            continue  # being made or being removed at this moment, by a living owner or by another reaper
    return found


def _containers() -> list[dict[str, Any]]:
    from swegym.envs.sandboxes.detect import find_engine

    if find_engine() is None:
        return []
    import docker

    client = docker.DockerClient.from_env(timeout=60)
    try:
        containers: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": OWNER_LABEL})
        return containers
    finally:
        client.close()


def _remove_container(container_id: str) -> None:
    import docker

    client = docker.DockerClient.from_env(timeout=60)
    try:
        client.api.remove_container(container_id, v=True, force=True)
    except docker.errors.NotFound:
        pass  # gone in the meantime: what was wanted
    except docker.errors.APIError as error:
        if error.status_code != 409:  # 409: its removal is in progress
            raise
    finally:
        client.close()


def remove_folder(path: Path) -> None:
    """Delete a tree whatever modes its folders have (an overlay's work folder has mode 000)."""

    def retry(function: Any, name: str, error: Any) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        folder = Path(name) if function in (os.scandir, os.open, os.lstat, os.rmdir) else Path(name).parent
        for blocked in (folder, folder.parent):
            if blocked.is_relative_to(path) and not blocked.is_symlink():
                blocked.chmod(blocked.stat().st_mode | stat.S_IRWXU)
        if Path(name).is_dir() and not Path(name).is_symlink():
            shutil.rmtree(name, ignore_errors=False)
        else:
            Path(name).unlink(missing_ok=True)

    if path.exists():
        shutil.rmtree(path, onerror=retry)
