"""A task set from mirror rows: sdists fetched, fixes taken back, tests measured before and after, folder written."""

from __future__ import annotations

import asyncio
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swegym.core.errors import ConfigError, TaskError
from swegym.core.outcome import TestStatus
from swegym.core.records import digest
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.graders.pytest_run import PytestReport, PytestRequest, install_runner, run_pytest
from swegym.envs.tasksets.baseline import run_together
from swegym.envs.tasksets.folder import FolderTaskSet, Manifest, save_task_set
from swegym.envs.tasksets.formats.mirror import MirrorRow, Reversal, junit_name, reverse_fix
from swegym.envs.tasksets.journal import Journal, JournalRecord
from swegym.envs.tasksets.sources import fetch_sdist
from swegym.envs.tasksets.staging import WORKDIR, Staged, stage
from swegym.envs.workspace import apply_line_edits

__all__ = ["MirrorReport", "build_mirror"]

BUILDER = "swegym mirror/1"
TEST_COMMAND = "python -m pytest -o addopts="
RUN_LIMIT_S = 300.0
GROUP_NAMES = ("test", "tests", "testing")
MAX_NAMED_TESTS = 10
Progress = Callable[[str, int, int], None]


class Measured(JournalRecord):
    """What the tests of one row did: a line of the journal."""

    problem: str = ""
    """Why the row is no task."""
    remark: str = ""
    """What differs from what the row says."""
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    baseline_s: float = 0.0


@dataclass(slots=True)
class MirrorReport:
    """What an import did."""

    folder: str
    num_tasks: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """Task id -> why the row is no task."""
    remarks: dict[str, str] = field(default_factory=dict)
    """Task id -> what differs from what the row says."""


async def build_mirror(
    rows: Sequence[MirrorRow],
    out_folder: str | Path,
    provider: SandboxProvider,
    *,
    name: str = "mirror",
    requirements: tuple[str, ...] = (),
    jobs: int = 2,
    progress: Progress | None = None,
) -> MirrorReport:
    """Make a task set folder of every row whose tests behave; an interrupted import goes on where it stopped.

    A test counts for FAIL_TO_PASS when it passes on the sdist under two hash seeds and not without the fix, and for
    PASS_TO_PASS when it passes each time.

    Args:
        rows: from `read_mirror_rows`.
        out_folder: becomes the task set; `packages/` in it holds one workspace and its dependencies a package.
        provider: where all code of the packages runs.
        name: of the set.
        requirements: what tests need besides pytest, the package's own requirements and its `tests` extra or group.
        jobs: sandboxes at a time.
        progress: called with (stage, done, total).

    Raises:
        ConfigError: an sdist cannot be had, or no row became a task.
    """
    tell: Progress = progress or (lambda *_: None)
    out = Path(out_folder).resolve()
    try:
        (out / "build").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {out}: {error.strerror}") from None
    journal = Journal(out / "build" / "journal.jsonl", Measured)
    report = MirrorReport(str(out))
    by_package: dict[tuple[str, str], list[MirrorRow]] = defaultdict(list)
    for row in rows:
        by_package[row.requirement, row.sdist_sha256].append(row)
    records: list[tuple[Task, SweSecret]] = []
    done = 0
    for number, ((requirement, sha256), group) in enumerate(by_package.items()):
        tell("packages", number, len(by_package))
        staged = await asyncio.to_thread(_stage, requirement, sha256, out / "packages", requirements)
        suite = _Suite(staged, provider)
        slots = asyncio.Semaphore(jobs)

        async def work(row: MirrorRow, suite: _Suite = suite, slots: asyncio.Semaphore = slots) -> None:
            nonlocal done
            async with slots:
                made = await _make(row, suite, journal)
            done += 1
            tell("rows", done, len(rows))
            if isinstance(made, str):
                report.problems[row.task_id] = made
                return
            task, secret, remark = made
            records.append((task, secret))
            if remark:
                report.remarks[row.task_id] = remark

        await run_together(work(row) for row in group)
    if not records:
        first = next(iter(report.problems.values()), "there are none")
        raise ConfigError(f"none of {len(rows)} rows became a task; the first: {first}")
    order = {row.task_id: place for place, row in enumerate(rows)}
    records.sort(key=lambda item: order[item[0].task_id])
    _save(out, name, rows, records, report)
    return report


