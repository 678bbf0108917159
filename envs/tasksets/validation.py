"""Does a mutation break a stable test? One run of the covering test files decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic import ValidationError

from swegym.core.outcome import TestStatus
from swegym.core.records import Record
from swegym.core.sandbox import Sandbox, SandboxProvider
from swegym.core.task import LineEdit
from swegym.envs.graders.pytest_run import PytestReport, PytestRequest, install_runner, run_pytest, time_limits_s
from swegym.envs.tasksets.baseline import run_together
from swegym.envs.tasksets.candidates import Candidate
from swegym.envs.tasksets.mutations import Mutation
from swegym.envs.tasksets.staging import WORKDIR, Staged
from swegym.envs.workspace import apply_line_edits

__all__ = ["Journal", "Verdict", "validate_candidates", "verdict_of"]

RUNS_PER_SANDBOX = 25
"""A sandbox is replaced after so many mutations, so that what tests leave behind does not pile up."""
TEST_TIMEOUT_S = 60.0
WAIT_S = 3.0


class Verdict(Record):
    """What became of one candidate."""

    key: str
    status: str
    """broken (a task) | survived | timed_out | out_of_memory | aborted"""
    test_files: tuple[str, ...] = ()
    """Files up to the first one with a failing test."""
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    baseline_s: float = 0.0
    """Wall time of these files on the sound tree."""


class Journal:
    """Verdicts in a JSONL file, so that an interrupted build goes on where it stopped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.verdicts: dict[str, Verdict] = {}
        if path.exists():
            for line in path.read_bytes().split(b"\n"):
                try:
                    verdict = Verdict.model_validate_json(line)
                except ValidationError:
                    continue  # the line that an interruption cut short: that candidate is run again
                self.verdicts[verdict.key] = verdict

    def add(self, verdict: Verdict) -> None:
        self.verdicts[verdict.key] = verdict
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, b"\n" + verdict.model_dump_json().encode() + b"\n")
        finally:
            os.close(handle)


def line_edit(mutation: Mutation) -> LineEdit:
    """The start edit that breaks the tree."""
    return LineEdit(path=mutation.path, first_line=mutation.line, last_line=mutation.line, text=mutation.after_line)


async def validate_candidates(
    candidates: Iterable[Candidate],
    staged: Staged,
    provider: SandboxProvider,
    journal: Journal,
    *,
    wanted: dict[str, int],
    jobs: int,
    test_command: str,
    on_verdict: Callable[[Candidate, Verdict], None],
) -> None:
    """Validate in order, until each split has as many broken candidates as wanted or none are left.

    Verdicts go to the journal; candidates that are in it already are not run again.
    """
    queue = iter(candidates)
    num_broken = dict.fromkeys(wanted, 0)

    def record(candidate: Candidate, verdict: Verdict) -> None:
        num_broken[candidate.split] += verdict.status == "broken"
        on_verdict(candidate, verdict)

    def next_candidate() -> Candidate | None:
        for candidate in queue:
            if num_broken[candidate.split] >= wanted[candidate.split]:
                continue
            known = journal.verdicts.get(candidate.key)
            if known is None:
                return candidate
            record(candidate, known)
        return None

    async def work() -> None:
        sandbox, folder, num_runs = None, "", 0
        try:
            while (candidate := next_candidate()) is not None:
                if sandbox is None:
                    sandbox, num_runs = await provider.create(staged.spec()), 0
                    folder = await install_runner(sandbox)
                verdict, is_clean = await _validate(candidate, staged, sandbox, folder, test_command)
                journal.add(verdict)
                record(candidate, verdict)
                num_runs += 1
                if num_runs >= RUNS_PER_SANDBOX or not is_clean:
                    await sandbox.close()
                    sandbox = None
        finally:
            if sandbox is not None:
                await sandbox.close()

    await run_together(work() for _ in range(jobs))


async def _validate(
    candidate: Candidate, staged: Staged, sandbox: Sandbox, folder: str, test_command: str
) -> tuple[Verdict, bool]:
    """The verdict, and whether the sandbox may be used again."""
    mutation = candidate.mutation
    path = f"{WORKDIR}/{mutation.path}"
    sound = (staged.workspace / mutation.path).read_bytes()
    await sandbox.write_file(path, apply_line_edits(sound, [line_edit(mutation)]))
    # Bytecode cannot be stale: the workspace's was made for an older file time, and nothing here writes new.
    required = tuple(test_id for item in candidate.test_files for test_id in item.stable)
    cpu_limit_s, _ = time_limits_s(candidate.baseline_s, TEST_TIMEOUT_S)
    request = PytestRequest(
        workdir=WORKDIR,
        files=tuple(item.path for item in candidate.test_files),
        test_command=test_command,
        required=required,
        stop="file",
        cpu_limit_s=cpu_limit_s,
        # Tighter than the grader's: a bug that makes tests wait for a socket is slow to grade, so it is no task.
        wall_limit_s=cpu_limit_s + WAIT_S,
    )
    report = await run_pytest(sandbox, folder, request)
    await sandbox.write_file(path, sound)
    return verdict_of(candidate, report), report.ended


def verdict_of(candidate: Candidate, report: PytestReport) -> Verdict:
    """Read a run: broken when a stable test of some file did not pass and pytest came to its own end."""
    if report.killed_by is not None:
        return Verdict(key=candidate.key, status={"oom": "out_of_memory"}.get(report.killed_by, "timed_out"))
    if not report.ended:
        return Verdict(key=candidate.key, status="aborted")
    for index, item in enumerate(candidate.test_files):
        failed = tuple(test for test in item.stable if report.statuses.get(test) is not TestStatus.PASSED)
        if failed:
            run_files = candidate.test_files[: index + 1]
            return Verdict(
                key=candidate.key,
                status="broken",
                test_files=tuple(file.path for file in run_files),
                fail_to_pass=failed,
                pass_to_pass=tuple(test for file in run_files for test in file.stable if test not in failed),
                baseline_s=sum(file.duration_s for file in run_files),
            )
    return Verdict(key=candidate.key, status="survived")
