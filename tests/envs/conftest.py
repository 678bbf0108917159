"""A real local back end and the task set that ships."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from swegym.core.sandbox import SandboxProvider
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets import FolderTaskSet
from swegym.envs.tasksets.folder import tiny_task_set


@pytest.fixture
async def provider() -> AsyncIterator[SandboxProvider]:
    provider = make_provider("local")
    yield provider
    await provider.close()


@pytest.fixture
def tiny() -> FolderTaskSet:
    return tiny_task_set()


@pytest.fixture
async def grader(provider: SandboxProvider, tiny: FolderTaskSet) -> AsyncIterator[SweGrader]:
    grader = SweGrader(provider, tiny, jobs=2)
    yield grader
    await grader.close()
