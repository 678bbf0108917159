"""Mutate-fix tasks from one package: stage, measure, mutate, validate, write.

Source of the idea: CWM (arXiv 2510.02387) section 2.3, its mutate-fix data; here the operator kind, one token a task.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.graders.swe import SweGrader
from swegym.envs.tasksets.baseline import Baseline, measure_baseline
from swegym.envs.tasksets.candidates import Candidate, choose_candidates
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.folder import FolderTaskSet, Manifest, save_task_set
from swegym.envs.tasksets.mutations import DEFAULT_KINDS
from swegym.envs.tasksets.sources import find_source
from swegym.envs.tasksets.staging import WORKDIR, Staged, stage
from swegym.envs.tasksets.validation import Journal, Verdict, line_edit, validate_candidates
from swegym.envs.workspace import apply_line_edits

__all__ = ["BuildReport", "build_mutate_fix"]

BUILDER = "swegym mutate-fix/1"
NOT_SOURCE = frozenset({"tests", "test", "testing", "docs", "doc", "examples", "benchmarks", "setup.py", "conftest.py"})
TEST_COMMAND = "python -m pytest -o addopts="
NUM_GRADED = 6
"""Tasks whose gold patch goes through the real grader at the end of a build."""

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class BuildReport:
    """What a build did."""

    folder: str
    source: str
    num_train: int
    num_heldout: int
    num_candidates: int
    num_stable_tests: int
    num_unstable_tests: int
    verdicts: dict[str, int] = field(default_factory=dict)
    """Status -> candidates, of this build and of the interrupted ones before it."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Mutation kind -> tasks."""
    num_graded: int = 0
    """Tasks whose gold patch the grader resolved."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall time."""

    def markdown(self) -> str:
        """The text of report.md."""
        lines = [f"# Mutate-fix tasks from {self.source}", ""]
        lines += [
            f"- {self.num_train} training and {self.num_heldout} held-out tasks, of {self.num_candidates} candidates"
        ]
        lines += [f"- {self.num_stable_tests} stable tests; {self.num_unstable_tests} left out, not passing every time"]
        lines += [f"- {self.num_graded} gold patches resolved by the grader", "", "| candidates | count |", "|---|---|"]
        lines += [f"| {status} | {count} |" for status, count in sorted(self.verdicts.items())]
        lines += ["", "| mutation kind | tasks |", "|---|---|"]
        lines += [f"| {kind} | {count} |" for kind, count in sorted(self.kinds.items())]
        lines += ["", "| stage | seconds |", "|---|---|"]
        lines += [f"| {name} | {seconds:.1f} |" for name, seconds in self.seconds.items()]
        return "\n".join(lines) + "\n"


async def build_mutate_fix(
    source: str,
    out_folder: str | Path,
    num_train: int,
    num_heldout: int,
    seed: int,
    jobs: int,
    provider: SandboxProvider,
    progress: Progress | None = None,
    *,
    requirements: tuple[str, ...] = (),
    kinds: tuple[str, ...] = DEFAULT_KINDS,
) -> BuildReport:
    """Build a validated task set in a folder; equal for equal arguments, as far as slow tests stay slow.

    An interrupted build is taken up again by calling it again with the same folder.

    Args:
        source: a package such as `boltons==26.2.0`, fetched as an sdist, or the path of a source folder.
        out_folder: becomes the task set; its `build/` holds the journal.
        num_train: training tasks wanted.
        num_heldout: held-out tasks wanted. Fewer of either are made when the package does not yield more.
        seed: decides sites, mutations, order and split.
        jobs: sandboxes at a time.
        provider: where everything of the package runs.
        progress: called with (stage, done, total).
        requirements: what the tests need besides pytest and the package's own requirements.
        kinds: of mutations, keys of `mutations.MUTATORS`.

    Raises:
        ConfigError: no such package, no network, no tests, no mutation that a test notices.
        TaskError: the suite does not run.
    """
    report_progress: Progress = progress or (lambda *_: None)
    out = Path(out_folder)
    clock = _Clock()
    tree = await asyncio.to_thread(find_source, source)
    _make_folder(out / "build")
    staged = await asyncio.to_thread(stage, tree, out.resolve(), requirements)
    clock.lap("source and dependencies")
    baseline = await _baseline(staged, provider, jobs, report_progress)
    clock.lap("baseline and coverage")
    candidates = choose_candidates(
        _sources(staged), baseline, num_train=num_train, num_heldout=num_heldout, seed=seed, kinds=kinds
    )
    wanted = {"train": num_train, "heldout": num_heldout}
    journal = Journal(out / "build" / "journal.jsonl")
    verdicts: dict[str, Verdict] = {}

    def on_verdict(candidate: Candidate, verdict: Verdict) -> None:
        verdicts[candidate.key] = verdict
        num_broken = sum(item.status == "broken" for item in verdicts.values())
        report_progress("tasks", min(num_broken, sum(wanted.values())), sum(wanted.values()))

    await validate_candidates(
        candidates,
        staged,
        provider,
        journal,
        wanted=wanted,
        jobs=jobs,
        test_command=TEST_COMMAND,
        on_verdict=on_verdict,
    )
    clock.lap("validation")
    chosen = _choose(candidates, verdicts, wanted)
    if not chosen:
        raise ConfigError(f"{source}: none of {len(candidates)} mutations breaks a stable test; take another package")
    report = _report(out, staged, baseline, len(candidates), verdicts, chosen)
    taskset = _save(out, staged, chosen, seed, report)
    report.num_graded = await _grade_some(taskset, provider, jobs)
    clock.lap("writing and grading")
    report.seconds = clock.laps
    (out / "report.md").write_text(report.markdown(), "utf-8")
    return report