def _stage(requirement: str, sha256: str, folder: Path, requirements: tuple[str, ...]) -> Staged:
    source = fetch_sdist(requirement, sha256)
    needed = (*_test_requirements(source.folder), *requirements)
    return stage(source, folder / requirement.replace("==", "-"), tuple(dict.fromkeys(needed)))


def _test_requirements(tree: Path) -> list[str]:
    """What pyproject.toml names as needed for tests, in an extra or a dependency group."""
    path = tree / "pyproject.toml"
    if not path.is_file():
        return []
    try:
        document: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return []  # a file for other tools; what is missing shows in the runs
    groups: dict[str, list[Any]] = document.get("dependency-groups", {})
    extras: dict[str, list[Any]] = document.get("project", {}).get("optional-dependencies", {})
    found: list[str] = []

    def collect(items: Iterable[Any], depth: int = 0) -> None:
        for item in items:
            if isinstance(item, str):
                found.append(item)
            elif depth < 8 and isinstance(item, dict):
                collect(groups.get(str(item.get("include-group")), ()), depth + 1)

    for table in (groups, extras):
        for wanted in GROUP_NAMES:
            collect(table.get(wanted, ()))
    return [item for item in dict.fromkeys(found) if not item.startswith(str(document.get("project", {}).get("name")))]


class _Suite:
    """The tests of one package's sdist; a run of the sound tree is made once for the same files."""

    def __init__(self, staged: Staged, provider: SandboxProvider) -> None:
        self.staged = staged
        self._provider = provider
        self._sound: dict[tuple[str, ...], asyncio.Future[list[PytestReport]]] = {}

    async def sound(self, files: tuple[str, ...]) -> list[PytestReport]:
        """Two runs of the sdist as it is, with different hash seeds."""
        if files not in self._sound:
            self._sound[files] = asyncio.ensure_future(self._twice(files))
        return await self._sound[files]

    async def _twice(self, files: tuple[str, ...]) -> list[PytestReport]:
        return [await self.run(files, {}, seed) for seed in ("0", "1")]

    async def run(self, files: tuple[str, ...], contents: dict[str, bytes], seed: str) -> PytestReport:
        """Run test files over the workspace with these files changed."""
        sandbox = await self._provider.create(self.staged.spec(PYTHONHASHSEED=seed))
        try:
            folder = await install_runner(sandbox)
            for path, data in contents.items():
                await sandbox.write_file(f"{WORKDIR}/{path}", data)
            await sandbox.run(f"find {WORKDIR} -name '*.pyc' -delete", timeout_s=60.0)
            request = PytestRequest(WORKDIR, files, TEST_COMMAND, cpu_limit_s=RUN_LIMIT_S, wall_limit_s=3 * RUN_LIMIT_S)
            return await run_pytest(sandbox, folder, request)
        finally:
            await sandbox.close()


async def _make(row: MirrorRow, suite: _Suite, journal: Journal[Measured]) -> tuple[Task, SweSecret, str] | str:
    """Both halves of a task and a remark, or why there is none."""
    try:
        reversal = await asyncio.to_thread(reverse_fix, suite.staged.workspace, row)
    except TaskError as error:
        return str(error)
    key = digest(row.model_dump_json(), suite.staged.image, *suite.staged.requirements)
    measured = journal.items.get(key)
    if measured is None:
        try:
            measured = await _measure(key, row, reversal, suite)
        except TaskError as error:  # pytest cannot be started over this tree
            measured = Measured(key=key, problem=str(error))
        journal.add(measured)
    if measured.problem:
        return f"{row.task_id}: {measured.problem}"
    return (*_records(row, reversal, suite.staged, measured), measured.remark)


