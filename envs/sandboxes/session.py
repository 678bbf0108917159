"""Host side of the shell protocol: one persistent bash behind one channel, for every back end.

The inside is `shell/supervisor.sh` and `shell/agent_shell.sh`; how they talk is written there. A back end only moves
bytes: it hands `write` to the session and feeds it what comes out of the sandbox. No thread, no process and no timer
exists per session, so a thousand of them share one event loop.

Output written while no command runs (by a background job) is dropped; while one runs it is part of that command's.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

from swegym.core.errors import ConfigError, SandboxError, SandboxLost
from swegym.core.sandbox import ExecResult, KilledBy
from swegym.envs.sandboxes.output import OutputBuffer

__all__ = ["BOOTSTRAP", "BACKSTOP_S", "ShellSession"]

BOOTSTRAP = ["bash", "-c", 'IFS= read -r n; IFS= read -rN "$n" s; eval "$s"', "swegym"]
"""Argument vector of a sandbox's first process; it reads the supervisor's text from the channel."""
BACKSTOP_S = 10.0
"""Beyond a command's own limit, enforced inside, the host waits this long before it declares the sandbox lost."""

_MARK = b"\x1e"
_LONGEST_MARKER_BYTES = 256
# Words of commands that may end the shell without its EXIT trap: the state is saved before them, which costs 1 ms.
_MAY_SKIP_EXIT_TRAP = re.compile(r"\b(exec|kill|killall|pkill|trap)\b")
# bash 5.2 corrupts its heap when one of these is not closed, and dies some commands later. A command with one is parsed
# in a subshell first, which costs 0.5 ms; `set -n` as its first command keeps the rest from being executed.
_MAY_CORRUPT_PARSER = re.compile(r"[$<>]\(")
_REDIRECTIONS = b" </dev/null >&61 2>&61 58>&- 60>&- 61>&-"
_PARSE_FIRST = (
    b'(\\builtin trap - EXIT ERR DEBUG;\\builtin shopt -s extglob;\\builtin eval -- "set -n;$_swegym")'
    + _REDIRECTIONS
    + b"||\\_swegym_refuse;\\_swegym_resume;"
)


@dataclass(frozen=True, slots=True)
class _Ended:
    """The command ended by itself. `numbers`: exit code, number of OOM kills; for a file operation only a status."""

    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _ShellEnded:
    """The shell ended, and with it the command."""

    status: int
    has_timed_out: bool
    has_begun: bool
    """False: the shell was gone before it saw the command."""
    num_oom_kills: int


_Reply = _Ended | _ShellEnded


