"""The grader of repository tasks: patch -> fresh sandbox -> hidden tests -> Outcome."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import time
from pathlib import Path

from swegym.core.errors import SandboxError, TaskError
from swegym.core.outcome import Outcome, TestStatus, Validity
from swegym.core.records import digest
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.core.similarity import patch_similarity
from swegym.core.task import SweSecret, Task, TaskSet
from swegym.envs.graders.cache import GradeCache
from swegym.envs.graders.protect import DOES_NOT_APPLY, NOT_RESTORED, apply_patch, touched_protected_paths
from swegym.envs.graders.pytest_run import (
    PytestReport,
    PytestRequest,
    files_of,
    install_runner,
    read_log_tail,
    run_pytest,
    time_limits_s,
)
from swegym.envs.tasksets.folder import sandbox_spec
from swegym.envs.workspace import GIT, apply_start_edits

__all__ = ["SweGrader"]

MAX_PATCH_CHARACTERS = 16 * 1024**2
TESTS_FAILED_EXIT = 1
"""pytest's exit code of every honest run here, because the must-fail sentinel fails."""


class SweGrader:
    """Grades patches of one task set. Never raises for what a patch does."""

    name = "swe/1"

    def __init__(
        self, provider: SandboxProvider, taskset: TaskSet, *, jobs: int = 2, cache_path: str | Path | None = None
    ) -> None:
        """Args: as follows.

        Args:
            provider: makes the sandboxes; stays the caller's to close.
            taskset: where the secret halves and the image recipes come from.
            jobs: gradings at a time.
            cache_path: JSONL file that keeps grades between runs.
        """
        self._provider = provider
        self._taskset = taskset
        self._slots = asyncio.Semaphore(jobs)
        self._cache = GradeCache(cache_path)

    async def grade(self, task: Task, patch: str) -> Outcome:
        """Whether the patch solves the task, cached by (task, secret, patch).

        Raises:
            UnknownName: the task is not of this grader's task set.
        """
        secret = self._taskset.secret(task.task_id)
        if not patch.strip():
            return self._outcome(task, secret, patch, reason="empty_patch")
        if len(patch) > MAX_PATCH_CHARACTERS:
            return self._outcome(task, secret, "", reason="patch_too_large")
        key = digest(self.name, task.fingerprint, secret.model_dump_json(), patch.encode("utf-8", "surrogateescape"))
        return await self._cache.get(key, lambda: self._grade_limited(task, secret, patch))

    async def close(self) -> None:
        """Cancel what is running. The provider stays open."""
        await self._cache.close()

    def _outcome(self, task: Task, secret: SweSecret, patch: str, *, reason: str, **values: object) -> Outcome:
        fields: dict[str, object] = {
            "task_id": task.task_id,
            "resolved": reason == "resolved",
            "reason": reason,
            "patch": patch,
            "similarity": patch_similarity(patch, secret.patch),
            "grader": f"{self.name} on {self._provider.name}",
        }
        return Outcome.model_validate(fields | values)

    async def _grade_limited(self, task: Task, secret: SweSecret, patch: str) -> Outcome:
        async with self._slots:
            start = time.monotonic()
            try:
                spec = await asyncio.to_thread(sandbox_spec, task, self._taskset)
                try:
                    outcome = await self._grade_once(task, secret, patch, spec)
                except SandboxError:  # a lost sandbox says nothing about the patch: once more, then give up
                    outcome = await self._grade_once(task, secret, patch, spec)
            except SandboxError as error:
                outcome = self._invalid(task, secret, patch, Validity.INFRASTRUCTURE, "sandbox_failed", error)
            except TaskError as error:
                outcome = self._invalid(task, secret, patch, Validity.TASK, "broken_task", error)
            return outcome.model_copy(update={"duration_s": time.monotonic() - start})

    def _invalid(
        self, task: Task, secret: SweSecret, patch: str, validity: Validity, reason: str, error: Exception
    ) -> Outcome:
        return self._outcome(task, secret, patch, reason=reason, validity=validity, log_tail=str(error))

    async def _grade_once(self, task: Task, secret: SweSecret, patch: str, spec: SandboxSpec) -> Outcome:
        sandbox = await self._provider.create(spec)
        try:
            return await self._grade_in(sandbox, task, secret, patch)
        finally:
            await sandbox.close()

    async def _grade_in(self, sandbox: Sandbox, task: Task, secret: SweSecret, patch: str) -> Outcome:
        payload = task.payload
        if not secret.FAIL_TO_PASS:
            raise TaskError(f"{task.task_id} has no FAIL_TO_PASS tests: nothing could be shown by it")
        if payload.base_commit:
            await sandbox.run(f"cd {shlex.quote(payload.workdir)} && {GIT} checkout -q -f {payload.base_commit} --")
        await apply_start_edits(sandbox, payload)
        folder = await install_runner(sandbox)
        files = _ordered_files(secret)
        protected = (*payload.protected_paths, *files, *secret.hidden_files)
        notices = tuple(f"protected path in patch: {path}" for path in touched_protected_paths(patch, protected))
        applied = await apply_patch(sandbox, payload.workdir, patch, protected, folder)
        if applied.exit_code in (DOES_NOT_APPLY, NOT_RESTORED):
            reason = "patch_does_not_apply" if applied.exit_code == DOES_NOT_APPLY else "tampered"
            return self._outcome(task, secret, patch, reason=reason, notices=notices, log_tail=applied.text[-2000:])
        if applied.exit_code != 0:
            raise SandboxError(f"cannot prepare the grading of {task.task_id}: {applied.text.strip()[-300:]}")
        for path, content in secret.hidden_files.items():
            await sandbox.write_file(f"{payload.workdir}/{path}", content.encode())
        sentinels = await _write_sentinels(sandbox, payload.workdir, files[0])
        for command in payload.setup_commands:
            await sandbox.run(command, timeout_s=task.limits.command_timeout_s)
        cpu_limit_s, wall_limit_s = time_limits_s(secret.baseline_s, task.limits.test_timeout_s)
        request = PytestRequest(
            workdir=payload.workdir,
            files=(*files, sentinels.path),
            test_command=payload.test_command,
            required=(*secret.FAIL_TO_PASS, *secret.PASS_TO_PASS),
            stop="test",
            plain_asserts=payload.recipe is not None,  # sets of our own were measured so; others may test pytest itself
            cpu_limit_s=cpu_limit_s,
            wall_limit_s=wall_limit_s,
        )
        report = await run_pytest(sandbox, folder, request)
        reason, suspicions = judge(report, request.required, sentinels)
        return self._outcome(
            task,
            secret,
            patch,
            reason=reason,
            tests=required_statuses(report, request.required),
            notices=(*notices, *suspicions),
            log_tail="" if reason == "resolved" else await read_log_tail(sandbox, folder),
        )


