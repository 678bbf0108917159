"""Copies what one sandbox changed into a fresh one of the same image, through the channels of their shells.

Nothing of an engine is used: the origin archives what changed since it began (by change time, so nothing that an agent
does to a file escapes) and the copy removes what the origin removed, then unpacks. No image is made, so a fork of a
fork of a fork is as fast as the first one; hard links, sparse files and extended attributes stay what they are. GNU tar
and find are needed in the image. Parts of a few MB keep memory bounded on our side.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from swegym.core.errors import SandboxError
from swegym.envs.sandboxes.session import Request, ShellSession

__all__ = ["CannotArchive", "Changes", "unpack_changes"]

PART_BYTES = 4 * 2**20
MAX_PARTS = 4
"""As many parts are taken ahead, before the copy has started."""


class CannotArchive(SandboxError):
    """The origin lacks a program, or its file system hides changes: its state can be copied by the engine only."""


class Changes:
    """What a sandbox changed. Made inside the dialogue with its shell, which has to last until `is_complete`."""

    def __init__(self, request: Request, clock_set_s: float) -> None:
        """Args: request: to the origin. clock_set_s: by how much its clock was set forward since it began."""
        self._request = request
        self._clock_set_ms = max(0, math.ceil(clock_set_s * 1000))
        self.folders = b""
        """Names of the folders whose entries or attributes changed, each ended by a NUL."""
        self.entries = b""
        """What is in those folders: type and path, each ended by a NUL, sorted."""
        self._parts: list[bytes] = []
        self.is_complete = False

    async def begin(self) -> None:
        """Stop the other processes, list the changes, archive as much as is taken ahead.

        Raises:
            CannotArchive: this image or its file system does not do.
            SandboxLost.
        """
        try:
            lists = await self._request(f"_swegym_freeze && _swegym_changes {self._clock_set_ms} && _swegym_send")
            while not self.is_complete and len(self._parts) < MAX_PARTS:
                self._parts.append(await self._next())
        except SandboxError as error:
            raise _as_cannot_archive(error) from error
        # the list of folders ends with an empty name; with none at all it is only that
        end = 0 if lists.startswith(b"\0") else lists.index(b"\0\0") + 1
        self.folders, self.entries = lists[:end], lists[end + 1 :]

    async def _next(self) -> bytes:
        part = await self._request(f"_swegym_pull {PART_BYTES}")
        if len(part) < PART_BYTES:
            await self._request("_swegym_finish")
            self.is_complete = True
        return part

    async def parts(self) -> AsyncIterator[bytes]:
        """The archive. The part after the one at hand is on its way already."""
        for part in self._parts:
            yield part
        self._parts.clear()
        following = None if self.is_complete else asyncio.ensure_future(self._next())
        try:
            while following is not None:
                part = await following
                following = None if self.is_complete else asyncio.ensure_future(self._next())
                yield part
        finally:
            if following is not None:
                await asyncio.wait([following])  # cut off in the middle, it would cost the origin


def _as_cannot_archive(error: SandboxError) -> SandboxError:
    return CannotArchive(str(error)) if type(error) is SandboxError else error


async def unpack_changes(changes: Changes, session: ShellSession) -> None:
    """Make the fresh sandbox of this session what the origin was, its shell included.

    Raises:
        SandboxError: the copy could not take it, and is of no use.
        CannotArchive: the origin could not give it.
        SandboxLost.
    """
    async with session.dialogue() as request:
        lists = changes.folders + changes.entries
        await request(f"_swegym_prune {len(changes.folders)} {len(changes.entries)} && _swegym_receive", lists)
        async for part in changes.parts():
            if part:
                await request(f"_swegym_push {len(part)}", part)
        await request("_swegym_finish")
    await session.restart_shell()
