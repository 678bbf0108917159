"""Warm pool and back-pressure around any back end: started sandboxes wait ready, and there are never too many.

A request takes a sandbox that was started ahead for an equal spec (labels aside), else room to start one. Both are
given out strictly in the order of the requests. A used sandbox is removed and never given out again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Protocol, runtime_checkable

from swegym.core.errors import ConfigError, SandboxError
from swegym.core.sandbox import ExecResult, Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes.base import abandon
from swegym.envs.sandboxes.identity import WARM_LABEL
from swegym.envs.sandboxes.shelf import Shelf, Waiting

__all__ = ["PooledSandbox", "SandboxPool"]

logger = logging.getLogger(__name__)


@runtime_checkable
class CanBeHandedOut(Protocol):
    """A sandbox whose labels can change once it has started."""

    async def hand_out(self, labels: dict[str, str]) -> None:
        """Its life time counts from now, and these are its labels."""
        ...


@runtime_checkable
class CanForkInto(Protocol):
    """A sandbox that can make another one that has started already its fork."""

    spec: SandboxSpec

    async def fork_into(self, ready: Sandbox) -> Sandbox:
        """The ready sandbox, or another one that takes its place; removed when that fails."""
        ...


class PooledSandbox:
    """A sandbox that gives its room back when it is closed. Made by SandboxPool; used once."""

    def __init__(self, pool: SandboxPool, inner: Sandbox) -> None:
        self._pool = pool
        self.inner = inner
        """What the back end made."""
        self.sandbox_id, self.backend = inner.sandbox_id, inner.backend
        self._has_room = True

    async def run(self, command: str, *, timeout_s: float = 120.0, limit_bytes: int = 1_048_576) -> ExecResult:
        return await self.inner.run(command, timeout_s=timeout_s, limit_bytes=limit_bytes)

    async def read_file(self, path: str) -> bytes:
        return await self.inner.read_file(path)

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        await self.inner.write_file(path, data, mode=mode)

    async def snapshot(self) -> str:
        return await self.inner.snapshot()

    async def fork(self) -> Sandbox:
        """Waits for room like any other request."""
        return await self._pool.fork(self.inner)

    async def is_healthy(self) -> bool:
        return await self.inner.is_healthy()

    async def close(self) -> None:
        try:
            await self.inner.close()
        finally:
            if self._has_room:
                self._has_room = False
                self._pool.give_back()


class SandboxPool:
    """A `SandboxProvider` over another one. Used by one event loop.

    Args:
        provider: starts the sandboxes; it is closed with the pool.
        warm: ready sandboxes per spec, for the specs that were asked for lately; 0 is none.
        max_warm: ready sandboxes in all.
        warm_idle_s: a ready sandbox that nobody took for so long is removed.
        max_sandboxes: sandboxes at a time, ready and starting ones included; None is no bound.
        max_wait_s: wall time that a request waits for room.
        num_refills: ready sandboxes that start at the same time.
    """

    def __init__(
        self,
        provider: SandboxProvider,
        *,
        warm: int = 0,
        max_warm: int = 16,
        warm_idle_s: float = 300.0,
        max_sandboxes: int | None = None,
        max_wait_s: float = 600.0,
        num_refills: int = 4,
    ) -> None:
        self.name = provider.name
        self._provider = provider
        self._shelf = Shelf(warm, max_warm, warm_idle_s)
        self._max_sandboxes, self._max_wait_s, self._num_refills = max_sandboxes, max_wait_s, num_refills
        self._num_sandboxes = 0
        """In use, ready, starting or being removed."""
        self._waiting: deque[Waiting] = deque()
        self._refills: set[asyncio.Task[None]] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._failures: dict[str, Exception] = {}
        """Specs whose last background start failed. They get no other until a request for one has succeeded."""
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def num_sandboxes(self) -> int:
        """Sandboxes that count against `max_sandboxes`."""
        return self._num_sandboxes

    @property
    def num_ready(self) -> int:
        return len(self._shelf)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A ready sandbox of this spec, or a new one.

        Raises:
            SandboxError: it does not start, or there was no room within `max_wait_s`. ImageMissing.
        """
        key = _key(spec)
        is_first_in_line = False
        while True:
            ready = await self._room(key, first=is_first_in_line)
            if ready is None:
                inner = await self._start(spec)
                self._heal(key)
                break
            if await self._hand_out(ready, spec):
                inner = ready
                break
            is_first_in_line = True
        self._shelf.ask(key, spec)
        self._refill()
        return PooledSandbox(self, inner)

    async def fork(self, origin: Sandbox) -> Sandbox:
        """A fork of a sandbox of this pool, which needs room of its own. Raises as `create` does."""
        ready = None
        if isinstance(origin, CanForkInto):
            ready = await self._room(_key(origin.spec))
            if ready is not None and not await self._hand_out(ready, origin.spec):
                ready = await self._room(None, first=True)
        else:
            await self._room(None)
        try:
            fork = await (origin.fork_into(ready) if ready and isinstance(origin, CanForkInto) else origin.fork())
        except BaseException:
            self.give_back()
            raise
        finally:
            self._refill()
        return PooledSandbox(self, fork)

    async def _start(self, spec: SandboxSpec) -> Sandbox:
        try:
            sandbox = await self._provider.create(spec)
            if self._closing is not None:
                await abandon(sandbox)
                self._require_open()
        except BaseException:
            self.give_back()
            raise
        return sandbox

    async def _hand_out(self, ready: Sandbox, spec: SandboxSpec) -> bool:
        """Whether a ready sandbox lives and has got this spec's labels; else it is removed."""
        assert isinstance(ready, CanBeHandedOut)  # no other is put on the shelf
        try:
            is_alive = await ready.is_healthy()
            if is_alive:
                await ready.hand_out(spec.labels)
        except BaseException:
            self._remove(ready)
            raise
        if not is_alive:
            logger.warning("sandbox %s died while it waited ready; it is replaced", ready.sandbox_id)
            self._remove(ready)
        return is_alive

    # --- room ---------------------------------------------------------------------------------------------------------

    async def _room(self, key: str | None, *, first: bool = False) -> Sandbox | None:
        """Wait in line for a ready sandbox of this key, or for room to start one (None)."""
        self._require_open()
        place = Waiting(key, asyncio.get_running_loop().create_future())
        (self._waiting.appendleft if first else self._waiting.append)(place)
        self._serve()
        try:
            async with asyncio.timeout(self._max_wait_s):
                return await place.got
        except BaseException as error:
            self._leave(place)
            if isinstance(error, TimeoutError):
                raise SandboxError(
                    f"no room for another sandbox within {self._max_wait_s:g} s: all {self._max_sandboxes} of "
                    "sandbox.max_sandboxes are in use; raise it, lower the concurrency, or close environments "
                    "(one that grades inline needs two)"
                ) from None
            raise

    def _leave(self, place: Waiting) -> None:
        """Give up a place in the line, and what was given to it at the last moment."""
        if place in self._waiting:
            self._waiting.remove(place)
        elif place.got.done() and not place.got.cancelled() and place.got.exception() is None:
            ready = place.got.result()
            if ready is not None:
                self._remove(ready)
            else:
                self.give_back()
        self._serve()

    def _serve(self) -> None:
        """Serve the line from its front as far as it goes."""
        while self._waiting:
            place = self._waiting[0]
            if not place.got.done():
                ready = self._shelf.take(place.key) if place.key is not None else None
                if ready is None and not self._has_room():
                    break
                self._num_sandboxes += ready is None
                place.got.set_result(ready)
            self._waiting.popleft()
        while len(self._removals) < len(self._waiting) and (oldest := self._shelf.take_oldest()) is not None:
            self._remove(oldest)  # somebody waits for the room that a ready one takes

    def _has_room(self) -> bool:
        return self._max_sandboxes is None or self._num_sandboxes < self._max_sandboxes

    def give_back(self) -> None:
        """A sandbox is gone: serve who waits, else start a ready one."""
        self._num_sandboxes -= 1
        self._serve()
        self._refill()

    def _remove(self, sandbox: Sandbox) -> None:
        """Remove a sandbox in the background; its room is free when it is gone."""

        async def remove() -> None:
            try:
                await sandbox.close()
            finally:
                self.give_back()

        task = asyncio.get_running_loop().create_task(remove(), name=f"remove {sandbox.sandbox_id}")
        self._removals.add(task)
        task.add_done_callback(self._on_removed)

    def _on_removed(self, task: asyncio.Task[None]) -> None:
        self._removals.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("removing a ready sandbox failed: %s", error)

    # --- ready sandboxes ----------------------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Start ready sandboxes as far as the bounds allow; those who wait come first."""
        if self._closing is not None:
            return
        while not self._waiting and len(self._refills) < self._num_refills:
            key = self._shelf.most_wanted(self._failures) if self._has_room() else None
            if key is None:
                break
            self._num_sandboxes += 1
            spec = self._shelf.expect(key).model_copy(update={"labels": {WARM_LABEL: "1"}})
            task = asyncio.get_running_loop().create_task(self._start_ready(key, spec), name="start a ready sandbox")
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)
            task.add_done_callback(lambda _: self._refill())
        for surplus in self._shelf.surplus():
            self._remove(surplus)
        self._schedule_retirement()

    async def _start_ready(self, key: str, spec: SandboxSpec) -> None:
        try:
            sandbox = await self._provider.create(spec)
            if not isinstance(sandbox, CanBeHandedOut):
                await sandbox.close()
                raise ConfigError(f"sandboxes of {self.name!r} cannot wait ready (no hand_out); set sandbox.warm to 0")
        except BaseException as error:
            self._shelf.disappoint(key)
            if isinstance(error, Exception):  # kept: no other is started ahead until a request heals it
                self._failures[key] = error
                logger.warning("a ready sandbox did not start: %s: %s", type(error).__name__, error)
            self.give_back()
            if not isinstance(error, Exception):
                raise
        else:
            self._shelf.put(key, sandbox)
            self._serve()

    def _heal(self, key: str) -> None:
        error = self._failures.pop(key, None)
        if error is not None:
            logger.info("sandboxes start again after: %s", error)

    def _schedule_retirement(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = None if self._closing else self._shelf.next_retirement_s()
        self._timer = None
        if delay_s is not None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._retire)

    def _retire(self) -> None:
        for sandbox in self._shelf.take_stale():
            self._remove(sandbox)
        self._schedule_retirement()

    # --- end ----------------------------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closing is not None:
            raise SandboxError("this provider is closed")

    async def close(self) -> None:
        """Remove every sandbox, those in use as well; idempotent.

        A background start that failed is a warning in the log and no error here: every request was served all the same.
        """
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close(), name="close the sandbox pool")
            await asyncio.shield(self._closing)
            return
        await asyncio.wait([self._closing])

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for place in list(self._waiting):
            if not place.got.done():
                place.got.set_exception(SandboxError("this provider was closed while a request waited for room"))
        self._waiting.clear()
        refills = list(self._refills)
        for task in refills:
            task.cancel()
        await asyncio.gather(*refills, return_exceptions=True)  # a failed start is in _failures
        for sandbox in self._shelf.take_all():
            self._remove(sandbox)
        await asyncio.gather(*self._removals, return_exceptions=True)  # logged by _on_removed
        await self._provider.close()


def _key(spec: SandboxSpec) -> str:
    """What two specs share whose sandboxes can stand in for each other."""
    return spec.model_copy(update={"labels": {}}).model_dump_json()
