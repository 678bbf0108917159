"""The grader of repository tasks: patch -> fresh sandbox -> hidden tests -> Outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swegym.core.errors import ConfigError, SandboxError, TaskError
from swegym.core.outcome import Outcome, TestStatus, Validity
from swegym.core.records import digest
from swegym.core.sandbox import SandboxProvider, SandboxSpec
from swegym.core.similarity import patch_similarity
from swegym.core.task import SweSecret, Task, TaskSet
from swegym.envs.graders.attempt import Attempt, TestFiles, run_attempt
from swegym.envs.graders.cache import GradeCache
from swegym.envs.graders.judge import Verdict, judge
from swegym.envs.graders.log_run import grade_by_log
from swegym.envs.graders.protect import EXACT, LENIENT
from swegym.envs.tasksets.folder import sandbox_spec

__all__ = ["SweGrader"]

MAX_PATCH_CHARACTERS = 16 * 1024**2


@dataclass(slots=True)
class _GoldFacts:
    """What the gold patch of a task shows when it is graded in the same way."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    has_run: bool = False
    bears_copies: bool = True
    """Whether its tests pass with copies beside them; otherwise the task is graded without."""
    excused: set[str] = field(default_factory=set)
    accused: set[str] = field(default_factory=set)
    """Accusations that it was held against and did not show."""


