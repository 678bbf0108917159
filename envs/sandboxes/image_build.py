"""One build of one image by the engine: its stream of messages, its log file, its time limit."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any

from swegym.core.errors import ImageMissing, SandboxError
from swegym.envs.sandboxes.engine import engine_name

__all__ = ["Build", "BuildLog", "one_line", "pull_image"]

LABEL = "swegym.image"
"""Its value is the image's own tag: an image built on one of ours inherits the label and is not ours."""
SOURCE_LABEL = "swegym.image.source"
_CHUNK_BYTES = 1 << 20
_LAYER = re.compile(r"^\s*-+> (?:Using cache )?([0-9a-f]{12,64})\s*$", re.MULTILINE)
_NUM_TAIL_LINES = 4


def one_line(error: object, limit: int = 300) -> str:
    """An error's text without line ends."""
    return " ".join(str(error).split())[:limit]


class BuildLog:
    """A log file that also remembers its last lines and the last layer made."""

    def __init__(self, path: Path, echo: Callable[[str], None] | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.layer: str | None = None
        """Short id of the last image layer that the build made."""
        self._stream = path.open("w", errors="replace", buffering=1)
        self._echo = echo
        self._tail: deque[str] = deque(maxlen=_NUM_TAIL_LINES)

    def note(self, text: str) -> None:
        """Append a line of our own, which is no output of the build."""
        self._stream.write(text + "\n")

    def write(self, text: str) -> None:
        """Append some output."""
        self._stream.write(text)
        if layers := _LAYER.findall(text):
            self.layer = layers[-1]
        self._tail.extend(line.strip() for line in text.splitlines() if line.strip())
        if self._echo is not None:
            self._echo(text)

    @property
    def tail(self) -> str:
        """The last lines as one."""
        return " | ".join(line[-200:] for line in self._tail)

    def close(self) -> None:
        self._stream.close()


class Build:
    """What a source needs to have its image made. Used by one thread."""

    def __init__(self, client: Any, tag: str, description: str, log: BuildLog, timeout_s: float) -> None:
        self.tag = tag
        self.log = log
        self._client = client
        self._labels = {LABEL: tag, SOURCE_LABEL: description}
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def check_time(self) -> None:
        """Raises SandboxError: the time limit is over."""
        if time.monotonic() > self._deadline:
            raise SandboxError(f"the build took longer than build_timeout_s={self._timeout_s:g}")

    def run(self, context: IO[bytes], *, network: bool = True, **options: Any) -> None:
        """Send a context to the engine's builder and follow it to its end; a failed build leaves no tag.

        Args:
            context: a tar archive.
            network: whether the build's commands have one (of the engine's choice).
            options: of the engine's build call: dockerfile, buildargs, target.
        """
        import docker

        context.seek(0)
        try:
            entries = self._client.build(
                fileobj=context,
                custom_context=True,
                tag=self.tag,
                rm=True,
                forcerm=True,
                labels=self._labels,
                decode=True,
                timeout=self._timeout_s,  # of one read: a step may be silent for long
                network_mode=None if network else self._no_network(),
                **options,
            )
            self._follow(entries)
        except docker.errors.APIError as error:
            if error.is_client_error():  # the Dockerfile does not parse, or there is no such stage
                raise ImageMissing(one_line(error.explanation)) from None
            raise

    def _no_network(self) -> str:
        # Podman takes this value for its policy and ignores what it does not know, "none" being such a one.
        return "NetworkDisabled" if engine_name(self._client.version()) == "podman" else "none"

    def _follow(self, entries: Iterable[dict[str, Any]]) -> None:
        for entry in entries:
            error = entry.get("error")
            self.log.write(str(entry.get("stream") or entry.get("status") or error or "") + ("\n" if error else ""))
            if error:
                raise ImageMissing(one_line(error))
            self.check_time()

    def import_rootfs(self, stream: IO[bytes], check: Callable[[], None] = lambda: None) -> None:
        """Import a tar archive of a root file system.

        Args:
            stream: the archive, compressed or not.
            check: called when all has been sent; raises when what was sent is not whole.
        """
        changes = ['CMD ["bash"]', "ENV LANG=C.UTF-8"]
        changes += [f"LABEL {json.dumps(key)}={_quoted(value)}" for key, value in self._labels.items()]
        answer = self._client.import_image_from_stream(self._chunks(stream), changes=changes)
        image_id = ""
        for line in str(answer).splitlines():
            entry = json.loads(line) if line.strip() else {}
            if "error" in entry:
                self.log.write(f"{entry['error']}\n")
                raise ImageMissing(one_line(entry["error"]))
            image_id = entry.get("status", image_id)
        self.log.write(f"imported {image_id}\n")
        try:
            check()
        except BaseException:
            self._client.remove_image(image_id)
            raise
        repository, _, tag = self.tag.rpartition(":")
        self._client.tag(image_id, repository, tag)

    def _chunks(self, stream: IO[bytes]) -> Iterator[bytes]:
        while chunk := stream.read(_CHUNK_BYTES):
            self.check_time()
            yield chunk


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("$", r"\$")


def pull_image(client: Any, image: str, idle_timeout_s: float, timeout_s: float) -> None:
    """Pull an image.

    Args:
        client: a docker.APIClient; it sets no limit on a pull, so this waits in another thread.
        image: its name.
        idle_timeout_s: longest silence of the engine.
        timeout_s: wall time of the whole pull.

    Raises:
        ImageMissing: the registry has no such image, or none can be reached in time.
    """
    entries: SimpleQueue[dict[str, Any] | Exception | None] = SimpleQueue()

    def work() -> None:
        try:
            for entry in client.pull(image, stream=True, decode=True):
                entries.put(entry)
            entries.put(None)
        except Exception as error:  # noqa: BLE001 - handed over to the waiting thread, which raises it
            entries.put(error)

    Thread(target=work, name=f"pull {image}", daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while (left_s := min(idle_timeout_s, deadline - time.monotonic())) > 0:
        try:
            entry = entries.get(timeout=left_s)
        except Empty:
            break
        if entry is None:
            return
        if isinstance(entry, Exception):
            raise ImageMissing(one_line(getattr(entry, "explanation", None) or entry))
        if "error" in entry:
            raise ImageMissing(one_line(entry["error"]))
    raise ImageMissing("the engine did not finish the pull in time")
