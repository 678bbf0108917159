"""Images by content: finds, pulls or builds them, once however many ask, in however many processes.

A tag is the hash of everything that decides an image, so an image that exists is the right one. Beside the images, in
the user's cache: one log per build, when each image was last used, and how the last build of each failed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from swegym.core.cache import cache_folder, locked
from swegym.core.errors import ConfigError, ImageMissing, SandboxError, SwegymError, boundary
from swegym.core.records import digest
from swegym.core.runfolder import write_atomically
from swegym.envs.sandboxes.engine import connect, engine_address
from swegym.envs.sandboxes.image_build import LABEL, Build, BuildLog, one_line, pull_image
from swegym.envs.sandboxes.image_sources import ImageSource

__all__ = ["ImageStore", "repository_name"]


def split_name(name: str) -> tuple[str, str]:
    """Repository and tag of an image's name. Raises ConfigError: it is not one."""
    from docker.utils import match_tag

    if not match_tag(name):
        raise ConfigError(f"{name!r} cannot be an image's name; one is like my-base:1, in lower case")
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
    return repository, tag


def repository_name(name: str) -> str:
    """A legal repository name from any text: lower case, no tag, under swegym/."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].partition(":")[0].lower()).strip("-")
    return f"swegym/{plain[:100].strip('-') or 'task'}"


class ImageStore:
    """The images of one engine. Its methods block: call them in a thread.

    Args:
        engine_url: the engine; None is DOCKER_HOST or the default socket.
        engine_timeout_s: wall time of one call to the engine, and its longest silence in a pull.
        build_timeout_s: wall time of one build or pull.
        echo: gets the output of builds, as it comes.

    Raises:
        DependencyMissing: no engine answers.
    """

    def __init__(
        self,
        engine_url: str | None = None,
        engine_timeout_s: float = 120.0,
        build_timeout_s: float = 1800.0,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.client: Any = connect(engine_url, engine_timeout_s)
        self._build_client: Any = connect(engine_url, build_timeout_s)  # an import is one long call
        self._engine_timeout_s = engine_timeout_s
        self._build_timeout_s = build_timeout_s
        self._echo = echo
        self._folder = ("images", digest(engine_address(engine_url), length=8))

    def folder(self, kind: str) -> Path:
        """The cache folder of one kind of record: logs, used, failures, locks."""
        return cache_folder(*self._folder, kind)

    def inspect(self, image: str) -> dict[str, Any] | None:
        """The engine's description of an image, None when it is not there."""
        import docker

        with boundary(SandboxError, f"looking for image {image}"):
            try:
                return dict(self.client.inspect_image(image))
            except docker.errors.ImageNotFound:
                return None

    def require(self, image: str) -> str:
        """Id of an image, pulled if need be. Raises ImageMissing."""
        found = self.inspect(image)
        if found is None:
            try:
                pull_image(self._build_client, image, self._engine_timeout_s, self._build_timeout_s)
            except ImageMissing as error:
                raise ImageMissing(
                    f"image {image!r} is not here and cannot be pulled ({error}); `docker pull {image}` where a "
                    "registry can be reached, or make a base image with `swegym images base` and name it with "
                    "--base-image or SWEGYM_BASE_IMAGE"
                ) from None
            found = self.inspect(image)
            if found is None:
                raise ImageMissing(f"image {image!r} was pulled and is not there")
        self.note_use((found.get("Config") or {}).get("Labels") or {})
        return str(found["Id"])

    def note_use(self, labels: dict[str, str]) -> None:
        """Remember that an image of ours, known by its labels, is used now."""
        if tag := labels.get(LABEL):
            self.used_file(tag).touch()

    def used_file(self, tag: str) -> Path:
        """The file whose time is an image's last use."""
        return self.folder("used") / tag.replace("/", "_").replace(":", "__")

    def ensure(self, source: ImageSource, alias: str | None = None) -> str:
        """Tag of the image of a source, built unless it is there.

        Args:
            source: what it is made from.
            alias: another name that the image gets, such as `my-base:1`.

        Raises:
            ConfigError: the source is not usable.
            ImageMissing: it cannot be built; says why, with the end of the build's output and the log's path.
            SandboxError: the engine failed.
        """
        if alias is not None:
            split_name(alias)
        tag = self.tag_of(source)
        if self.inspect(tag) is None:
            self._build_once(tag, source)
        self.used_file(tag).touch()
        if alias is not None:
            self.tag(tag, alias)
        return tag

    def tag_of(self, source: ImageSource) -> str:
        """Name by content of a source's image, which need not be there; its bases are pulled. Raises as `ensure`."""
        base_ids = [self.require(image) for image in source.bases()]
        return f"{repository_name(source.name)}:{digest(source.digest(), *base_ids)}"

    def is_made_from(self, found: dict[str, Any], source: ImageSource) -> bool:
        """Whether an image, as `inspect` found it, came from this source; one that does not say counts as if it did."""
        labels = (found.get("Config") or {}).get("Labels") or {}
        return LABEL not in labels or labels[LABEL] == self.tag_of(source)

    def tag(self, image: str, alias: str) -> None:
        """Give an image another name. Raises ConfigError: it is not one."""
        repository, version = split_name(alias)
        with boundary(SandboxError, f"tagging image {image}"):
            self.client.tag(image, repository, version)

    def _build_once(self, tag: str, source: ImageSource) -> None:
        """Build under a lock; who waited for a build that failed fails with it and does not try again."""
        asked_ns = time.time_ns()
        key = digest(tag)
        failure_file = self.folder("failures") / f"{key}.json"
        with locked(self.folder("locks") / key):
            if self.inspect(tag) is not None:
                return
            failure = read_json(failure_file)
            if failure.get("time_ns", 0) >= asked_ns:
                raise ImageMissing(str(failure["message"]))
            log = BuildLog(self._log_path(tag), self._echo)
            try:
                self._build(tag, source, log)
            except SwegymError as error:
                record = {"time_ns": time.time_ns(), "message": str(error), "layer": log.layer}
                write_atomically(failure_file, json.dumps(record))
                raise
            finally:
                log.close()
            failure_file.unlink(missing_ok=True)

    def _log_path(self, tag: str) -> Path:
        name = tag.removeprefix("swegym/").replace(":", "-")
        return self.folder("logs") / f"{name}-{datetime.now().astimezone():%Y%m%d-%H%M%S-%f}.log"

    def _build(self, tag: str, source: ImageSource, log: BuildLog) -> None:
        log.note(f"image {tag} from {source.description}")
        what = f"building image {tag} from {source.description}"
        try:
            with boundary(SandboxError, "the engine failed"):
                source.make(Build(self._build_client, tag, source.description, log, self._build_timeout_s))
        except (ImageMissing, SandboxError) as error:
            tail = log.tail
            log.note(str(error))
            last = f"; last output: {tail}" if tail and one_line(error) not in tail else ""
            raise type(error)(f"{what} failed: {error}{last}; log: {log.path}") from error
        if self.inspect(tag) is None:
            raise SandboxError(f"{what}: the engine ended the build and has no such image; log: {log.path}")

    def close(self) -> None:
        self.client.close()
        self._build_client.close()


def read_json(path: Path) -> dict[str, Any]:
    """A small record; empty when it is absent or torn."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
