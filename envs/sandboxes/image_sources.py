"""What an image can be made from: a Dockerfile, a root file system, Debian's mirror, or a task's folders.

A source knows which images it builds on, a hash of everything else that decides the result, and how to have the engine
make it. It does not know tags, locks or logs: that is `image_store`.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from swegym.core.errors import ConfigError, DependencyMissing, ImageMissing
from swegym.core.records import digest
from swegym.envs.sandboxes.base import DEPENDENCIES_PATH
from swegym.envs.sandboxes.dockerfile import base_images
from swegym.envs.sandboxes.image_build import one_line
from swegym.envs.sandboxes.image_context import cached_digest, context_paths, write_context

if TYPE_CHECKING:
    from swegym.envs.sandboxes.image_build import Build

__all__ = ["DebianSource", "DockerfileSource", "FoldersSource", "ImageSource", "RootfsSource"]

DEBIAN_PACKAGES = ("ca-certificates", "git", "patch", "procps", "python3", "python3-pytest")
_SHELLS = frozenset({"bin/bash", "usr/bin/bash"})


class ImageSource(ABC):
    """Something that an image is made from."""

    name: str
    """For the image's repository name."""

    @property
    @abstractmethod
    def description(self) -> str:
        """One line that `swegym images ls` shows."""

    @abstractmethod
    def bases(self) -> list[str]:
        """Images that it builds on."""

    @abstractmethod
    def digest(self) -> str:
        """Hash of everything that decides the result, the bases apart. Raises ConfigError."""

    @abstractmethod
    def make(self, build: Build) -> None:
        """Have the engine make the image `build.tag`. Raises ConfigError, ImageMissing, SandboxError."""


@dataclass(frozen=True)
class DockerfileSource(ImageSource):
    """A Dockerfile with its context folder. Built by the engine's own builder (no BuildKit syntax)."""

    context: Path | None
    """Folder that COPY reads from; None: nothing can be copied."""
    dockerfile: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    """Stage to build; None: the last."""
    network: bool = True
    """Whether RUN lines have a network."""

    def __post_init__(self) -> None:
        if self.context is not None and not self.context.is_dir():
            raise ConfigError(f"no folder {self.context} to build in")
        if not self.dockerfile.is_file():
            raise ConfigError(f"no Dockerfile {self.dockerfile}")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.dockerfile.resolve().parent.name

    @property
    def description(self) -> str:
        return f"dockerfile {self.dockerfile.resolve()}"

    def _text(self) -> str:
        try:
            return self.dockerfile.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {self.dockerfile}: {error}") from None

    def _inner(self) -> str | None:
        """The Dockerfile's path within the context, None when it lies elsewhere."""
        if self.context is None:
            return None
        dockerfile, context = self.dockerfile.resolve(), self.context.resolve()
        return str(dockerfile.relative_to(context)) if dockerfile.is_relative_to(context) else None

    def _wanted(self) -> frozenset[str]:
        return context_paths(self.context, self._inner()) if self.context is not None else frozenset()

    def bases(self) -> list[str]:
        return base_images(self._text(), self.arguments)

    def digest(self) -> str:
        content = cached_digest(self.context.resolve(), self._wanted()) if self.context is not None else ""
        arguments = json.dumps(dict(self.arguments), sort_keys=True)
        return digest("dockerfile", self._text(), content, arguments, self.target or "", str(self.network))

    def make(self, build: Build) -> None:
        name, texts, wanted = self._inner(), {}, self._wanted()
        if name is None:  # it lies elsewhere: sent along, and kept from COPY
            name = f".dockerfile-{build.tag.rpartition(':')[2]}"
            ignore = self.context / ".dockerignore" if self.context is not None else None
            lines = ignore.read_text() if ignore is not None and ignore.is_file() else ".dockerignore"
            texts = {name: self._text(), ".dockerignore": f"{lines}\n{name}\n"}
        with tempfile.TemporaryFile() as stream:
            folders = {"": self.context.resolve()} if self.context is not None else {}
            write_context(stream, texts, folders, lambda relative: relative in wanted and relative not in texts)
            build.run(
                stream,
                dockerfile=name,
                buildargs=dict(self.arguments),
                target=self.target,
                network=self.network,
            )


