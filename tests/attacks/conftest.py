"""A real local back end, the task set that ships, and what an attack is: commands in a sandbox, or code in a patch."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from swegym.core.outcome import Outcome, Validity
from swegym.core.sandbox import SandboxProvider
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets import FolderTaskSet, sandbox_spec
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.folder import tiny_task_set
from swegym.envs.workspace import apply_line_edits, extract_patch, prepare_workspace

TASK = "tiny-merge"
TARGET = "tinykit/ranges.py"

Attack = Callable[..., Awaitable[Outcome]]


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
    grader = SweGrader(provider, tiny)
    yield grader
    await grader.close()


@pytest.fixture
def agent(provider: SandboxProvider, tiny: FolderTaskSet) -> Callable[[str], Awaitable[str]]:
    """A scripted agent: runs commands in the task's sandbox; what it hands in."""

    async def work(commands: str) -> str:
        task = tiny.get(TASK)
        sandbox = await provider.create(sandbox_spec(task, tiny))
        try:
            commit = await prepare_workspace(sandbox, task)
            result = await sandbox.run(commands)
            assert result.exit_code == 0, result.text
            return await extract_patch(sandbox, task, commit)
        finally:
            await sandbox.close()

    return work


@pytest.fixture
def unsolved(tiny: FolderTaskSet, grader: SweGrader) -> Callable[[str], Awaitable[Outcome]]:
    """Grades a patch and makes sure that it does not score."""

    async def grade(patch: str) -> Outcome:
        assert patch, "the attack left no trace in the patch, so it shows nothing"
        outcome = await grader.grade(tiny.get(TASK), patch)
        assert not outcome.resolved, outcome
        assert outcome.validity is Validity.VALID, outcome
        return outcome

    return grade


def broken_source(tiny: FolderTaskSet) -> str:
    """The module with the bug, as an agent finds it."""
    edits = list(tiny.get(TASK).payload.start_edits)
    return apply_line_edits((Path(tiny.folder()) / "workspace" / TARGET).read_bytes(), edits).decode()


def with_code(tiny: FolderTaskSet, code: str, *, body: str = "") -> str:
    """Patch that adds code to the module with the bug, where it runs at import.

    Args:
        tiny: the task set.
        code: goes to the end of the module.
        body: takes the place of the broken function's first line.
    """
    before = broken_source(tiny)
    after = f"{before}\n\n{code.strip()}\n"
    if body:
        after = after.replace("    merged: list[Range] = []\n", "".join(f"    {line}\n" for line in body.split("\n")))
    compile(after, TARGET, "exec")
    return unified_diff(TARGET, before, after)


def new_file(path: str, text: str, mode: str = "100644") -> str:
    """Patch that adds a file."""
    lines = text.removesuffix("\n").split("\n")
    end = "" if text.endswith("\n") else "\n\\ No newline at end of file"
    body = "".join(f"+{line}\n" for line in lines).removesuffix("\n") + end
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1,{len(lines)} @@\n{body}\n"
    )