async def _measure(key: str, row: MirrorRow, reversal: Reversal, suite: _Suite) -> Measured:
    files = tuple(path for path in row.test_files if (suite.staged.workspace / path).is_file())
    if not files:
        return Measured(key=key, problem=f"the sdist has none of {', '.join(row.test_files)}")
    first, second = await suite.sound(files)
    if not first.ended or not second.ended:
        return Measured(key=key, problem=f"pytest did not come to its end on the sdist (exit {first.exit_code})")
    edits_of: dict[str, list[Any]] = defaultdict(list)
    for edit in reversal.start_edits:
        edits_of[edit.path].append(edit)
    workspace = suite.staged.workspace
    broken = {path: apply_line_edits((workspace / path).read_bytes(), edits) for path, edits in edits_of.items()}
    before = await suite.run(files, broken, "1")
    if not before.ended:
        return Measured(key=key, problem=f"pytest did not come to its end without the fix (exit {before.exit_code})")
    passed = TestStatus.PASSED
    stable = [test for test, status in first.statuses.items() if status is passed is second.statuses.get(test)]
    fail_to_pass = tuple(test for test in stable if before.statuses.get(test) is not passed)
    if not fail_to_pass:
        return Measured(key=key, problem="no test fails without the fix")
    found = {junit_name(test) for test in fail_to_pass}
    unseen = sorted(set(row.fail_to_pass) - found)
    remark = f"{len(unseen)} of the row's {len(row.fail_to_pass)} fail_to_pass tests are not so here"
    return Measured(
        key=key,
        remark=f"{remark}: {unseen[0]}" if unseen else "",
        fail_to_pass=fail_to_pass,
        pass_to_pass=tuple(test for test in stable if test not in fail_to_pass),
        baseline_s=round(max(first.duration_s, second.duration_s), 3),
    )


def _records(row: MirrorRow, reversal: Reversal, staged: Staged, measured: Measured) -> tuple[Task, SweSecret]:
    folder = f"packages/{staged.folder.name}"
    named = "\n".join(f"- {test}" for test in measured.fail_to_pass[:MAX_NAMED_TESTS])
    rest = len(measured.fail_to_pass) - MAX_NAMED_TESTS
    task = Task(
        task_id=row.task_id,
        # Not the commit's message: it often states the fix.
        statement=(
            f"These tests of {row.package} {row.version} fail:\n\n{named}"
            + (f"\n- and {rest} more in the same files" if rest > 0 else "")
            + "\n\nChange the source (not the tests) so that they pass and nothing else breaks."
        ),
        provenance=Provenance(
            source=f"pypi:{row.requirement} without {row.repo}@{row.commit}", license=row.license, builder=BUILDER
        ),
        payload=SweTask(
            repo=row.repo,
            version=row.version,
            image=staged.image,
            recipe=ImageRecipe(workspace=f"{folder}/workspace", dependencies=f"{folder}/dependencies"),
            workdir=WORKDIR,
            start_edits=reversal.start_edits,
            environment=staged.environment,
            test_command=TEST_COMMAND,
            protected_paths=staged.protected_paths,
        ),
        labels={"repo": row.repo, "kind": row.kind, "date": row.date},
    )
    secret = SweSecret(
        task_id=row.task_id,
        patch=reversal.gold_patch,
        FAIL_TO_PASS=measured.fail_to_pass,
        PASS_TO_PASS=measured.pass_to_pass,
        test_files=tuple(dict.fromkeys(test.split("::")[0] for test in measured.fail_to_pass + measured.pass_to_pass)),
        baseline_s=measured.baseline_s,
    )
    return task, secret


def _save(
    out: Path, name: str, rows: Sequence[MirrorRow], records: list[tuple[Task, SweSecret]], report: MirrorReport
) -> FolderTaskSet:
    packages = sorted({row.requirement for row in rows})
    manifest = Manifest(
        name=name,
        license=", ".join(sorted({row.license for row in rows})),
        source=", ".join(f"pypi:{package}" for package in packages),
        description="Real commits taken back on pinned sdists.",
        builder=BUILDER,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        statistics={"rows": len(rows), "problems": report.problems, "remarks": report.remarks},
    )
    report.num_tasks = len(records)
    return save_task_set(out, manifest, [task for task, _ in records], [secret for _, secret in records])
