"""The pure parts: output buffer, frames of an attach stream, markers cut anywhere, digests, argument vectors."""

from __future__ import annotations

import asyncio
import random

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.envs.sandboxes.docker import FrameParser
from swegym.envs.sandboxes.output import OutputBuffer
from swegym.envs.sandboxes.session import ShellSession


@pytest.mark.parametrize(
    ("limit_bytes", "chunks", "kept", "left_out"),
    [
        (10, [], b"", 0),
        (10, [b"abc", b"defghij"], b"abcdefghij", 0),
        (10, [b"abc", b"defghijk"], b"abcdeghijk", 1),
        (5, [b"0123456789"], b"01289", 5),
        (5, [b"0", b"1", b"2", b"3", b"4", b"5", b"6"], b"01256", 2),
        (1, [b"xyz"], b"x", 2),
        (0, [b"xyz"], b"", 3),
        (4, [b"ab", b"", b"c" * 100, b"d"], b"abcd", 99),
    ],
)
def test_output_buffer(limit_bytes: int, chunks: list[bytes], kept: bytes, left_out: int) -> None:
    buffer = OutputBuffer(limit_bytes)
    for chunk in chunks:
        buffer.add(chunk)
    assert buffer.result() == (kept, left_out)


def test_output_buffer_against_the_definition() -> None:
    generator = random.Random(3)
    for _ in range(200):
        limit = generator.randrange(0, 40)
        chunks = [generator.randbytes(generator.randrange(0, 15)) for _ in range(generator.randrange(0, 12))]
        buffer = OutputBuffer(limit)
        for chunk in chunks:
            buffer.add(chunk)
        whole, head = b"".join(chunks), (limit + 1) // 2
        kept = whole if len(whole) <= limit else whole[:head] + whole[len(whole) - (limit - head) :]
        assert buffer.result() == (kept, len(whole) - len(kept))


def test_frames_cut_anywhere() -> None:
    frames = [(1, b"hello"), (2, b"x" * 300), (1, b""), (1, b"end")]
    raw = b"".join(bytes([stream, 0, 0, 0]) + len(data).to_bytes(4) + data for stream, data in frames)
    for size in (1, 2, 3, 7, 8, 9, 100, len(raw)):
        parser = FrameParser()
        pieces = [piece for at in range(0, len(raw), size) for piece in parser.feed(raw[at : at + size])]
        for stream in (1, 2):
            got = b"".join(data for number, data in pieces if number == stream)
            assert got == b"".join(data for number, data in frames if number == stream)


async def started() -> tuple[ShellSession, list[bytes]]:
    written: list[bytes] = []
    session = ShellSession(written.append, lambda reason: None)
    starting = asyncio.create_task(session.start(ulimits={}, timeout_s=5))
    await asyncio.sleep(0)
    session.feed_output(session._session_marker + b" R\x1e")
    await starting
    return session, written


@pytest.mark.parametrize("size", [1, 2, 5, 33, 1000])
async def test_markers_cut_anywhere(size: int) -> None:
    session, written = await started()
    running = asyncio.create_task(session.run("x", timeout_s=5, limit_bytes=1000))
    await asyncio.sleep(0)
    secret = written[-1].split()[-1]
    fake = b"\x1e" + secret[:-1] + b"? 0 0\x1e"
    stream = b"before\x1e\x1e" + fake + b"\x1e" + b"\x1e" + secret + b" 7 0\x1e" + b"noise after the end"
    for at in range(0, len(stream), size):
        session.feed_output(stream[at : at + size])
    result = await running
    assert (result.output, result.exit_code) == (b"before\x1e\x1e" + fake + b"\x1e", 7)


async def test_a_command_that_met_a_dead_shell_is_sent_again() -> None:
    session, written = await started()
    running = asyncio.create_task(session.run("x", timeout_s=5, limit_bytes=1000))
    await asyncio.sleep(0)
    first = written[-1]
    session.feed_output(b"not this command's" + session._session_marker + b" X 137 0 0 0\x1e")
    await asyncio.sleep(0.01)
    assert written[-2].startswith(b"\nsync ")
    assert written[-1].split()[:3] == first.split()[:3]
    session.feed_output(b"output\x1e" + written[-1].split()[-1] + b" 0 0\x1e")
    result = await running
    assert (result.output, result.exit_code, result.shell_restarted) == (b"output", 0, True)


async def test_end_of_the_channel_is_loss() -> None:
    session, _ = await started()
    running = asyncio.create_task(session.run("x", timeout_s=5, limit_bytes=1000))
    await asyncio.sleep(0)
    session.feed_eof("its first process ended")
    with pytest.raises(SandboxLost, match="first process ended"):
        await running
    with pytest.raises(SandboxLost):
        await session.run("x", timeout_s=5, limit_bytes=1000)


async def test_end_of_the_channel_before_the_start() -> None:
    session = ShellSession(lambda data: None, lambda reason: None)
    starting = asyncio.create_task(session.start(ulimits={}, timeout_s=5))
    await asyncio.sleep(0)
    session.feed_data(b"bwrap: no\n")
    session.feed_eof("its first process ended")
    with pytest.raises(SandboxError, match="did not start: bwrap: no"):
        await starting
