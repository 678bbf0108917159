"""A cancellation that comes together with a command's reply is a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from swegym.core.sandbox import SandboxProvider, SandboxSpec
from swegym.envs.sandboxes.base import ShellSandbox


async def test_cancellation_is_not_lost_to_a_reply_that_has_just_come(
    provider: SandboxProvider, spec: SandboxSpec
) -> None:
    sandbox = await provider.create(spec)
    assert isinstance(sandbox, ShellSandbox)
    running = asyncio.create_task(sandbox.run("true"))
    while (reply := sandbox.session._reply) is None or not reply.done():
        await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
