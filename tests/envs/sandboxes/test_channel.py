"""The host's side of the channel alone: markers that are forged or never end, answers that do not come."""

from __future__ import annotations

import asyncio

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import ExecResult
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.session import ShellSession


class Inside:
    """What a sandbox would be: takes what is written, says what a test has it say."""

    def __init__(self, *, answers: bool = True) -> None:
        self.written: list[bytes] = []
        self.interrupts = 0
        self.answers = answers
        self.lost: list[str] = []
        config = SandboxConfig(answer_timeout_s=0.05)
        self.session = ShellSession(self.written.append, self.lost.append, self.interrupt, config)

    async def interrupt(self) -> None:
        self.interrupts += 1
        if not self.answers:
            raise SandboxError("no engine")
        self.say(b"X 137 1 1 0")

    def say(self, message: bytes) -> None:
        self.session.feed_output(self.session._session_marker + b" " + message + b"\x1e")

    async def start(self) -> None:
        starting = asyncio.create_task(self.session.start(ulimits={}, timeout_s=5))
        await asyncio.sleep(0)
        self.say(b"R")
        await starting

    async def run(self, command: str = "x", timeout_s: float = 5.0) -> tuple[asyncio.Task[ExecResult], bytes]:
        """The running command and its marker."""
        running = asyncio.create_task(self.session.run(command, timeout_s=timeout_s, limit_bytes=10_000))
        await asyncio.sleep(0)
        return running, b"\x1e" + self.written[-1].split()[-1]


@pytest.fixture
async def inside() -> Inside:
    made = Inside()
    await made.start()
    return made


@pytest.mark.parametrize("fields", [b"", b" ", b" 0", b" 0 0 0", b" x y", b" -1 0", b" 0 1e9", b" 9999999999999999 0"])
async def test_a_marker_with_wrong_fields_is_output(inside: Inside, fields: bytes) -> None:
    running, marker = await inside.run()
    forged = marker + fields + b"\x1e"
    inside.session.feed_output(b"a" + forged + b"b" + marker + b" 3 0\x1e")
    result = await running
    assert (result.output, result.exit_code) == (b"a" + forged + b"b", 3)


async def test_a_marker_without_end_is_output_and_takes_no_memory(inside: Inside) -> None:
    running, marker = await inside.run()
    inside.session.feed_output(marker)
    for _ in range(1000):
        inside.session.feed_output(b"a" * 1000)
        assert len(inside.session._held) < 2000
    inside.session.feed_output(marker + b" 0 0\x1e")
    result = await running
    assert result.output.startswith(marker + b"aaa")
    assert result.truncated_bytes == len(marker) + 1_000_000 - 10_000


async def test_a_kill_for_memory_belongs_to_the_command_it_happened_in(inside: Inside) -> None:
    async def run(end: bytes) -> ExecResult:
        running, marker = await inside.run()
        inside.session.feed_output(marker + end)
        return await running

    assert (await run(b" 1 0\x1e")).killed_by is None
    assert (await run(b" 2 1\x1e")).killed_by == "oom"
    assert (await run(b" 1 1\x1e")).killed_by is None
    inside.say(b"K 3")  # in a command that succeeded, or in a job between commands
    assert (await run(b" 137 3\x1e")).killed_by is None
    running, marker = await inside.run()
    inside.say(b"K 4")  # this command's, it may be
    inside.session.feed_output(marker + b" 1 4\x1e")
    assert (await running).killed_by == "oom"
    assert (await run(b" 153 5\x1e")).killed_by == "disk"


async def test_without_an_answer_process_1_is_told(inside: Inside) -> None:
    running, _ = await inside.run(timeout_s=0.01)
    result = await running
    assert (result.exit_code, result.killed_by, inside.interrupts, inside.lost) == (124, "timeout", 1, [])


async def test_without_an_answer_to_that_it_is_lost() -> None:
    inside = Inside(answers=False)
    await inside.start()
    running, _ = await inside.run(timeout_s=0.01)
    with pytest.raises(SandboxLost, match=r"no answer within 0.01 s and 0.05 s more, and .* interrupted: no engine"):
        await running
    assert (inside.interrupts, len(inside.lost)) == (1, 1)


async def test_closing_while_process_1_is_told(inside: Inside) -> None:
    async def hang() -> None:
        inside.interrupts += 1
        await asyncio.sleep(0.02)
        inside.session.lose("it was closed")

    inside.session._interrupt = hang
    running, _ = await inside.run(timeout_s=0.01)
    with pytest.raises(SandboxLost, match="it was closed"):
        await running
    assert inside.interrupts == 1
