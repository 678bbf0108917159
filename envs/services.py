"""What an env and its forks share: the provider of their sandboxes and, for inline grading, a grader."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from swegym.core.outcome import Grader
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import TaskSet

__all__ = ["Services"]


class Services:
    """Made when they are first asked for. What was made here is closed when its last user leaves."""

    def __init__(
        self,
        sandbox: str | SandboxProvider,
        sandbox_options: Mapping[str, Any],
        grader: Grader | None,
        taskset: TaskSet,
    ) -> None:
        """Take the arguments of `SweEnv` of these names. The one who makes it is its first user."""
        self._sandbox = sandbox
        self._sandbox_options = dict(sandbox_options)
        self._given_grader = grader
        self._taskset = taskset
        self._provider: SandboxProvider | None = None
        self._grader: Grader | None = None
        self._making = asyncio.Lock()
        self._num_users = 1

    async def provider(self) -> SandboxProvider:
        """Raises ConfigError, UnknownName, DependencyMissing: there is no such back end here."""
        if not isinstance(self._sandbox, str):
            return self._sandbox
        async with self._making:
            if self._provider is None:
                from swegym.envs.sandboxes import make_provider

                # asking what the machine has may wait for an engine, which must not hold the loop up
                self._provider = await asyncio.to_thread(make_provider, self._sandbox, **self._sandbox_options)
            return self._provider

    async def grader(self) -> Grader:
        """The one given, or one that grades in sandboxes of the provider."""
        if self._given_grader is not None:
            return self._given_grader
        provider = await self.provider()
        if self._grader is None:
            from swegym.envs.graders import SweGrader

            self._grader = SweGrader(provider, self._taskset)
        return self._grader

    def join(self) -> Services:
        """One more user."""
        self._num_users += 1
        return self

    async def leave(self) -> None:
        """One user less; the last one closes what was made here. It is made again when it is asked for again."""
        self._num_users -= 1
        if self._num_users > 0:
            return
        grader, self._grader = self._grader, None
        provider, self._provider = self._provider, None
        if grader is not None:
            await grader.close()
        if provider is not None:
            await provider.close()