@dataclass(frozen=True)
class FoldersSource(ImageSource):
    """A task's workspace and dependencies, copied onto a base image."""

    name: str
    base_image: str
    workdir: str
    workspace: str | None
    dependencies: str | None
    user: str | None
    """Owner of the workspace's files; None is root."""

    def __post_init__(self) -> None:
        for folder in (self.workspace, self.dependencies):
            if folder is not None and not (Path(folder).is_absolute() and Path(folder).is_dir()):
                raise ConfigError(f"sandbox folder {folder!r} is not an absolute path of a folder")

    @property
    def description(self) -> str:
        return f"workspace {self.workspace}" if self.workspace else f"dependencies {self.dependencies}"

    def bases(self) -> list[str]:
        return [self.base_image]

    def digest(self) -> str:
        parts = [cached_digest(folder) if folder else "" for folder in (self.workspace, self.dependencies)]
        return digest("folders", self.workdir, self.user or "", *parts)

    def make(self, build: Build) -> None:
        lines = [f"FROM {self.base_image}"]
        folders = {}
        if self.dependencies:
            folders["dependencies"] = Path(self.dependencies)
            lines.append(f'COPY ["dependencies/", "{DEPENDENCIES_PATH}/"]')
        if self.workspace:
            folders["workspace"] = Path(self.workspace)
            owner = f"--chown={self.user} " if self.user else ""
            lines.append(f'COPY {owner}["workspace/", {json.dumps(self.workdir + "/")}]')
        with tempfile.TemporaryFile() as stream:
            write_context(stream, {"Dockerfile": "\n".join(lines) + "\n"}, folders)
            build.run(stream, dockerfile="Dockerfile")


@dataclass(frozen=True)
class RootfsSource(ImageSource):
    """A root file system: a tarball (plain, gz, bz2 or xz), or a folder, which takes root to read whole."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise ConfigError(f"no root file system {self.path}")
        if self.path.is_dir() and not any(os.path.lexists(self.path / shell) for shell in _SHELLS):
            raise ConfigError(f"{self.path} is no root file system for a sandbox: it holds no bin/bash")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.path.resolve().name.partition(".tar")[0]

    @property
    def description(self) -> str:
        return f"rootfs {self.path.resolve()}"

    def bases(self) -> list[str]:
        return []

    def digest(self) -> str:
        return digest("rootfs", cached_digest(self.path.resolve()))

    def make(self, build: Build) -> None:
        if self.path.is_dir():
            import_folder(self.path, build)
            return
        require_rootfs_tarball(self.path)
        with self.path.open("rb") as stream:
            build.import_rootfs(stream)


@dataclass(frozen=True)
class DebianSource(ImageSource):
    """A minimal Debian by debootstrap, for machines that reach a Debian mirror but no image registry."""

    suite: str = "bookworm"
    mirror: str | None = None
    """Address of the mirror; None: debootstrap's own choice."""
    packages: tuple[str, ...] = DEBIAN_PACKAGES
    timeout_s: float = 1800.0
    name: str = "base"

    @property
    def description(self) -> str:
        return f"debootstrap {self.suite}"

    def bases(self) -> list[str]:
        return []

    def digest(self) -> str:
        return digest("debian", self.suite, self.mirror or "", *sorted(set(self.packages)))

    def make(self, build: Build) -> None:
        if shutil.which("debootstrap") is None:
            raise DependencyMissing("debootstrap is needed to make a base image; e.g. `apt-get install debootstrap`")
        if os.geteuid() != 0:
            raise ConfigError("debootstrap needs root; run this command with sudo")
        with tempfile.TemporaryDirectory(prefix="swegym-base.", dir=os.environ.get("TMPDIR", "/var/tmp")) as parent:
            root = Path(parent, "root")
            self._debootstrap(root, build)
            if (root / "usr/bin/python3").exists() and not os.path.lexists(root / "usr/bin/python"):
                (root / "usr/bin/python").symlink_to("python3")
            for litter in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
                shutil.rmtree(root / litter, ignore_errors=True)
                (root / litter).mkdir(parents=True)
            import_folder(root, build)

    def _debootstrap(self, root: Path, build: Build) -> None:
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(sorted(set(self.packages)))}"]
        command += [self.suite, str(root), *([self.mirror] if self.mirror else [])]
        build.log.write(f"{' '.join(command)}\n")
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    build.log.write(line)
                    build.check_time()
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            raise ImageMissing(f"debootstrap of {self.suite} failed with status {process.returncode}")


def import_folder(folder: Path, build: Build) -> None:
    """Import a root file system's folder; owners, modes, links and device files stay as they are."""
    command = ["tar", "--numeric-owner", "--xattrs", "-C", str(folder), "-c"]
    command += [f"--exclude=./{name}/*" for name in ("proc", "sys", "dev")]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen([*command, "."], stdout=subprocess.PIPE, stderr=errors) as tar,
    ):
        assert tar.stdout is not None
        try:
            build.import_rootfs(tar.stdout, check=lambda: _require_success(tar, errors))
        except BaseException:
            tar.kill()
            raise


def _require_success(tar: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    if tar.wait() != 0:
        errors.seek(0)
        raise ConfigError(
            f"cannot read the root file system: {' '.join(errors.read(2000).decode(errors='replace').split())}"
        )


def require_rootfs_tarball(path: Path) -> None:
    """Raises ConfigError: it is no tar archive, it is damaged, or what it holds is no root file system with a bash."""
    try:
        with tarfile.open(path, "r:*") as tar:
            for entry in tar:
                if entry.name.removeprefix("./").removeprefix("/") in _SHELLS:
                    return
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a readable tar archive (plain, gz, bz2 or xz): {one_line(error)}") from None
    raise ConfigError(f"{path} is no root file system for a sandbox: it holds no bin/bash at its top")
