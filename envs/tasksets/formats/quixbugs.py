"""QuixBugs: short programs with one wrong line, as one task set over one workspace."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from swegym.core.errors import ConfigError
from swegym.core.outcome import TestStatus
from swegym.core.records import Record, digest
from swegym.core.sandbox import SandboxProvider, SandboxSpec
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.graders.pytest_run import PytestReport, PytestRequest, install_runner, run_pytest
from swegym.envs.tasksets.baseline import run_together
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.folder import FolderTaskSet, Manifest, save_task_set
from swegym.envs.tasksets.formats.rows import BadRow, RawRow, parse_unique

__all__ = ["build_quixbugs"]

WORKDIR = "/testbed"
LICENSE = "MIT"
SOUND_LIMIT_S = 30.0
BROKEN_LIMIT_S = 4.0
"""Some of these programs never come to an end."""
# Results are compared as JSON has them: generators and tuples as lists, numbers to the accuracy of their last argument.
TEST_TEXT = '''"""Cases of {name}."""

import json

import pytest
from programs.{name} import {name}

CASES = json.loads({cases!r})


@pytest.mark.parametrize(("arguments", "expected"), CASES)
def test_{name}(arguments, expected):
    arguments = arguments if isinstance(arguments, list) else [arguments]
    result = {name}(*json.loads(json.dumps(arguments)))
    if hasattr(result, "__iter__") and not isinstance(result, str):
        result = json.loads(json.dumps(list(result)))
    if isinstance(expected, float):
        accuracy = arguments[-1] if isinstance(arguments[-1], float) else None
        expected = pytest.approx(expected, abs=accuracy)
    assert result == expected
'''


class _Program(Record, extra="ignore"):
    id: str = Field(pattern=r"^[a-z_][a-z0-9_]*$")
    buggy: str = Field(min_length=1)
    fixed: str = Field(min_length=1)
    cases: list[tuple[object, object]] = Field(min_length=1)

    @property
    def path(self) -> str:
        return f"programs/{self.id}.py"

    @property
    def test_path(self) -> str:
        return f"tests/test_{self.id}.py"


async def build_quixbugs(
    rows: list[RawRow],
    out_folder: str | Path,
    provider: SandboxProvider,
    *,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FolderTaskSet, list[BadRow]]:
    """Write the workspace and measure every program's cases before and after its fix.

    Args:
        rows: id, buggy, fixed, cases.
        out_folder: becomes the task set.
        provider: where the programs run.
        jobs: sandboxes at a time.
        progress: called with (done, total).

    Returns:
        The set, and the rows that are no task: without cases, or whose cases do not tell the two programs apart.

    Raises:
        ConfigError: no row became a task, or the folder cannot be written.
    """
    out = Path(out_folder).resolve()
    programs, bad = parse_unique(rows, _Program, "id")
    workspace = out / "workspace"
    try:
        shutil.rmtree(workspace, ignore_errors=True)
        for _, program in programs:
            for path, text in ((program.path, program.buggy), (program.test_path, _tests_of(program))):
                (workspace / path).parent.mkdir(parents=True, exist_ok=True)
                (workspace / path).write_text(text, "utf-8", newline="")
    except OSError as error:
        raise ConfigError(f"cannot write {workspace}: {error.strerror}") from None
    image = f"swegym/quixbugs:{digest(*(part for _, item in programs for part in (item.buggy, item.path)))}"
    spec = SandboxSpec(image=image, workspace=str(workspace), dependencies=str(ensure_dependencies(("pytest",))))
    slots, done = asyncio.Semaphore(jobs), 0
    made: dict[str, tuple[Task, SweSecret]] = {}

    async def work(number: int, program: _Program) -> None:
        nonlocal done
        async with slots:
            sound = await _run(provider, spec, program, program.fixed, SOUND_LIMIT_S)
            broken = await _run(provider, spec, program, program.buggy, BROKEN_LIMIT_S)
        done += 1
        if progress is not None:
            progress(done, len(programs))
        passed = [test for test, status in sound.statuses.items() if status is TestStatus.PASSED]
        failing = [test for test in passed if broken.statuses.get(test) is not TestStatus.PASSED]
        if not sound.ended or not failing:
            bad.append(BadRow(number, program.id, "cases", "do not tell the fixed program from the wrong one"))
            return
        made[program.id] = _halves(program, image, passed, failing, sound.duration_s)

    await run_together(work(number, program) for number, program in programs)
    if not made:
        raise ConfigError(f"none of {len(rows)} rows became a task")
    halves = [made[program.id] for _, program in programs if program.id in made]
    manifest = Manifest(
        name="quixbugs",
        license=LICENSE,
        source="QuixBugs",
        description="Short programs with one wrong line.",
        builder="swegym quixbugs/1",
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return save_task_set(out, manifest, [task for task, _ in halves], [secret for _, secret in halves]), bad


def _tests_of(program: _Program) -> str:
    return TEST_TEXT.format(name=program.id, cases=json.dumps(program.cases))


async def _run(
    provider: SandboxProvider, spec: SandboxSpec, program: _Program, text: str, limit_s: float
) -> PytestReport:
    sandbox = await provider.create(spec)
    try:
        await sandbox.write_file(f"{WORKDIR}/{program.path}", text.encode())
        folder = await install_runner(sandbox)
        request = PytestRequest(WORKDIR, (program.test_path,), cpu_limit_s=limit_s, wall_limit_s=4 * limit_s)
        return await run_pytest(sandbox, folder, request)
    finally:
        await sandbox.close()


def _halves(
    program: _Program, image: str, passed: list[str], failing: list[str], baseline_s: float
) -> tuple[Task, SweSecret]:
    task_id = f"quixbugs-{program.id}"
    task = Task(
        task_id=task_id,
        statement=f"One line of {program.path} is wrong. Mend it: the tests in {program.test_path} say what it is for.",
        provenance=Provenance(source="QuixBugs", license=LICENSE, builder="swegym quixbugs/1"),
        payload=SweTask(repo="QuixBugs", image=image, recipe=ImageRecipe(workspace="workspace"), workdir=WORKDIR),
        labels={"repo": "QuixBugs", "format": "quixbugs"},
    )
    secret = SweSecret(
        task_id=task_id,
        patch=unified_diff(program.path, program.buggy, program.fixed),
        FAIL_TO_PASS=tuple(failing),
        PASS_TO_PASS=tuple(test for test in passed if test not in failing),
        test_files=(program.test_path,),
        baseline_s=round(baseline_s, 3),
    )
    return task, secret
