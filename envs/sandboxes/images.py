"""Docker images from a task's folders: dependencies and workspace copied onto a base image, built once per content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from swegym.core.errors import ConfigError, ImageMissing, SandboxError, boundary
from swegym.core.records import digest
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes.base import DEPENDENCIES_PATH

__all__ = ["ImageBuilder", "folder_digest"]

_locks: dict[str, threading.Lock] = {}
_locks_lock = threading.Lock()


def folder_digest(folder: str) -> str:
    """Hash of a tree: relative paths, kinds, executable bits, link targets and contents."""
    total = hashlib.blake2b(digest_size=16)
    for path, entries, names in os.walk(folder):
        entries.sort()
        links = [name for name in entries if Path(path, name).is_symlink()]
        for name in sorted([*names, *links]):
            file = Path(path, name)
            mode = file.lstat().st_mode
            total.update(os.fsencode(file.relative_to(folder)) + b"\0%o\0" % (mode & 0o170111))
            if stat.S_ISLNK(mode):
                total.update(os.fsencode(file.readlink()) + b"\0")
            elif stat.S_ISREG(mode):
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "blake2b").digest())
    return total.hexdigest()


class ImageBuilder:
    """Finds, pulls or builds the image of a spec. Its methods block: call them in a thread.

    Args:
        client: a docker.APIClient whose limit suits a build.
        base_image: what workspaces are put on.
        user: owner of the copied files, None for root.
    """

    def __init__(self, client: Any, base_image: str, user: str | None) -> None:
        self._client = client
        self._base_image = base_image
        self._user = user
        self._tags: dict[tuple[str, str | None, str, str], str] = {}

    def ensure(self, spec: SandboxSpec) -> str:
        """Name of an image that exists. Raises ImageMissing, SandboxError (the build failed)."""
        if spec.workspace is None:
            self._require(spec.image)
            return spec.image
        key = (spec.workspace, spec.dependencies, spec.workdir, spec.image)
        with _lock_of(str(key)):
            if key not in self._tags:
                self._tags[key] = self._ensure_built(spec)
            return self._tags[key]

    def _require(self, image: str) -> str:
        """Id of an image, pulled if need be."""
        import docker

        with boundary(SandboxError, f"looking for image {image}"):
            try:
                return str(self._client.inspect_image(image)["Id"])
            except docker.errors.ImageNotFound:
                pass  # then it is pulled
        try:
            self._client.pull(image)
            return str(self._client.inspect_image(image)["Id"])
        except (docker.errors.APIError, OSError) as error:
            raise ImageMissing(
                f"image {image!r} is not here and cannot be pulled ({_one_line(error)}); `docker pull {image}` where a "
                "registry can be reached, or make a base image with docker/base_image.sh and set sandbox.base_image"
            ) from error

    def _ensure_built(self, spec: SandboxSpec) -> str:
        import docker

        workspace, dependencies = spec.workspace, spec.dependencies
        assert workspace is not None
        for folder in (workspace, dependencies):
            if folder is not None and not (Path(folder).is_absolute() and Path(folder).is_dir()):
                raise ConfigError(f"sandbox folder {folder!r} is not an absolute path of a folder")
        base_id = self._require(self._base_image)
        parts = [folder_digest(folder) if folder else "" for folder in (workspace, dependencies)]
        tag = f"{_repository(spec.image)}:{digest(base_id, spec.workdir, self._user or '', *parts)}"
        try:
            self._client.inspect_image(tag)
        except docker.errors.ImageNotFound:
            self._build(spec, tag)
        return tag

    def _build(self, spec: SandboxSpec, tag: str) -> None:
        owner = f"--chown={self._user} " if self._user else ""
        lines = [f"FROM {self._base_image}"]
        if spec.dependencies:
            lines.append(f'COPY ["dependencies/", "{DEPENDENCIES_PATH}/"]')
        lines.append(f'COPY {owner}["workspace/", "{spec.workdir}/"]')
        log: list[str] = []
        with tempfile.TemporaryFile() as context, boundary(SandboxError, f"building image {tag}"):
            _write_context(context, spec, "\n".join(lines) + "\n")
            context.seek(0)
            options = {"custom_context": True, "rm": True, "forcerm": True, "labels": {"swegym.image": "1"}}
            for entry in self._client.build(fileobj=context, tag=tag, decode=True, **options):
                log.append(str(entry.get("stream") or entry.get("error") or ""))
                if "error" in entry:
                    raise SandboxError(f"building image {tag} failed: {''.join(log)[-2000:].strip()}")


def _write_context(stream: IO[bytes], spec: SandboxSpec, dockerfile: str) -> None:
    def as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        return entry

    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile.encode())
        tar.addfile(entry, BytesIO(dockerfile.encode()))
        for name, folder in (("workspace", spec.workspace), ("dependencies", spec.dependencies)):
            if folder is not None:
                tar.add(folder, arcname=name, filter=as_root)


def _repository(image: str) -> str:
    """A legal repository name from any image name: lower case, no tag, under swegym/."""
    name = re.sub(r"[^a-z0-9]+", "-", image.rpartition("/")[2].partition(":")[0].lower()).strip("-")
    return f"swegym/{name or 'task'}"


def _lock_of(key: str) -> threading.Lock:
    with _locks_lock:
        return _locks.setdefault(key, threading.Lock())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


async def in_pool(pool: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a blocking engine call in the provider's threads."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments, **options))
