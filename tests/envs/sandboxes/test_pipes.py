"""Pipes under both event loops: bytes, back-pressure, and descriptors that are closed exactly once."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swegym.envs.sandboxes.pipes import PipeReader, PipeWriter

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def _uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, _uvloop])
def test_a_megabyte_crosses_and_the_end_is_seen(factory: LoopFactory) -> None:
    payload = os.urandom(1_000_003)

    async def cross() -> bytes:
        reading, writing = os.pipe()
        received, ended = bytearray(), asyncio.Event()
        writer = PipeWriter(writing)
        reader = PipeReader(reading, received.extend, ended.set)
        writer.write(payload[:7])
        writer.write(payload[7:])  # more than a pipe holds: the rest waits
        while len(received) < len(payload):
            await asyncio.sleep(0.001)
        writer.close()
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)
        reader.close()
        writer.write(b"nobody reads this")
        return bytes(received)

    loop = factory()
    try:
        assert loop.run_until_complete(cross()) == payload
    finally:
        loop.close()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, _uvloop])
def test_other_threads_keep_their_descriptors(factory: LoopFactory) -> None:
    """A descriptor closed twice closes the file that another thread opened in between."""
    stop, faults = threading.Event(), []

    def open_files() -> None:
        while not stop.is_set():
            try:
                with Path("/dev/null").open("rb") as file:
                    file.read()
            except OSError as error:
                faults.append(error)

    async def churn() -> None:
        for _ in range(300):
            reading, writing = os.pipe()
            reader, writer = PipeReader(reading, lambda _: None, lambda: None), PipeWriter(writing)
            writer.write(b"x")
            await asyncio.sleep(0)
            reader.close()
            writer.close()

    thread = threading.Thread(target=open_files)
    thread.start()
    loop = factory()
    try:
        loop.run_until_complete(churn())
    finally:
        stop.set()
        thread.join()
        loop.close()
    assert not faults


def test_a_reader_that_is_gone_ends_the_writer_quietly() -> None:
    async def write() -> None:
        reading, writing = os.pipe()
        os.close(reading)
        PipeWriter(writing).write(b"x" * 10)

    asyncio.run(write())