class ShellSession:
    """One shell. Coroutines wait for each other, so that one command runs at a time.

    Args:
        write: takes bytes for the sandbox's stdin.
        on_lost: called once, when the sandbox no longer answers, with the reason.
    """

    def __init__(self, write: Callable[[bytes], None], on_lost: Callable[[str], None]) -> None:
        self._write = write
        self._on_lost = on_lost
        self._secret = secrets.token_hex(16)
        self._session_marker = _MARK + self._secret.encode()
        self._command_marker = b""
        self._held = b""
        self._output: OutputBuffer | None = None
        self._data = bytearray()
        self._reply: asyncio.Future[_Reply] | None = None
        self._settled: asyncio.Future[_ShellEnded | None] | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lock = asyncio.Lock()
        self._num_oom_kills = 0
        self._ended_while_idle: _ShellEnded | None = None
        self.lost_reason: str | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    async def start(self, *, ulimits: dict[str, int | None], timeout_s: float) -> None:
        """Send the supervisor its text and wait until it runs.

        Args:
            ulimits: keys data_kib, num_processes, file_kib; None is no limit.
            timeout_s: wall time.

        Raises:
            SandboxError: it did not come up; holds what the sandbox printed.
        """
        values = {key: "" if value is None else str(value) for key, value in ulimits.items()}
        values |= {"session": self._secret, "shell_start": _script("agent_shell.sh")}
        header = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        text = header + _script("supervisor.sh")
        self._write(b"%d\n" % len(text) + text.encode("ascii"))
        try:
            await asyncio.wait_for(asyncio.shield(self._ready), timeout_s)
        except TimeoutError:
            self.lose(f"it did not start within {timeout_s:g} s")
        if self.lost_reason is not None:
            printed = self._data.decode(errors="replace").strip()
            raise SandboxError(f"the sandbox did not start: {printed or self.lost_reason}")
        self._data.clear()

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

    # --- commands ------------------------------------------------------------------------------------------------

    async def run(self, command: str, *, timeout_s: float, limit_bytes: int) -> ExecResult:
        """See `Sandbox.run`. Raises ConfigError for a NUL byte or a limit that is not positive."""
        if "\0" in command:
            raise ConfigError("a command cannot contain a NUL byte (bash strings end there); write a file instead")
        if not (math.isfinite(timeout_s) and timeout_s > 0) or limit_bytes < 0:
            raise ConfigError(f"timeout_s must be finite and > 0 and limit_bytes >= 0, got {timeout_s}, {limit_bytes}")
        text = (command or "\n").encode("utf-8", errors="surrogateescape")
        save_first, parse_first = (bool(words.search(command)) for words in (_MAY_SKIP_EXIT_TRAP, _MAY_CORRUPT_PARSER))
        begin = b"\\_swegym_begin %d %d %d;" % (len(text), math.ceil(timeout_s * 100), save_first)
        begin += (_PARSE_FIRST if parse_first else b"") + b'\\builtin eval -- "$_swegym"' + _REDIRECTIONS + b"\n"
        async with self._lock:
            is_new_shell, self._ended_while_idle = self._ended_while_idle is not None, None
            started = time.perf_counter()
            reply, output = await self._exchange(begin + text, timeout_s, limit_bytes)
            duration_s = time.perf_counter() - started
            if isinstance(reply, _Ended) and duration_s >= timeout_s:
                reply = self._ended_while_idle or await self._settle() or reply
            is_new_shell |= self._ended_while_idle is not None or isinstance(reply, _ShellEnded)
            self._ended_while_idle = None
            return self._result(reply, output, duration_s, is_new_shell)

    async def save_state(self) -> None:
        """Have the shell write its state to /tmp/.swegym, where a shell in a copy of the file system finds it."""
        async with self._lock:
            await self._exchange(b"(\\_swegym_save)\n", 60.0, 0)

    def _result(self, reply: _Reply, output: OutputBuffer, duration_s: float, is_new_shell: bool) -> ExecResult:
        kept, truncated_bytes = output.result()
        killed_by: KilledBy | None = None
        if isinstance(reply, _ShellEnded):
            exit_code = 124 if reply.has_timed_out else reply.status
            killed_by = "timeout" if reply.has_timed_out else None
            num_oom_kills = reply.num_oom_kills
        else:
            exit_code, num_oom_kills = reply.numbers
        if exit_code == 137 and num_oom_kills > self._num_oom_kills:
            killed_by = "oom"
        self._num_oom_kills = max(self._num_oom_kills, num_oom_kills)
        return ExecResult(kept, exit_code, duration_s, truncated_bytes, killed_by, is_new_shell)

    async def _exchange(self, payload: bytes, timeout_s: float, limit_bytes: int) -> tuple[_Reply, OutputBuffer]:
        """Send one command and wait for its end. A command that met a dead shell is sent again to the next one."""
        for _ in range(5):
            secret = secrets.token_hex(16).encode()
            output = self._output = OutputBuffer(limit_bytes)
            reply = await self._send(payload + b"\\_swegym_end $? %b\n" % secret, secret, timeout_s)
            if isinstance(reply, _Ended) or reply.has_begun:
                return reply, output
        self.lose("its shell keeps ending before a command begins")
        raise SandboxLost(f"sandbox lost: {self.lost_reason}")

    async def _send(self, payload: bytes, secret: bytes, timeout_s: float) -> _Reply:
        if self.lost_reason is not None:
            raise SandboxLost(f"sandbox lost: {self.lost_reason}")
        self._command_marker = _MARK + secret
        self._reply = asyncio.get_running_loop().create_future()
        try:
            self._write(payload)
            return await asyncio.wait_for(self._reply, timeout_s + BACKSTOP_S)
        except TimeoutError:
            self.lose(f"no answer within {timeout_s:g} s and {BACKSTOP_S:g} s more")
            raise SandboxLost(f"sandbox lost: {self.lost_reason}") from None
        except asyncio.CancelledError:
            self.lose("a command was cancelled while it ran")
            raise
        finally:
            self._reply = self._output = None
            self._command_marker = b""

    async def _settle(self) -> _ShellEnded | None:
        """After a command that ended about when its time did: has the watchdog struck?"""
        self._settled = asyncio.get_running_loop().create_future()
        try:
            self._write(b"\\_swegym_settle %b\n" % secrets.token_hex(8).encode())
            return await asyncio.wait_for(self._settled, BACKSTOP_S)
        except TimeoutError:
            self.lose("its watchdog does not answer")
            raise SandboxLost(f"sandbox lost: {self.lost_reason}") from None
        finally:
            self._settled = None

    # --- files ---------------------------------------------------------------------------------------------------

    async def read_file(self, path: str, *, timeout_s: float = 120.0) -> bytes:
        """See `Sandbox.read_file`; a relative path starts at the shell's working directory."""
        name = _path_bytes(path)
        line = b"\\_swegym_read %d %d " % (len(name), math.ceil(timeout_s * 100))
        status, data = await self._transfer(lambda secret: line + secret + b"\n" + name, timeout_s, f"reading {path}")
        if status == 2:
            raise FileNotFoundError(f"no file {path!r} in the sandbox")
        if status == 3:
            raise SandboxError(f"{path!r} is not a regular file")
        if status:
            raise SandboxError(f"cannot read {path!r}: {data.decode(errors='replace').strip()}")
        return data

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644, timeout_s: float = 120.0) -> None:
        """See `Sandbox.write_file`; `mode` is that of a new file, an existing one keeps its own."""
        name = _path_bytes(path)
        timeout_s += len(data) / 2**20  # 1 MB/s at the very least
        umask, chmod = 0o777 & ~mode, f"{mode:o}" if mode & 0o111 else "''"
        last_line = f": {secrets.token_hex(16)}"
        line = f"\\_swegym_write {len(name)} {len(data)} {umask:o} {chmod} {math.ceil(timeout_s * 100)} '{last_line}' "
        tail = f"\n{last_line}\n".encode()
        status, message = await self._transfer(
            lambda secret: line.encode() + secret + b"\n" + name + data + tail, timeout_s, f"writing {path}"
        )
        if status:
            raise SandboxError(f"cannot write {path!r}: {message.decode(errors='replace').strip()}")

    async def _transfer(self, payload: Callable[[bytes], bytes], timeout_s: float, what: str) -> tuple[int, bytes]:
        async with self._lock:
            for _ in range(5):
                secret = secrets.token_hex(16).encode()
                self._data.clear()
                reply = await self._send(payload(secret), secret, timeout_s)
                if isinstance(reply, _Ended):
                    data = bytes(self._data)
                    self._data.clear()
                    return reply.numbers[0], data
                if reply.has_begun:
                    raise SandboxError(f"{what}: {'out of time' if reply.has_timed_out else 'its shell was killed'}")
            raise SandboxError(f"{what}: its shell keeps ending")

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
            numbers = self._data[at + len(self._command_marker) : end]
            del self._data[at:]
            self._answer(_Ended(tuple(map(int, numbers.split()))))

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
            self._keep(data[:at])
            if end < 0:
                self._held = data[at:]
                return
            fields = data[at + len(marker) : end].split()
            data = data[end + 1 :]
            if marker == self._session_marker:
                self._on_message(fields)
            else:
                self._answer(_Ended(tuple(map(int, fields))))

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

    def _keep(self, data: bytes) -> None:
        if data and self._output is not None:
            self._output.add(data)

    def _answer(self, reply: _Reply) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)
        self._output = None

    def _on_message(self, fields: list[bytes]) -> None:
        word, *numbers = fields
        if word == b"R" and not self._ready.done():
            self._ready.set_result(None)
        elif word == b"Y" and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        elif word == b"X":
            status, has_timed_out, has_begun, num_oom_kills = map(int, numbers)
            reply = _ShellEnded(status, bool(has_timed_out), bool(has_begun), num_oom_kills)
            self._write(b"\nsync %b\n" % self._secret.encode())
            if self._settled is not None and not self._settled.done():
                self._settled.set_result(reply)
            elif self._reply is not None and not self._reply.done():
                self._answer(reply)
                if not has_begun:
                    self._ended_while_idle = reply
            else:
                self._ended_while_idle = reply


def _path_bytes(path: str) -> bytes:
    if not path or "\0" in path:
        raise SandboxError(f"not a path: {path!r}")
    return path.encode("utf-8", errors="surrogateescape")


def _script(name: str) -> str:
    return files("swegym.envs.sandboxes").joinpath("shell", name).read_text(encoding="ascii")
