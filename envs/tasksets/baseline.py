"""What the sound tree's tests do: which are stable, how long each file takes, and which lines it runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from swegym.core.errors import TaskError
from swegym.core.outcome import TestStatus
from swegym.core.records import Record
from swegym.core.sandbox import SandboxProvider
from swegym.envs.graders.pytest_run import (
    PytestReport,
    PytestRequest,
    files_of,
    install_runner,
    read_log_tail,
    run_pytest,
)
from swegym.envs.tasksets.dependencies import ensure_dependencies
from swegym.envs.tasksets.staging import WORKDIR, Staged

__all__ = ["Baseline", "FileBaseline", "measure_baseline"]

SUITE_LIMIT_S = 900.0
SLOW_FILE_S = 1.0
COVERAGE_PATH = "/tmp/swegym-coverage.json"
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class FileBaseline(Record):
    """One test file, run alone."""

    path: str
    duration_s: float
    """Wall time of the whole pytest process."""
    cpu_s: float = 0.0
    """Processor time of it; unlike wall time it hardly depends on what else the machine does."""
    stable: tuple[str, ...]
    """Tests that passed in both runs of the whole suite, alone, and alone under coverage with another hash seed."""
    lines: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Source file -> lines that ran."""

    @property
    def num_lines(self) -> int:
        return sum(map(len, self.lines.values()))

    @property
    def cost_s(self) -> float:
        return self.cpu_s or self.duration_s

    @property
    def order(self) -> tuple[bool, int, str]:
        """For sorting, most specific first. Not by time alone: the same seed is to give the same tasks."""
        return self.cost_s > SLOW_FILE_S, self.num_lines, self.path


class Baseline(Record):
    """All test files with at least one stable test."""

    files: tuple[FileBaseline, ...]
    num_tests: int
    num_unstable: int
    """Tests that did not pass every time."""
    suite_s: float
    unstable: dict[str, str] = Field(default_factory=dict)
    """Test id -> in which run it did not pass, and how it came out."""


async def measure_baseline(
    staged: Staged, provider: SandboxProvider, *, jobs: int, test_command: str, progress: Progress
) -> Baseline:
    """Run the suite whole, again in reverse with another hash seed, then each file alone and under coverage.

    Raises:
        TaskError: the suite does not run, or no test is stable.
    """
    whole = PytestRequest(
        WORKDIR, staged.test_paths, test_command, wall_limit_s=SUITE_LIMIT_S, cpu_limit_s=SUITE_LIMIT_S
    )
    progress("suite", 0, 2)
    suite, log = await _run(staged, provider, whole)
    passed = {test_id for test_id, status in suite.statuses.items() if status is TestStatus.PASSED}
    if not passed:
        raise TaskError(f"no test of {staged.source.name} passes: {log.strip()[-300:] or 'no output'}")
    progress("suite", 1, 2)
    files = files_of(sorted(passed))
    again, _ = await _run(staged, provider, replace(whole, files=files[::-1]), hash_seed="2")
    progress("suite", 2, 2)
    coverage_dependencies = await asyncio.to_thread(ensure_dependencies, (*staged.requirements, "coverage"))
    unstable = {
        test_id: f"suite: {status.value}" for test_id, status in suite.statuses.items() if test_id not in passed
    }

    async def measure(path: str) -> FileBaseline:
        request = replace(whole, files=(path,))
        alone, _ = await _run(staged, provider, request)
        lines, covered = await _run_with_coverage(staged, provider, request, coverage_dependencies)
        stable = []
        for test_id in sorted(test_id for test_id in passed if test_id.split("::", 1)[0] == path):
            if reason := _first_failure(test_id, {"suite in reverse": again, "alone": alone, "coverage": covered}):
                unstable[test_id] = reason
            else:
                stable.append(test_id)
        return FileBaseline(
            path=path, duration_s=alone.duration_s, cpu_s=alone.cpu_s, stable=tuple(stable), lines=lines
        )

    jobs_of_files = [partial(measure, path) for path in files]
    measured = await run_limited(jobs_of_files, jobs, lambda done: progress("test files", done, len(files)))
    stable_files = tuple(item for item in measured if item.stable)
    if not stable_files:
        raise TaskError(f"no test of {staged.source.name} passes when its file runs alone")
    return Baseline(
        files=stable_files,
        num_tests=len(suite.statuses),
        num_unstable=len(unstable),
        suite_s=suite.duration_s,
        unstable=dict(sorted(unstable.items())),
    )


def _first_failure(test_id: str, runs: dict[str, PytestReport]) -> str:
    """In which run a test did not pass; "": in none."""
    for name, report in runs.items():
        status = report.statuses.get(test_id)
        if status is not TestStatus.PASSED:
            return f"{name}: {status.value if status is not None else 'did not run'}"
    return ""


async def _run(
    staged: Staged, provider: SandboxProvider, request: PytestRequest, hash_seed: str = "random"
) -> tuple[PytestReport, str]:
    sandbox = await provider.create(staged.spec(PYTHONHASHSEED=hash_seed))
    try:
        folder = await install_runner(sandbox)
        report = await run_pytest(sandbox, folder, request)
        return report, await read_log_tail(sandbox, folder)
    finally:
        await sandbox.close()


async def _run_with_coverage(
    staged: Staged, provider: SandboxProvider, request: PytestRequest, dependencies: Path
) -> tuple[dict[str, tuple[int, ...]], PytestReport]:
    sandbox = await provider.create(staged.spec(dependencies, PYTHONHASHSEED="1"))
    try:
        folder = await install_runner(sandbox)
        report = await run_pytest(sandbox, folder, replace(request, coverage_path=COVERAGE_PATH))
        try:
            lines = json.loads(await sandbox.read_file(COVERAGE_PATH))
        except FileNotFoundError:
            lines = {}  # pytest was killed or aborted: no test of this file will be stable either
        return {path: tuple(numbers) for path, numbers in lines.items() if numbers}, report
    finally:
        await sandbox.close()


async def run_limited(
    jobs: Sequence[Callable[[], Awaitable[FileBaseline]]], limit: int, on_done: Callable[[int], None]
) -> list[FileBaseline]:
    """Run coroutines, at most `limit` at a time; results in the order of the jobs."""
    slots, num_done = asyncio.Semaphore(limit), 0

    async def one(job: Callable[[], Awaitable[FileBaseline]]) -> FileBaseline:
        nonlocal num_done
        async with slots:
            result = await job()
        num_done += 1
        on_done(num_done)
        return result

    return await run_together(one(job) for job in jobs)


async def run_together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. The first failure cancels the others, and is raised as it is and not in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
