r"""Host side of a sandbox's byte channel: finds our markers in what comes out, and waits for answers within a bound.

A marker is \036, a secret, and fields up to another \036. The session's secret marks what process 1 says; every
command has a secret of its own, which stands behind the command in the channel and is read after it has ended, so its
output cannot forge the end.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import KilledBy
from swegym.envs.sandboxes.output import OutputBuffer

__all__ = ["Channel", "Ended", "Reply", "ShellEnded"]

_MARK = b"\x1e"
_LONGEST_MARKER_BYTES = 256
_REASONS: tuple[KilledBy | None, ...] = (None, "timeout", "disk")


@dataclass(frozen=True, slots=True)
class Ended:
    """The command ended by itself. `numbers`: exit code, number of OOM kills; for a file operation only a status."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShellEnded:
    """The shell ended, and with it the command."""

    status: int
    killed_by: KilledBy | None
    """Our limit that was the reason, if one was."""
    has_begun: bool
    """False: the shell was gone before it saw the command."""
    num_oom_kills: int


Reply = Ended | ShellEnded


class Channel:
    """Bytes to and from one sandbox.

    Args:
        write: takes bytes for the sandbox's stdin.
        on_lost: called once, when the sandbox no longer answers, with the reason.
        interrupt: has process 1 end whatever keeps an answer from coming; None where nothing can.
        answer_timeout_s: wall time for an answer beyond a command's own limit, which is enforced inside.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_lost: Callable[[str], None],
        interrupt: Callable[[], Awaitable[None]] | None = None,
        answer_timeout_s: float = 10.0,
    ) -> None:
        self._write = write
        self._on_lost = on_lost
        self._interrupt = interrupt
        self._answer_timeout_s = answer_timeout_s
        self._secret = secrets.token_hex(16)
        self._session_marker = _MARK + self._secret.encode()
        self._command_marker = b""
        self._held = b""
        self._output: OutputBuffer | None = None
        self._data = bytearray()
        self._reply: asyncio.Future[Reply | None] | None = None
        self._settled: asyncio.Future[ShellEnded | None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended_while_idle: ShellEnded | None = None
        self._num_oom_kills = 0
        """Processes that were killed for want of memory, as known when the latest command began."""
        self._seen_oom_kills = 0
        self.lost_reason: str | None = None

    def lose(self, reason: str) -> None:
        """Declare the sandbox gone: whoever waits gets SandboxLost, and so does every later call."""
        if self.lost_reason is not None:
            return
        self.lost_reason = reason
        if not self._ready.done():
            self._ready.set_result(None)
        for future in (self._reply, self._settled):
            if future is not None and not future.done():
                future.set_exception(SandboxLost(f"sandbox lost: {reason}"))
        self._on_lost(reason)

    async def _send(self, payload: bytes, secret: bytes, timeout_s: float) -> Reply:
        """Write, and wait for the answer with this secret or for the end of the shell. Raises SandboxLost."""
        if self.lost_reason is not None:
            raise SandboxLost(f"sandbox lost: {self.lost_reason}")
        self._num_oom_kills = max(self._num_oom_kills, self._seen_oom_kills)
        self._command_marker = _MARK + secret
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._write(payload)
            answer = await self._answer_within(self._reply, timeout_s + self._answer_timeout_s)
            return answer or await self._force_answer(timeout_s)
        except asyncio.CancelledError:
            self.lose("a command was cancelled while it ran")
            raise
        finally:
            self._reply = self._output = None
            self._command_marker = b""

    @staticmethod
    async def _answer_within(reply: asyncio.Future[Reply | None], timeout_s: float) -> Reply | None:
        """The answer; None when there is none in time.

        Not `wait_for`: before Python 3.12 that loses a cancellation that comes together with the answer.
        """
        timer = asyncio.get_running_loop().call_later(timeout_s, _give_up, reply)
        try:
            return await reply
        finally:
            timer.cancel()

    async def _force_answer(self, timeout_s: float) -> Reply:
        """The command's limit has passed without an answer, so that what enforces it may be stopped or misled."""
        self._reply = reply = asyncio.get_running_loop().create_future()
        problem = ""
        if self._interrupt is not None:
            try:
                async with asyncio.timeout(self._answer_timeout_s):
                    await self._interrupt()
                answer = await self._answer_within(reply, self._answer_timeout_s)
                if isinstance(answer, ShellEnded):
                    return replace(answer, killed_by=answer.killed_by or "timeout", has_begun=True)
                if answer is not None:
                    return answer
            except (SandboxError, TimeoutError) as error:  # its engine does not answer either, or process 1 is gone
                problem = f", and it cannot be interrupted: {error or 'no answer'}"
        self._reply = None
        self.lose(f"no answer within {timeout_s:g} s and {self._answer_timeout_s:g} s more{problem}")
        raise SandboxLost(f"sandbox lost: {self.lost_reason}")

    async def _settle(self) -> ShellEnded | None:
        """After a command that ended about when its time did: has the watchdog struck?"""
        self._settled = settled = asyncio.get_running_loop().create_future()
        self._write(b"\\_swegym_settle %b\n" % secrets.token_hex(8).encode())
        try:
            for is_last in (False, True):
                try:
                    async with asyncio.timeout(self._answer_timeout_s):
                        return await asyncio.shield(settled)
                except TimeoutError:
                    if not is_last and self._interrupt is not None:
                        await self._interrupt()  # a command may have stopped the watchdog: it goes on, and answers
            self.lose("its watchdog does not answer")
            raise SandboxLost(f"sandbox lost: {self.lost_reason}")
        except (SandboxError, OSError) as error:
            self.lose(f"its watchdog does not answer, and cannot be made to: {error}")
            raise SandboxLost(f"sandbox lost: {self.lost_reason}") from None
        finally:
            self._settled = None

    # --- what comes out of the sandbox ---------------------------------------------------------------------------

    def feed_data(self, data: bytes) -> None:
        """Take bytes of the data stream (stderr): file contents, and why a sandbox did not start."""
        seen = len(self._data)
        if not self._ready.done():
            self._data += data[: 65536 - seen]
            return
        if self._reply is None or self._output is not None:
            return
        self._data += data
        at = self._data.find(self._command_marker, max(0, seen - _LONGEST_MARKER_BYTES))
        end = self._data.find(_MARK, at + 1) if at >= 0 else -1
        if end >= 0:
            numbers = _numbers(self._data[at + len(self._command_marker) : end].split())
            if numbers:
                del self._data[at:]
                self._answer(Ended(numbers))

    def feed_output(self, data: bytes) -> None:
        """Take bytes of the channel (stdout): the command's output with our markers in it."""
        data = self._held + data
        self._held = b""
        while True:
            marker, at = self._first_marker(data)
            if marker is None:
                self._keep(data[:at])
                self._held = data[at:]
                return
            end = data.find(_MARK, at + 1)
            if end < 0 and len(data) - at <= _LONGEST_MARKER_BYTES:
                self._keep(data[:at])
                self._held = data[at:]
                return
            if end < 0 or not self._on_marker(marker, data[at + len(marker) : end].split(), data[:at]):
                # forged by somebody who read the secret from the channel: it is output like any other
                self._keep(data[: at + len(marker)])
                data = data[at + len(marker) :]
                continue
            data = data[end + 1 :]

    def feed_eof(self, reason: str) -> None:
        self.lose(reason)

    def _first_marker(self, data: bytes) -> tuple[bytes | None, int]:
        """The earliest marker and its place; without one, None and the place where one may be beginning."""
        best: bytes | None = None
        where = len(data)
        markers = [self._session_marker, *([self._command_marker] if self._command_marker else [])]
        for marker in markers:
            at = data.find(marker, 0, where)
            if at >= 0:
                best, where = marker, at
        if best is None:
            last = data.rfind(_MARK, max(0, len(data) - len(self._session_marker) + 1))
            if last >= 0 and any(marker.startswith(data[last:]) for marker in markers):
                where = last
        return best, where

    def _on_marker(self, marker: bytes, fields: list[bytes], before: bytes) -> bool:
        """Act on a marker behind this output; False when it is none of ours."""
        if marker == self._session_marker:
            self._keep(before)
            self._on_message(fields)
            return True
        numbers = _numbers(fields)
        if len(numbers) != 2:
            return False
        self._keep(before)
        self._answer(Ended(numbers))
        return True

    def _keep(self, data: bytes) -> None:
        if data and self._output is not None:
            self._output.add(data)

    def _answer(self, reply: Reply) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)
        self._output = None

    def _on_message(self, fields: list[bytes]) -> None:
        word, *numbers = fields
        if word == b"R" and not self._ready.done():
            self._ready.set_result(None)
        elif word == b"Y" and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        elif word == b"K":
            self._seen_oom_kills = int(numbers[0])
        elif word == b"X":
            status, reason, has_begun, num_oom_kills = map(int, numbers)
            reply = ShellEnded(status, _REASONS[reason], bool(has_begun), num_oom_kills)
            self._write(b"\nsync %b\n" % self._secret.encode())
            if self._settled is not None and not self._settled.done():
                self._settled.set_result(reply)
            elif self._reply is not None and not self._reply.done():
                self._answer(reply)
                if not has_begun:
                    self._ended_while_idle = reply
            else:
                self._ended_while_idle = reply


def _give_up(reply: asyncio.Future[Reply | None]) -> None:
    if not reply.done():
        reply.set_result(None)


def _numbers(fields: list[bytes] | list[bytearray]) -> tuple[int, ...]:
    """Fields as numbers; empty when one is none."""
    return tuple(map(int, fields)) if all(field.isdigit() and len(field) < 12 for field in fields) else ()
