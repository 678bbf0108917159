"""The image of a sandbox: found, pulled, or made of the task's Dockerfile, workspace and dependencies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes.image_sources import DockerfileSource, FoldersSource
from swegym.envs.sandboxes.image_store import ImageStore

__all__ = ["ImageBuilder"]

_NOTE_USE_EVERY_S = 3600.0
_Key = tuple[str, str | None, str | None, str | None, str]


class ImageBuilder:
    """The image of a spec, made at its first use and remembered. Builds have threads of their own.

    Args:
        store: the engine's images.
        base_image: what workspaces are put on when a task has no Dockerfile.
        user: owner of a workspace's copied files, None for root.
    """

    def __init__(self, store: ImageStore, base_image: str, user: str | None) -> None:
        self._store = store
        self._base_image = base_image
        self._user = user
        self._images: dict[_Key, tuple[Future[str], float]] = {}
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="swegym-images")

    async def ensure(self, spec: SandboxSpec) -> str:
        """Name of an image that exists; a build that several wait for happens once and fails all of them once.

        Raises:
            ConfigError: a folder of the spec is not there.
            ImageMissing: the image can be neither pulled nor built.
            SandboxError: the engine failed.
        """
        waited_for = asyncio.wrap_future(self._future(spec))
        waited_for.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # else a cancelled waiter's logs it
        return await asyncio.shield(waited_for)  # a cancelled waiter cancels no build

    def _future(self, spec: SandboxSpec) -> Future[str]:
        key = (spec.image, spec.workspace, spec.dependencies, spec.dockerfile, spec.workdir)
        with self._lock:
            future, asked = self._images.get(key, (None, 0.0))
            is_failed = future is not None and future.done() and future.exception() is not None
            if future is None or is_failed or time.monotonic() - asked > _NOTE_USE_EVERY_S:
                future = self._pool.submit(self.build, spec)
                self._images[key] = (future, time.monotonic())
            return future

    def forget(self, spec: SandboxSpec) -> None:
        """Look the spec's image up again next time: somebody removed it."""
        with self._lock:
            self._images.pop((spec.image, spec.workspace, spec.dependencies, spec.dockerfile, spec.workdir), None)

    def build(self, spec: SandboxSpec) -> str:
        """As `ensure`, in this thread and without remembering."""
        if spec.dockerfile is not None:
            dockerfile = Path(spec.dockerfile)
            base = self._store.ensure(DockerfileSource(dockerfile.parent, dockerfile))
        else:
            base = spec.image if spec.workspace is None else self._base_image
        if spec.workspace is None and spec.dependencies is None:
            self._store.require(base)
            return base
        return self._store.ensure(
            FoldersSource(spec.image, base, spec.workdir, spec.workspace, spec.dependencies, self._user)
        )

    def close(self) -> None:
        """Builds that run go on to their end; those that wait do not begin."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def in_pool(pool: Any, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a blocking engine call in the provider's threads."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments, **options))
