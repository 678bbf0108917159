"""A sandbox with an empty work tree, and a task over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxSpec
from swegym.core.task import ImageRecipe, Provenance, SweTask, Task
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets import ensure_dependencies

WORKDIR = "/testbed"


@pytest.fixture
def task() -> Task:
    return Task(
        task_id="t",
        statement="mend it",
        provenance=Provenance(source="test"),
        payload=SweTask(repo="r", image="r", recipe=ImageRecipe(workspace="w"), workdir=WORKDIR),
    )


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    workspace = tmp_path / "w"
    workspace.mkdir()
    dependencies = str(ensure_dependencies(["pytest"]))
    provider = make_provider("local", temp_folder=str(tmp_path / "sandboxes"))
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    yield await provider.create(
        SandboxSpec(
            image="r", workspace=str(workspace), dependencies=dependencies, workdir=WORKDIR, environment=environment
        )
    )
    await provider.close()
