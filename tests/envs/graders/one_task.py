"""A task set of one small task, and a provider that counts and can fail, for the tests of the grader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from swegym.core.errors import SandboxError
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.tasksets import FolderTaskSet, Manifest, save_task_set
from swegym.envs.tasksets.diff import unified_diff

SOUND = "def double(x):\n    return x * 2\n"
BROKEN = "def double(x):\n    return x * 3\n"
GOLD = unified_diff("m.py", BROKEN, SOUND)
WRONG = unified_diff("m.py", BROKEN, BROKEN.replace("3", "4"))
IDS = ("tests/test_m.py::test_a",)


class CountingProvider:
    """Hands on to a real provider; can fail first, as a host does."""

    name = "counting"

    def __init__(self, provider: SandboxProvider, failures: list[SandboxError] | None = None) -> None:
        self.num_created = 0
        self.on_create: Callable[[int], object] | None = None
        self._provider, self._failures = provider, failures or []

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.num_created += 1
        if self.on_create is not None:
            self.on_create(self.num_created)
        if self._failures:
            raise self._failures.pop()
        return await self._provider.create(spec)

    async def close(self) -> None:
        await self._provider.close()


def one_task(
    folder: Path,
    tests: str,
    *,
    fail_to_pass: tuple[str, ...],
    sound: bytes = SOUND.encode(),
    broken: str = "    return x * 3",
    **secret: object,
) -> FolderTaskSet:
    """A task set of one task: module m.py with a bug in line 2, tests in tests/test_m.py."""
    (folder / "workspace/tests").mkdir(parents=True)
    (folder / "workspace/m.py").write_bytes(sound)
    (folder / "workspace/tests/test_m.py").write_text(tests)
    payload = SweTask(
        repo="m",
        image="m:1",
        recipe=ImageRecipe(workspace="workspace"),
        start_edits=({"path": "m.py", "first_line": 2, "last_line": 2, "text": broken},),
        environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    task = Task(task_id="t", statement="mend it", provenance=Provenance(source="test"), payload=payload)
    fields: dict[str, object] = {"task_id": "t", "patch": GOLD, "FAIL_TO_PASS": fail_to_pass, "baseline_s": 0.3}
    return save_task_set(folder, Manifest(name="one"), [task], [SweSecret.model_validate(fields | secret)])


def one_task_with_gold(taskset: FolderTaskSet, gold: str) -> FolderTaskSet:
    """The same set with another gold patch."""
    secret = taskset.secret("t").model_copy(update={"patch": gold})
    return save_task_set(taskset.folder(), taskset.manifest, list(taskset), [secret])