class SweGrader:
    """Grades patches of one task set. Never raises for what a patch does."""

    name = "swe/2"

    def __init__(
        self,
        provider: SandboxProvider,
        taskset: TaskSet,
        *,
        jobs: int = 2,
        cache_path: str | Path | None = None,
        strategies: Sequence[str] = EXACT,
    ) -> None:
        """Args: as follows.

        Args:
            provider: makes the sandboxes; stays the caller's to close.
            taskset: where the secret halves and the image recipes come from.
            jobs: gradings at a time.
            cache_path: JSONL file that keeps grades between runs.
            strategies: ways to apply a patch, tried in order: `protect.EXACT` for patches of our own environments,
                `protect.LENIENT` for predictions from elsewhere.

        Raises:
            ConfigError: an unknown strategy.
        """
        if not strategies or not set(strategies) <= set(LENIENT):
            raise ConfigError(f"strategies must be some of {', '.join(LENIENT)}; got {', '.join(strategies) or 'none'}")
        self._provider = provider
        self._taskset = taskset
        self._strategies = tuple(strategies)
        self._slots = asyncio.Semaphore(jobs)
        self._cache = GradeCache(cache_path)
        self._gold: dict[str, _GoldFacts] = {}

    async def grade(self, task: Task, patch: str) -> Outcome:
        """Whether the patch solves the task, cached by (task, secret, patch, strategies).

        Raises:
            UnknownName: the task is not of this grader's task set.
        """
        secret = self._taskset.secret(task.task_id)
        if not patch.strip():
            return self._outcome(task, secret, patch, reason="empty_patch")
        if len(patch) > MAX_PATCH_CHARACTERS:
            return self._outcome(task, secret, "", reason="patch_too_large")
        how = (self.name, *self._strategies)
        data = patch.encode("utf-8", "surrogateescape")
        key = digest(*how, task.fingerprint, secret.model_dump_json(), data)
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
                if not secret.FAIL_TO_PASS:
                    raise TaskError(f"{task.task_id} has no FAIL_TO_PASS tests: nothing could be shown by it")
                spec = await asyncio.to_thread(sandbox_spec, task, self._taskset)
                try:
                    outcome = await self._grade(task, secret, patch, spec)
                except SandboxError:  # a lost sandbox says nothing about the patch: once more, then give up
                    outcome = await self._grade(task, secret, patch, spec)
            except SandboxError as error:
                outcome = self._invalid(task, secret, patch, Validity.INFRASTRUCTURE, "sandbox_failed", str(error))
            except TaskError as error:
                outcome = self._invalid(task, secret, patch, Validity.TASK, "broken_task", str(error))
            return outcome.model_copy(update={"duration_s": time.monotonic() - start})

    def _invalid(self, task: Task, secret: SweSecret, patch: str, validity: Validity, reason: str, log: str) -> Outcome:
        return self._outcome(task, secret, patch, reason=reason, validity=validity, log_tail=log)

    def _doubtful(self, task: Task, secret: SweSecret, patch: str, reason: str, attempt: Attempt) -> Outcome:
        """The grader cannot decide: kept out of rewards, and not remembered."""
        outcome = self._invalid(task, secret, patch, Validity.GRADER, reason, attempt.log_tail)
        return outcome.model_copy(update={"notices": attempt.notices})

    async def _grade(self, task: Task, secret: SweSecret, patch: str, spec: SandboxSpec) -> Outcome:
        if secret.log_parser:
            return await self._grade_by_log(task, secret, patch, spec)
        attempt, verdict = await self._attempt(task, secret, patch, spec)
        if verdict is None or attempt.report is None:
            reason = "patch_does_not_apply" if attempt.applied.status == "does_not_apply" else "tampered"
            log = attempt.applied.log
            return self._outcome(task, secret, patch, reason=reason, notices=attempt.notices, log_tail=log)
        if _is_starved(attempt, verdict):
            attempt, verdict = await self._attempt(task, secret, patch, spec)
            if verdict is None or _is_starved(attempt, verdict):
                return self._doubtful(task, secret, patch, "timed_out_under_load", attempt)
        if _may_be_flaky(verdict, secret):
            again, second = await self._attempt(task, secret, patch, spec)
            if second is None or second.reason != verdict.reason:
                return self._doubtful(task, secret, patch, "flaky_tests", again)
        return self._outcome(
            task,
            secret,
            patch,
            reason=verdict.reason,
            tests=verdict.tests,
            notices=(*attempt.notices, *verdict.notices),
            log_tail="" if verdict.reason == "resolved" else attempt.log_tail,
            patch_applied_by=attempt.applied.strategy,
        )

    async def _grade_by_log(self, task: Task, secret: SweSecret, patch: str, spec: SandboxSpec) -> Outcome:
        verdict = await grade_by_log(self._provider, spec, task, secret, patch, self._strategies)
        return self._outcome(
            task,
            secret,
            patch,
            reason=verdict.reason,
            tests=verdict.tests,
            notices=verdict.notices,
            log_tail=verdict.log_tail,
            patch_applied_by=verdict.applied_by,
        )

    async def _attempt(
        self, task: Task, secret: SweSecret, patch: str, spec: SandboxSpec
    ) -> tuple[Attempt, Verdict | None]:
        """Run and judge; what speaks against a passing run, and a failure that copies may have caused, is held against
        the gold patch. No verdict: the patch was not applied.
        """
        facts = self._gold.setdefault(task.task_id, _GoldFacts())
        files = None if facts.bears_copies else TestFiles()
        attempt = await self._run(task, secret, patch, spec, files)
        if attempt.report is None:
            return attempt, None
        verdict = judge(attempt.report, attempt.required)
        unknown = set(verdict.accusations) - facts.excused - facts.accused
        if unknown or (verdict.is_ambiguous and not facts.has_run):
            await self._ask_gold(facts, task, secret, spec, attempt, unknown)
        if verdict.is_ambiguous and not facts.bears_copies:
            attempt = await self._run(task, secret, patch, spec, TestFiles())
            if attempt.report is None:
                return attempt, None
            verdict = judge(attempt.report, attempt.required)
        if set(verdict.accusations) - facts.excused:
            verdict = Verdict("tampered", verdict.tests, verdict.notices)
        return attempt, verdict

    async def _run(
        self, task: Task, secret: SweSecret, patch: str, spec: SandboxSpec, files: TestFiles | None
    ) -> Attempt:
        return await run_attempt(
            self._provider, spec, task, secret, patch, test_files=files, strategies=self._strategies
        )

    async def _ask_gold(
        self, facts: _GoldFacts, task: Task, secret: SweSecret, spec: SandboxSpec, attempt: Attempt, unknown: set[str]
    ) -> None:
        """Grade the gold patch over the same test files; once for a task and for each new accusation."""
        async with facts.lock:
            if facts.has_run and not unknown - facts.excused - facts.accused:
                return
            gold = None
            if secret.patch.strip():
                gold = await run_attempt(
                    self._provider, spec, task, secret, secret.patch, test_files=attempt.test_files, strategies=LENIENT
                )
            shown: set[str] = set()
            if gold is not None and gold.report is not None:
                verdict = judge(gold.report, gold.required)
                facts.bears_copies = facts.bears_copies and verdict.reason == "resolved"
                shown = set(verdict.accusations)
            facts.has_run = True
            facts.excused |= shown
            facts.accused |= unknown - shown


def _is_starved(attempt: Attempt, verdict: Verdict) -> bool:
    return verdict.reason == "tests_timed_out" and attempt.report is not None and attempt.report.is_starved


def _may_be_flaky(verdict: Verdict, secret: SweSecret) -> bool:
    """Only tests failed that passed before the patch too: the patch broke them, or they pass by chance."""
    bad = (TestStatus.FAILED, TestStatus.ERROR)
    failed = {test_id for test_id, status in verdict.tests.items() if status in bad}
    return verdict.reason == "tests_failed" and failed.isdisjoint(secret.FAIL_TO_PASS)
