"""Finds sandboxes and removes those whose owner is dead, whatever killed it.

A sandbox carries its owner as a label of its container or as a file in its folder (`identity.py`). Containers of an
owner on another machine, or in another container, count as in use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swegym.envs.sandboxes.cgroups import ControlGroup
from swegym.envs.sandboxes.engine import open_client, remove_container
from swegym.envs.sandboxes.identity import (
    OWNER_FILE,
    OWNER_LABEL,
    WARM_LABEL,
    container_record,
    is_surely_dead,
    owner_is_alive,
    owner_token,
    read_labels,
    temp_root,
)

__all__ = [
    "OWNER_FILE",
    "OWNER_LABEL",
    "SandboxRecord",
    "list_sandboxes",
    "owner_is_alive",
    "owner_token",
    "reap",
    "remove_folder",
]

RUN_LABEL = "run"
_HALF_MADE_S = 60.0
"""A folder that still has no owner file after this was left by a process that died while it made it."""
_ENGINE_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One sandbox or snapshot that exists on this machine."""

    sandbox_id: str
    backend: str
    owner: str
    is_orphan: bool
    """Its owner is dead."""
    age_s: float = 0.0
    labels: dict[str, str] = field(default_factory=dict)
    kind: Literal["sandbox", "snapshot"] = "sandbox"

    @property
    def run(self) -> str:
        """The run it belongs to, "" when it has no such label."""
        return self.labels.get(RUN_LABEL, "")

    @property
    def state(self) -> str:
        """One of orphan, snapshot, ready (in a warm pool), in use."""
        if self.is_orphan:
            return "orphan"
        return "snapshot" if self.kind == "snapshot" else "ready" if WARM_LABEL in self.labels else "in use"


# --- listing ----------------------------------------------------------------------------------------------------------


def list_sandboxes(temp_folder: str | None = None, engine_url: str | None = None) -> list[SandboxRecord]:
    """Every sandbox and snapshot of this user's temporary folder and of the engine, when one answers."""
    records = [record for _, record in _folders(temp_root(temp_folder))]
    with _engine(engine_url) as client:
        return records + [record for _, record in _containers(client, temp_folder)] + [*_images(client)]


def _folders(root: Path) -> Iterator[tuple[Path, SandboxRecord]]:
    for path in sorted(root.glob("swegym-*")) if root.is_dir() else []:
        try:
            token, made_at = (path / OWNER_FILE).read_text(), (path / OWNER_FILE).stat().st_mtime
        except OSError:
            continue  # being made or being removed at this moment, or half made: see _remove_half_made
        kind: Literal["sandbox", "snapshot"] = "snapshot" if path.name.startswith("swegym-snapshot-") else "sandbox"
        age_s, is_orphan = max(0.0, time.time() - made_at), is_surely_dead(token, can_outlive_boot=False)
        yield path, SandboxRecord(path.name, "local", token, is_orphan, age_s, read_labels(path), kind)


@contextmanager
def _engine(engine_url: str | None) -> Iterator[Any]:
    """A client of the engine; None where none answers."""
    from swegym.envs.sandboxes.detect import find_engine

    if find_engine(_PROBE_TIMEOUT_S, engine_url) is None:
        yield None
        return
    client = open_client(engine_url, _ENGINE_TIMEOUT_S)
    try:
        yield client
    finally:
        client.close()


def _containers(client: Any, temp_folder: str | None) -> list[tuple[str, SandboxRecord]]:
    """Engine's id and record of every container of ours."""
    found = client.containers(all=True, filters={"label": OWNER_LABEL}) if client is not None else []
    records = []
    for container in found:
        name, labels = container["Names"][0].lstrip("/"), dict(container["Labels"])
        token = labels.pop(OWNER_LABEL)
        if (folder := container_record(name, temp_folder)).is_dir():
            labels.pop(WARM_LABEL, None)
            labels |= read_labels(folder)
        is_orphan = is_surely_dead(token, can_outlive_boot=True)
        age_s = max(0.0, time.time() - container["Created"])
        records.append((container["Id"], SandboxRecord(name, "docker", token, is_orphan, age_s, labels)))
    return records


def _images(client: Any) -> Iterator[SandboxRecord]:
    """Snapshots; the engine gives an image the labels of the container that it was made from."""
    for image in client.images(filters={"label": OWNER_LABEL}) if client is not None else []:
        labels = dict(image["Labels"])
        token = labels.pop(OWNER_LABEL)
        is_orphan = is_surely_dead(token, can_outlive_boot=True)
        name = next(iter(image["RepoTags"] or ()), image["Id"])
        yield SandboxRecord(
            name, "docker", token, is_orphan, max(0.0, time.time() - image["Created"]), labels, "snapshot"
        )


# --- removing ---------------------------------------------------------------------------------------------------------


def reap(
    temp_folder: str | None = None,
    *,
    engine_url: str | None = None,
    run: str | None = None,
    everything: bool = False,
) -> list[SandboxRecord]:
    """Remove the sandboxes and snapshots whose owner is dead.

    Args:
        temp_folder: `SandboxConfig.temp_folder`.
        engine_url: `SandboxConfig.engine_url`.
        run: only those of this run.
        everything: those in use as well, whoever owns them.

    Returns:
        What was removed.
    """

    def is_due(record: SandboxRecord) -> bool:
        return (record.is_orphan or everything) and run in (None, record.run)

    removed = []
    root = temp_root(temp_folder)
    for path, record in _folders(root):
        if is_due(record):
            ControlGroup.remove_named(path.name)
            remove_folder(path)
            removed.append(record)
    with _engine(engine_url) as client:
        for container_id, record in _containers(client, temp_folder):
            if is_due(record):
                remove_container(client, container_id)
                removed.append(record)
        removed += _remove_images(client, [record for record in _images(client) if is_due(record)])
    _remove_half_made(root)
    return removed


def _remove_images(client: Any, snapshots: list[SandboxRecord]) -> list[SandboxRecord]:
    """Snapshots may be built on each other: whoever is refused (409) is tried again once others are gone."""
    import docker

    removed: list[SandboxRecord] = []
    left, before = snapshots, len(snapshots) + 1
    while left and len(left) < before:
        before, refused = len(left), []
        for record in left:
            try:
                client.remove_image(record.sandbox_id, force=True)
            except docker.errors.ImageNotFound:
                pass  # gone in the meantime: what was wanted
            except docker.errors.APIError as error:
                if error.status_code != 409:
                    raise
                refused.append(record)
                continue
            removed.append(record)
        left = refused
    return removed


def _remove_half_made(root: Path) -> None:
    """Remove what a process left that died before it could write its name, and the records of containers long gone."""
    ControlGroup.remove_unused(_HALF_MADE_S)
    for pattern in ("swegym-*", "probe-*"):
        for path in root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # somebody else removes it
                is_old = time.time() - path.stat().st_mtime > _HALF_MADE_S
                if is_old and not (path / OWNER_FILE).exists():
                    remove_folder(path)
    for path in root.glob("containers/swegym-*"):
        with contextlib.suppress(FileNotFoundError):
            if not owner_is_alive((path / OWNER_FILE).read_text()):
                remove_folder(path)


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
