"""Bounded memory for unbounded output: keeps the head and the tail of a stream and counts what lies between."""

from __future__ import annotations

from collections import deque

__all__ = ["OutputBuffer"]


class OutputBuffer:
    """First and last bytes of a stream, at most `limit_bytes` of them together."""

    def __init__(self, limit_bytes: int) -> None:
        self._head = bytearray()
        self._head_limit = (limit_bytes + 1) // 2
        self._tail: deque[bytes] = deque()
        self._tail_limit = limit_bytes - self._head_limit
        self._tail_size = 0
        self._total = 0

    def add(self, data: bytes) -> None:
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data[-self._tail_limit :] if self._tail_limit else b"")
        self._tail_size += len(self._tail[-1])
        while self._tail and self._tail_size - len(self._tail[0]) >= self._tail_limit:
            self._tail_size -= len(self._tail.popleft())

    def result(self) -> tuple[bytes, int]:
        """What was kept, and the number of bytes left out between head and tail."""
        tail = b"".join(self._tail)
        kept = bytes(self._head) + tail[max(0, len(tail) - self._tail_limit) :]
        return kept, self._total - len(kept)
