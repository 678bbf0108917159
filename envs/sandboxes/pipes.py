"""Pipes on an event loop by their file descriptors, which only these classes close.

The loop's own pipe transports are not used: uvloop (Ray's async actors run on it) closes their descriptors twice,
and the second time it may already belong to another thread's file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

__all__ = ["PipeReader", "PipeWriter"]

_READ_BYTES = 256 * 1024


class PipeReader:
    """Hands on what arrives in a pipe. Owns the descriptor."""

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Start to read on the running loop.

        Args:
            descriptor: the reading end; made non-blocking.
            on_data: called with each piece.
            on_end: called once when the other side is closed everywhere; not after `close`.
        """
        os.set_blocking(descriptor, False)
        self._descriptor: int | None = descriptor
        self._on_data, self._on_end = on_data, on_end
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def _read(self) -> None:
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_end()

    def close(self) -> None:
        """Stop and close the descriptor; idempotent."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._loop.remove_reader(descriptor)
            os.close(descriptor)


class PipeWriter:
    """Writes without ever blocking; what the pipe does not take waits in memory. Owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        """Args: descriptor: the writing end; made non-blocking."""
        os.set_blocking(descriptor, False)
        self._descriptor: int | None = descriptor
        self._waiting = bytearray()
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        """Write, or keep for later. Nothing happens once the pipe is closed or its reader gone."""
        if self._descriptor is None:
            return
        was_waiting = bool(self._waiting)
        self._waiting += data
        if not was_waiting:
            self._flush()
            if self._waiting and self._descriptor is not None:
                self._loop.add_writer(self._descriptor, self._flush)

    def _flush(self) -> None:
        if self._descriptor is None:
            return
        try:
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, memoryview(self._waiting)[:_READ_BYTES].tobytes())]
        except BlockingIOError:
            return
        except OSError:
            self.close()  # the reader is gone: the session learns of it from the other pipe
            return
        self._loop.remove_writer(self._descriptor)

    def close(self) -> None:
        """Drop what waits and close the descriptor; idempotent."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            self._waiting.clear()
            self._loop.remove_writer(descriptor)
            os.close(descriptor)
