"""The steps that every mutate-fix build goes through: fetch, measure, validate, write, grade, report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import SweSecret, Task
from swegym.envs.graders.swe import SweGrader
from swegym.envs.tasksets.baseline import Baseline, measure_baseline
from swegym.envs.tasksets.clock import Clock
from swegym.envs.tasksets.folder import FolderTaskSet, Manifest, save_task_set
from swegym.envs.tasksets.journal import Journal
from swegym.envs.tasksets.mutate.tasks import gold_patch
from swegym.envs.tasksets.report import BuildReport
from swegym.envs.tasksets.sources import SourceTree, find_source
from swegym.envs.tasksets.staging import Staged
from swegym.envs.tasksets.validation import validate_candidates
from swegym.envs.tasksets.verdicts import Judged, Rules, Verdict
from swegym.envs.tasksets.wheel_build import build_metadata, needs_build

__all__ = ["BuildQueue", "BuildSteps", "Progress"]

NOT_SOURCE = frozenset({"tests", "test", "testing", "docs", "doc", "examples", "benchmarks", "setup.py", "conftest.py"})
NUM_GRADED = 6
"""Tasks whose gold patch goes through the real grader at the end of a build."""
NUM_EXAMPLES = 6

Progress = Callable[[str, int, int], None]


class BuildQueue(Protocol):
    """A `validation.Queue` that knows what is chosen in the end."""

    @property
    def num_picked(self) -> int: ...
    def next(self) -> Any: ...
    def record(self, candidate: Any, verdict: Verdict) -> None: ...
    def deal(self) -> bool: ...
    def chosen(self) -> list[tuple[Any, Verdict]]: ...


class BuildSteps:
    """The steps that both builders share, and what is known by then."""

    staged: Staged
    baseline: Baseline
    report: BuildReport

    def __init__(
        self,
        source: str,
        out_folder: str | Path,
        wanted: dict[str, int],
        jobs: int,
        provider: SandboxProvider,
        progress: Progress | None,
    ) -> None:
        self.source = source
        self.out = Path(out_folder)
        self.wanted = wanted
        self.jobs = jobs
        self.provider = provider
        self.progress: Progress = progress or (lambda *_: None)
        self.requirements: dict[str, str] = {}
        self._clock = Clock()
        self._queue: BuildQueue
        self._verdicts: dict[str, tuple[Judged, Verdict]] = {}

    @property
    def name(self) -> str:
        return f"{self.staged.source.name} {self.staged.source.version}".strip()

    async def stage(self, make: Callable[[SourceTree, Path], Staged]) -> None:
        """Fetch, install and measure the sound tree."""
        tree = await asyncio.to_thread(find_source, self.source)
        if needs_build(tree.folder):
            tree = await build_metadata(tree, self.provider)
        try:
            (self.out / "build").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot create {self.out / 'build'}: {error.strerror}") from None
        self.staged = await asyncio.to_thread(make, tree, self.out.resolve())
        self._clock.lap("source and dependencies")
        self.baseline = await self._measured()
        self._clock.lap("baseline and coverage")

    async def _measured(self) -> Baseline:
        """Measured once for a tree; an interrupted build finds it again."""
        path = self.staged.folder / "build" / f"baseline-{self.staged.image.rpartition(':')[2]}.json"
        if path.exists():
            try:
                return Baseline.model_validate_json(path.read_bytes())
            except ValidationError:
                path.unlink()  # cut short by an interruption
        baseline = await measure_baseline(
            self.staged,
            self.provider,
            jobs=self.jobs,
            test_command=self.staged.test_command,
            progress=self.progress,
        )
        path.write_text(baseline.model_dump_json(), "utf-8")
        return baseline

    def sources(self) -> dict[str, bytes]:
        """Files that may be mutated: UTF-8 Python outside tests, docs and set-up."""
        sources: dict[str, bytes] = {}
        tests = tuple(f"{path}/" for path in self.staged.test_paths)
        for path in sorted(self.staged.workspace.rglob("*.py")):
            relative = path.relative_to(self.staged.workspace)
            name = relative.as_posix()
            if NOT_SOURCE & set(relative.parts) or path.name.startswith("test_") or path.name.endswith("_test.py"):
                continue
            if name.startswith(tests) or name in self.staged.test_paths:
                continue
            if any(name == item or name.startswith(f"{item}/") for item in self.staged.excluded):
                continue
            data = path.read_bytes()
            try:
                compile(data.decode("utf-8"), name, "exec", dont_inherit=True)
            except (UnicodeDecodeError, SyntaxError, ValueError):
                continue  # templates and files for other Pythons
            sources[name] = data
        return sources

    async def validate(self, queue: BuildQueue, rules: Rules) -> None:
        """Try candidates until there are enough, and begin the report."""
        self._queue = queue
        journal = Journal(self.out / "build" / "journal.jsonl", Verdict)
        while True:
            await validate_candidates(
                self,
                self.staged,
                self.provider,
                journal,
                jobs=self.jobs,
                test_command=self.staged.test_command,
                rules=rules,
            )
            if not queue.deal():
                break
        self._clock.lap("validation")
        self.report = self._report()

    def next(self) -> Any:
        """A candidate of the queue, which this build watches."""
        return self._queue.next()

    def record(self, candidate: Any, verdict: Verdict) -> None:
        """Hand a verdict on, and say how far the build is."""
        self._verdicts[candidate.key] = (candidate, verdict)
        self._queue.record(candidate, verdict)
        total = sum(self.wanted.values())
        self.progress("tasks", min(self._queue.num_picked, total), total)

    def _report(self) -> BuildReport:
        dropped: dict[str, Counter[str]] = {}
        for candidate, verdict in self._verdicts.values():
            if verdict.status != "broken":
                dropped.setdefault(candidate.kind, Counter())[verdict.status] += 1
        return BuildReport(
            folder=str(self.out),
            source=self.staged.source.origin,
            num_train=0,
            num_heldout=0,
            num_candidates=len(self._verdicts),
            num_stable_tests=sum(len(item.stable) for item in self.baseline.files),
            num_unstable_tests=self.baseline.num_unstable,
            verdicts=dict(Counter(verdict.status for _, verdict in self._verdicts.values())),
            dropped={kind: dict(counts) for kind, counts in dropped.items()},
            unstable=self.baseline.unstable,
            requirements=self.requirements,
        )

    async def finish(
        self, record: Callable[[Any, Verdict], tuple[Task, SweSecret]], description: str, builder: str
    ) -> BuildReport:
        """Write the task set, grade some of it and write the report."""
        chosen, report = self._queue.chosen(), self.report
        if not chosen:
            raise ConfigError(
                f"{self.source}: none of {report.num_candidates} mutations breaks a stable test; take another package"
            )
        records = [record(candidate, verdict) for candidate, verdict in chosen]
        tasks = [task for task, _ in records]
        report.num_train = sum(task.labels["split"] == "train" for task in tasks)
        report.num_heldout = sum(task.labels["split"] == "heldout" for task in tasks)
        report.kinds = dict(Counter(task.labels["kind"] for task in tasks))
        report.operators = dict(
            Counter(f"{task.labels['kind']}/{task.labels['operator']}" for task in tasks if "operator" in task.labels)
        )
        step = max(len(chosen) // NUM_EXAMPLES, 1)
        report.examples = [
            (task.task_id, gold_patch(self.staged, candidate))
            for task, (candidate, _) in list(zip(tasks, chosen, strict=True))[::step][:NUM_EXAMPLES]
        ]
        source = self.staged.source
        manifest = Manifest(
            name=f"{source.name.lower()}-mutate-fix",
            license=source.license,
            source=source.origin,
            description=description,
            builder=builder,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            requirements=self.staged.requirements,
            statistics={"verdicts": report.verdicts, "kinds": report.kinds},
        )
        taskset = save_task_set(self.out, manifest, tasks, [secret for _, secret in records])
        report.num_graded = await _grade_some(taskset, self.provider, self.jobs)
        self._clock.lap("writing and grading")
        report.seconds = self._clock.laps
        report.write(self.out)
        return report


async def _grade_some(taskset: FolderTaskSet, provider: SandboxProvider, jobs: int) -> int:
    """Put the gold patches of a few tasks, spread over the set, through the real grader.

    Raises:
        ConfigError: one is not resolved: then the tests depend on how they are run, and the set is not to be trusted.
    """
    ids = taskset.ids()[:: max(len(taskset) // NUM_GRADED, 1)][:NUM_GRADED]
    grader = SweGrader(provider, taskset, jobs=jobs)
    try:
        outcomes = await asyncio.gather(*(grader.grade(taskset.get(i), taskset.secret(i).patch) for i in ids))
    finally:
        await grader.close()
    for outcome in outcomes:
        if not outcome.resolved:
            detail = f"{outcome.reason}, not resolved: {outcome.log_tail.strip()[-200:]}"
            raise ConfigError(f"the gold patch of {outcome.task_id} is graded {detail}")
    return len(outcomes)