def _report(
    out: Path,
    staged: Staged,
    baseline: Baseline,
    num_candidates: int,
    verdicts: dict[str, Verdict],
    chosen: list[tuple[Candidate, Verdict]],
) -> BuildReport:
    return BuildReport(
        folder=str(out),
        source=staged.source.origin,
        num_train=sum(candidate.split == "train" for candidate, _ in chosen),
        num_heldout=sum(candidate.split == "heldout" for candidate, _ in chosen),
        num_candidates=num_candidates,
        num_stable_tests=sum(len(item.stable) for item in baseline.files),
        num_unstable_tests=baseline.num_unstable,
        verdicts=dict(Counter(verdict.status for verdict in verdicts.values())),
        kinds=dict(Counter(candidate.mutation.kind for candidate, _ in chosen)),
    )


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create {folder}: {error.strerror}") from None


async def _baseline(staged: Staged, provider: SandboxProvider, jobs: int, progress: Progress) -> Baseline:
    """Measured once for a tree; an interrupted build finds it again."""
    path = staged.folder / "build" / f"baseline-{staged.image.rpartition(':')[2]}.json"
    if path.exists():
        try:
            return Baseline.model_validate_json(path.read_bytes())
        except ValidationError:
            path.unlink()  # cut short by an interruption
    baseline = await measure_baseline(staged, provider, jobs=jobs, test_command=TEST_COMMAND, progress=progress)
    path.write_text(baseline.model_dump_json(), "utf-8")
    return baseline


def _sources(staged: Staged) -> dict[str, str]:
    """Files that may be mutated: UTF-8 Python outside tests, docs and set-up."""
    sources: dict[str, str] = {}
    for path in sorted(staged.workspace.rglob("*.py")):
        relative = path.relative_to(staged.workspace)
        if NOT_SOURCE & set(relative.parts) or path.name.startswith("test_") or path.name.endswith("_test.py"):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
            compile(text, str(relative), "exec", dont_inherit=True)
        except (UnicodeDecodeError, SyntaxError, ValueError):
            continue  # templates and files for other Pythons
        sources[relative.as_posix()] = text
    return sources


def _choose(
    candidates: list[Candidate], verdicts: dict[str, Verdict], wanted: dict[str, int]
) -> list[tuple[Candidate, Verdict]]:
    """The first `wanted` broken candidates of each split in order, whatever order their verdicts came in."""
    left = dict(wanted)
    chosen: list[tuple[Candidate, Verdict]] = []
    for candidate in candidates:
        verdict = verdicts.get(candidate.key)
        if verdict is not None and verdict.status == "broken" and left[candidate.split] > 0:
            left[candidate.split] -= 1
            chosen.append((candidate, verdict))
    return chosen


def _save(
    out: Path, staged: Staged, chosen: list[tuple[Candidate, Verdict]], seed: int, report: BuildReport
) -> FolderTaskSet:
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    name = f"{staged.source.name.lower()}-mutate-fix"
    manifest = Manifest(
        name=name,
        license=staged.source.license,
        source=staged.source.origin,
        description=f"One wrong operator or word in {staged.source.name} {staged.source.version} (seed {seed}).",
        builder=BUILDER,
        created_at=created_at,
        requirements=staged.requirements,
        statistics={"verdicts": report.verdicts, "kinds": report.kinds},
    )
    records = [_records(staged, candidate, verdict) for candidate, verdict in chosen]
    return save_task_set(out, manifest, [task for task, _ in records], [secret for _, secret in records])


def _records(staged: Staged, candidate: Candidate, verdict: Verdict) -> tuple[Task, SweSecret]:
    source, mutation = staged.source, candidate.mutation
    module = mutation.path.replace("/", ".").removesuffix(".py")
    task_id = f"{source.name.lower()}-{module}-{mutation.line}-{candidate.key[:6]}"
    sound = (staged.workspace / mutation.path).read_bytes()
    broken = apply_line_edits(sound, [line_edit(mutation)])
    task = Task(
        task_id=task_id,
        statement=(
            f"A test fails because of one wrong operator or word in {mutation.path}, line {mutation.line}:\n\n"
            f"    {mutation.after_line.strip()}\n\nMend that line."
        ),
        provenance=Provenance(source=source.origin, license=source.license, builder=BUILDER),
        payload=SweTask(
            repo=source.name,
            version=source.version,
            image=staged.image,
            recipe=ImageRecipe(workspace="workspace", dependencies="dependencies"),
            workdir=WORKDIR,
            start_edits=(line_edit(mutation),),
            setup_commands=(f"export F={shlex.quote(mutation.path)} L={mutation.line}",),
            environment=staged.environment,
            test_command=TEST_COMMAND,
            protected_paths=staged.protected_paths,
            hints={"file": mutation.path, "line": str(mutation.line), "text": mutation.after_line.strip()},
        ),
        labels={"split": candidate.split, "kind": mutation.kind},
    )
    secret = SweSecret(
        task_id=task_id,
        patch=unified_diff(mutation.path, broken.decode(), sound.decode()),
        FAIL_TO_PASS=verdict.fail_to_pass,
        PASS_TO_PASS=verdict.pass_to_pass,
        test_files=verdict.test_files,
        baseline_s=round(verdict.baseline_s, 3),
    )
    return task, secret


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