class Sentinels:
    """Two hidden tests with names nobody can know before: one must pass, one must fail."""

    def __init__(self, folder: str) -> None:
        self.must_pass, self.must_fail = (f"test_{secrets.token_hex(6)}" for _ in range(2))
        self.path = f"{folder}test_{secrets.token_hex(6)}.py"
        self.text = f"def {self.must_fail}():\n    raise AssertionError\n\n\ndef {self.must_pass}():\n    pass\n"

    def hold(self, statuses: dict[str, TestStatus]) -> bool:
        """Whether both came out right."""
        passed, failed = (statuses.get(f"{self.path}::{name}") for name in (self.must_pass, self.must_fail))
        return passed is TestStatus.PASSED and failed is TestStatus.FAILED


async def _write_sentinels(sandbox: Sandbox, workdir: str, first_file: str) -> Sentinels:
    folder, separator, _ = first_file.rpartition("/")
    sentinels = Sentinels(folder + separator)
    await sandbox.write_file(f"{workdir}/{sentinels.path}", sentinels.text.encode())
    return sentinels


def _ordered_files(secret: SweSecret) -> tuple[str, ...]:
    """Files of FAIL_TO_PASS first, so that a wrong patch is found out early."""
    first = files_of(secret.FAIL_TO_PASS)
    rest = secret.test_files or files_of(secret.PASS_TO_PASS)
    return (*first, *(path for path in rest if path not in first))


def required_statuses(report: PytestReport, required: tuple[str, ...]) -> dict[str, TestStatus]:
    """Status of every hidden test; those that did not run are named by the reason why."""
    absent = {"timeout": TestStatus.TIMEOUT, "oom": TestStatus.OOM}.get(report.killed_by or "", TestStatus.MISSING)
    return {test_id: report.statuses.get(test_id, absent) for test_id in required}


def judge(report: PytestReport, required: tuple[str, ...], sentinels: Sentinels) -> tuple[str, tuple[str, ...]]:
    """Reason of the outcome, and what was suspicious. Resolved only if nothing at all speaks against it."""
    if report.killed_by == "timeout":
        return "tests_timed_out", report.suspicions
    if report.killed_by == "oom":
        return "tests_out_of_memory", report.suspicions
    if report.suspicions:
        return "tampered", report.suspicions
    if any(report.statuses.get(test_id, TestStatus.PASSED) is not TestStatus.PASSED for test_id in required):
        return "tests_failed", ()
    if not report.statuses:
        return "no_tests_ran", ()
    if not report.ended:
        return "tests_aborted", ("pytest did not come to its end",)
    if not all(test_id in report.statuses for test_id in required):
        return "tests_missing", ()
    if report.exit_code != TESTS_FAILED_EXIT or not sentinels.hold(report.statuses):
        return "tampered", ("sentinel tests came out wrong",)
    return "resolved", ()
