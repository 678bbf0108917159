"""Host side of the shell protocol: one persistent bash behind one channel, for every back end.

The inside is `shell/supervisor.sh`, `inspector.sh` and `agent_shell.sh`; how they talk is written there. A back end
only moves bytes: it hands `write` to the session and feeds it what comes out of the sandbox. No thread, no process and
no timer exists per session, so a thousand of them share one event loop.

Output written while no command runs (by a background job) is dropped; while one runs it is part of that command's.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import shlex
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Protocol

from swegym.core.errors import ConfigError, SandboxError, SandboxLost
from swegym.core.sandbox import ExecResult, KilledBy
from swegym.envs.sandboxes.channel import Channel, Ended, Reply, ShellEnded
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.output import OutputBuffer

__all__ = ["BOOTSTRAP", "INTERRUPT_SIGNAL", "Request", "ShellSession"]

BOOTSTRAP = ["bash", "-c", 'IFS= read -r n; IFS= read -rN "$n" s; eval "$s"', "swegym"]
"""Argument vector of a sandbox's first process; it reads the supervisor's text from the channel."""
INTERRUPT_SIGNAL = int(signal.SIGUSR2)
"""Sent to process 1, has it end whatever keeps an answer from coming."""
_SIGXFSZ_EXIT = 128 + 25
_LOWERED_LIMITS = 5
_WHY_NOT: dict[KilledBy | None, str] = {"timeout": "out of time", "disk": "the disk limit is reached"}
# Words of commands that may end the shell without its EXIT trap: the state is saved before them, which costs 1 ms.
_MAY_SKIP_EXIT_TRAP = re.compile(r"\b(exec|kill|killall|pkill|trap)\b")
# bash 5.2 corrupts its heap when one of these is not closed, and dies some commands later. A command with one is parsed
# in a subshell first, which costs 0.5 ms; `set -n` as its first command keeps the rest from being executed.
_MAY_CORRUPT_PARSER = re.compile(r"[$<>]\(")
_REDIRECTIONS = b" </dev/null >&31 2>&31 38>&- 30>&- 31>&-"
_PARSE_FIRST = (
    b'(\\builtin trap - EXIT ERR DEBUG;\\builtin shopt -s extglob;\\builtin eval -- "set -n;$_swegym")'
    + _REDIRECTIONS
    + b"||\\_swegym_refuse;\\_swegym_resume;"
)


class Request(Protocol):
    """One request of a `ShellSession.dialogue`."""

    async def __call__(self, words: str, data: bytes = b"") -> bytes: ...


class ShellSession(Channel):
    """One shell. Coroutines wait for each other, so that one command runs at a time.

    Args:
        write: takes bytes for the sandbox's stdin.
        on_lost: called once, when the sandbox no longer answers, with the reason.
        interrupt: see `Channel`.
        config: the time limits of what is not a command.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        on_lost: Callable[[str], None],
        interrupt: Callable[[], Awaitable[None]] | None = None,
        config: SandboxConfig | None = None,
    ) -> None:
        self._config = config or SandboxConfig()
        super().__init__(write, on_lost, interrupt, self._config.answer_timeout_s)
        self._lock = asyncio.Lock()

    async def start(
        self, *, ulimits: dict[str, int | None], writable: Sequence[str] = ("/",), timeout_s: float
    ) -> None:
        """Send the supervisor its text and wait until it runs.

        Args:
            ulimits: keys data_kib, num_processes, file_kib, disk_kib; None is no limit.
            writable: folders, each a mount or part of the one before, where commands can write; for disk_kib.
            timeout_s: wall time.

        Raises:
            SandboxError: it did not come up; holds what the sandbox printed.
        """
        values = {key: "" if value is None else str(value) for key, value in ulimits.items()}
        values |= {"session": self._secret, "shell_start": _script("agent_shell.sh")}
        values |= {"inspection": _script("inspector.sh"), "writable": "\n".join(writable)}
        header = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        text = header + _script("supervisor.sh")
        self._write(b"%d\n" % len(text) + text.encode("ascii"))
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self.lose(f"it did not start within {timeout_s:g} s")
        if self.lost_reason is not None:
            printed = self._data.decode(errors="replace").strip()
            raise SandboxError(f"the sandbox did not start: {printed or self.lost_reason}")
        self._data.clear()

    # --- commands ------------------------------------------------------------------------------------------------

    async def run(self, command: str, *, timeout_s: float, limit_bytes: int) -> ExecResult:
        """See `Sandbox.run`. Raises ConfigError for a NUL byte or a limit that is not positive."""
        if "\0" in command:
            raise ConfigError("a command cannot contain a NUL byte (bash strings end there); write a file instead")
        if not (math.isfinite(timeout_s) and timeout_s > 0) or limit_bytes < 0:
            raise ConfigError(f"timeout_s must be finite and > 0 and limit_bytes >= 0, got {timeout_s}, {limit_bytes}")
        text = (command or "\n").encode("utf-8", errors="surrogateescape")
        save_first, parse_first = (bool(words.search(command)) for words in (_MAY_SKIP_EXIT_TRAP, _MAY_CORRUPT_PARSER))
        begin = b"\\_swegym_begin %d %d %d $?;" % (
            len(text),
            math.ceil(timeout_s * 100),
            save_first + 2 * (not text.isascii()),
        )
        begin += (_PARSE_FIRST if parse_first else b"") + b'\\builtin eval -- "$_swegym"' + _REDIRECTIONS + b"\n"
        async with self._lock:
            is_new_shell, self._ended_while_idle = self._ended_while_idle is not None, None
            started = time.perf_counter()
            reply, output = await self._exchange(begin + text, timeout_s, limit_bytes)
            duration_s = time.perf_counter() - started
            if isinstance(reply, Ended) and duration_s >= timeout_s:
                reply = self._ended_while_idle or await self._settle() or reply
            is_new_shell |= self._ended_while_idle is not None or isinstance(reply, ShellEnded)
            self._ended_while_idle = None
            return self._result(reply, output, duration_s, is_new_shell)

    @asynccontextmanager
    async def dialogue(self) -> AsyncIterator[Request]:
        """Nothing but requests to `shell/copier.sh` until the end; the shell's state is in /tmp/.swegym meanwhile.

        A request is words of that script and the bytes that they take from the channel. It returns what they print;
        raises SandboxError when their status is not 0, SandboxLost.
        """
        script = shlex.quote(_script("copier.sh")).encode()
        line = b'_swegym_status=$?;(\\_swegym_save live "$@")||\\builtin :;'
        line += b"(\\builtin eval -- %b)%b||\\builtin :;\\_swegym_resume\n"
        async with self._lock:
            await self._request(line % (script, b" 30>&- 31>&-"), "_swegym_hello")
            try:
                yield lambda words, data=b"": self._request(b"", words, data)
            finally:
                self._write(b"\n")

    async def _request(self, before: bytes, words: str, data: bytes = b"") -> bytes:
        for _ in range(5):
            secret = secrets.token_hex(16).encode()
            self._data.clear()
            payload = before + secret + b" " + words.encode() + b"\n" + data
            reply = await self._send(payload, secret, self._config.copy_timeout_s + len(data) / 2**20)
            if isinstance(reply, Ended):
                printed = bytes(self._data)
                self._data.clear()
                if reply.numbers[0] == 0:
                    return printed
                raise SandboxError(f"copying a sandbox: `{words}` failed with status {reply.numbers[0]}")
            if not before:
                break
        raise SandboxError("copying a sandbox: its shell ended meanwhile")

    async def restart_shell(self) -> None:
        """Start the shell anew from the state that /tmp/.swegym holds, which this shell does not save its own over."""
        async with self._lock:
            await self._send(b"\\builtin kill -KILL $$\n", secrets.token_hex(16).encode(), self._config.copy_timeout_s)
            self._ended_while_idle = None

    def _result(self, reply: Reply, output: OutputBuffer, duration_s: float, is_new_shell: bool) -> ExecResult:
        kept, truncated_bytes = output.result()
        killed_by: KilledBy | None = None
        if isinstance(reply, ShellEnded):
            killed_by = reply.killed_by
            exit_code = {"timeout": 124, "disk": 137}.get(killed_by or "", reply.status)
            num_oom_kills = reply.num_oom_kills
        else:
            exit_code, num_oom_kills = reply.numbers
        if exit_code == _SIGXFSZ_EXIT:
            killed_by = "disk"  # one file as large as the whole limit
        if exit_code and killed_by is None and num_oom_kills > self._num_oom_kills:
            killed_by = "oom"
        self._num_oom_kills = max(self._num_oom_kills, num_oom_kills)
        return ExecResult(kept, exit_code, duration_s, truncated_bytes, killed_by, is_new_shell)

    async def _exchange(self, payload: bytes, timeout_s: float, limit_bytes: int) -> tuple[Reply, OutputBuffer]:
        """Send one command and wait for its end. A command that met a dead shell is sent again to the next one."""
        for _ in range(5):
            secret = secrets.token_hex(16).encode()
            output = self._output = OutputBuffer(limit_bytes)
            reply = await self._send(payload + b'\\_swegym_end "$?" %b\n' % secret, secret, timeout_s)
            if isinstance(reply, Ended) or reply.has_begun:
                return reply, output
        self.lose("its shell keeps ending before a command begins")
        raise SandboxLost(f"sandbox lost: {self.lost_reason}")

    # --- files ---------------------------------------------------------------------------------------------------

    async def read_file(self, path: str) -> bytes:
        """See `Sandbox.read_file`; a relative path starts at the shell's working directory."""
        name = _path_bytes(path)
        timeout_s, max_bytes = self._config.file_timeout_s, self._config.max_file_bytes
        line = b"\\_swegym_read %d %d %d " % (len(name), math.ceil(timeout_s * 100), max_bytes + 1)
        status, data = await self._transfer(lambda secret: line + secret + b"\n" + name, timeout_s, f"reading {path}")
        if status == 2:
            raise FileNotFoundError(f"no file {path!r} in the sandbox")
        if status == 3:
            raise SandboxError(f"{path!r} is not a regular file")
        if status:
            raise SandboxError(f"cannot read {path!r}: {data.decode(errors='replace').strip()}")
        if len(data) > max_bytes:
            raise SandboxError(f"{path!r} is larger than {max_bytes} bytes (sandbox.max_file_bytes)")
        return data

    async def write_file(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """See `Sandbox.write_file`; `mode` is that of a new file, an existing one keeps its own."""
        name = _path_bytes(path)
        timeout_s = self._config.file_timeout_s + len(data) / 2**20  # 1 MB/s at the very least
        umask, chmod = 0o777 & ~mode, f"{mode:o}" if mode & 0o111 else "''"
        last_line = f"# {secrets.token_hex(16)}"
        line = f"\\_swegym_write {len(name)} {len(data)} {umask:o} {chmod} {math.ceil(timeout_s * 100)} '{last_line}' "
        tail = f"\n{last_line}\n".encode()
        status, message = await self._transfer(
            lambda secret: line.encode() + secret + b"\n" + name + data + tail, timeout_s, f"writing {path}"
        )
        if status:
            raise SandboxError(f"cannot write {path!r}: {message.decode(errors='replace').strip()}")

    async def _transfer(self, payload: Callable[[bytes], bytes], timeout_s: float, what: str) -> tuple[int, bytes]:
        """A file operation's status and data. A shell that gave itself too low limits is replaced and asked again."""
        is_renewed = False
        async with self._lock:
            for _ in range(5):
                secret = secrets.token_hex(16).encode()
                self._data.clear()
                reply = await self._send(payload(secret), secret, timeout_s)
                if isinstance(reply, Ended):
                    data = bytes(self._data)
                    self._data.clear()
                    if reply.numbers[0] != _LOWERED_LIMITS or is_renewed:
                        return reply.numbers[0], data
                    is_renewed = True
                    await self._send(b"\\_swegym_quit\n", secrets.token_hex(16).encode(), timeout_s)
                elif reply.has_begun:
                    if reply.killed_by is not None or is_renewed:
                        raise SandboxError(f"{what}: {_WHY_NOT.get(reply.killed_by, 'its shell was killed')}")
                    is_renewed = True
            raise SandboxError(f"{what}: its shell keeps ending")


def _path_bytes(path: str) -> bytes:
    if not path or "\0" in path:
        raise SandboxError(f"not a path: {path!r}")
    return path.encode("utf-8", errors="surrogateescape")


def _script(name: str) -> str:
    return files("swegym.envs.sandboxes").joinpath("shell", name).read_text(encoding="ascii")
