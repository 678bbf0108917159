"""Does a mutation break a stable test? Runs of the covering test files decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from swegym.core.sandbox import Sandbox, SandboxProvider
from swegym.core.task import LineEdit
from swegym.envs.graders.pytest_run import PytestReport, PytestRequest, install_runner, run_pytest, time_limits_s
from swegym.envs.tasksets.baseline import run_together
from swegym.envs.tasksets.journal import Journal
from swegym.envs.tasksets.staging import WORKDIR, Staged
from swegym.envs.tasksets.verdicts import Judged, Rules, Verdict, agreed, limited, verdict_of
from swegym.envs.workspace import apply_line_edits

__all__ = ["Queue", "validate_candidates"]

RUNS_PER_SANDBOX = 25
"""A sandbox is replaced after so many mutations, so that what tests leave behind does not pile up."""
TEST_TIMEOUT_S = 60.0
WAIT_S = 3.0


C = TypeVar("C", bound=Judged)


class Queue(Protocol[C]):
    """Where candidates come from and verdicts go."""

    def next(self) -> C | None:
        """None: enough are broken, or none are left."""
        ...

    def record(self, candidate: C, verdict: Verdict) -> None: ...


class _Gate:
    """Lets many in at a time, or one alone."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()
        self._num_inside = 0
        self._is_closed = False

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._condition:
            await self._condition.wait_for(lambda: not self._is_closed)
            self._num_inside += 1
        try:
            yield
        finally:
            async with self._condition:
                self._num_inside -= 1
                self._condition.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._condition:
            await self._condition.wait_for(lambda: not self._is_closed)
            self._is_closed = True
            await self._condition.wait_for(lambda: self._num_inside == 0)
        try:
            yield
        finally:
            async with self._condition:
                self._is_closed = False
                self._condition.notify_all()


async def validate_candidates(
    queue: Queue[C],
    staged: Staged,
    provider: SandboxProvider,
    journal: Journal[Verdict],
    *,
    jobs: int,
    test_command: str,
    rules: Rules,
) -> None:
    """Validate in the queue's order until it has enough.

    Verdicts go to the journal; candidates that are in it already are not run again. One that ran out of time is tried
    once more when nothing else of this build runs: a verdict is not to depend on how busy the machine is.
    """
    gate = _Gate()

    def next_candidate() -> C | None:
        while (candidate := queue.next()) is not None:
            known = journal.items.get(candidate.key)
            if known is None:
                return candidate
            queue.record(candidate, known)
        return None

    async def work() -> None:
        bench: _Bench | None = None
        try:
            while (candidate := next_candidate()) is not None:
                async with gate.shared():
                    bench = bench or await _Bench.open(staged, provider, test_command, rules)
                    verdict = await bench.judge(candidate)
                    if bench.is_worn:
                        await bench.close()
                        bench = None
                if verdict.status == "timed_out":
                    async with gate.alone():
                        bench = bench or await _Bench.open(staged, provider, test_command, rules)
                        verdict = await bench.judge(candidate)
                        await bench.close()
                        bench = None
                journal.add(verdict)
                queue.record(candidate, verdict)
        finally:
            if bench is not None:
                await bench.close()

    await run_together(work() for _ in range(jobs))


class _Bench:
    """One sandbox that tries candidates one after the other."""

    def __init__(self, staged: Staged, sandbox: Sandbox, folder: str, test_command: str, rules: Rules) -> None:
        self._staged = staged
        self._sandbox = sandbox
        self._folder = folder
        self._test_command = test_command
        self._rules = rules
        self._num_runs = 0
        self._is_clean = True

    @classmethod
    async def open(cls, staged: Staged, provider: SandboxProvider, test_command: str, rules: Rules) -> _Bench:
        sandbox = await provider.create(staged.spec())
        try:
            return cls(staged, sandbox, await install_runner(sandbox), test_command, rules)
        except BaseException:
            await sandbox.close()
            raise

    async def close(self) -> None:
        await self._sandbox.close()

    @property
    def is_worn(self) -> bool:
        return self._num_runs >= RUNS_PER_SANDBOX or not self._is_clean

    async def judge(self, candidate: Judged) -> Verdict:
        """Run each bug on its own, all together, and, when they are to be confirmed, all together again."""
        whole = self._rules.needs_all(candidate)
        parts: list[Verdict] = []
        for edits in candidate.parts:
            part = verdict_of(candidate, await self._run(candidate, edits), whole=whole)
            if part.status != "broken":
                status = "part_survived" if part.status == "survived" else part.status
                return Verdict(key=candidate.key, status=status)
            parts.append(part)
        verdict = verdict_of(candidate, await self._run(candidate, candidate.edits), whole=whole)
        if verdict.status == "broken" and self._rules.confirm:
            again = verdict_of(candidate, await self._run(candidate, candidate.edits, hash_seed="1"), whole=whole)
            verdict = agreed(verdict, again)
        # Who mends all bugs but one must not have solved the task.
        if verdict.status == "broken" and not all(set(p.fail_to_pass) & set(verdict.fail_to_pass) for p in parts):
            return Verdict(key=candidate.key, status="part_survived")
        return limited(verdict, self._rules)

    async def _run(self, candidate: Judged, edits: Sequence[LineEdit], hash_seed: str = "") -> PytestReport:
        by_path: dict[str, list[LineEdit]] = {}
        for edit in edits:
            by_path.setdefault(edit.path, []).append(edit)
        sound = {path: (self._staged.workspace / path).read_bytes() for path in by_path}
        for path, members in by_path.items():
            await self._sandbox.write_file(f"{WORKDIR}/{path}", apply_line_edits(sound[path], members))
        # Bytecode cannot be stale: the workspace's was made for an older file time, and nothing here writes new.
        if hash_seed:
            await self._sandbox.run(f"export PYTHONHASHSEED={hash_seed}")
        report = await run_pytest(self._sandbox, self._folder, self._request(candidate))
        if hash_seed:
            await self._sandbox.run("unset PYTHONHASHSEED")
        for path, data in sound.items():
            await self._sandbox.write_file(f"{WORKDIR}/{path}", data)
        self._num_runs += 1
        self._is_clean = self._is_clean and report.ended
        return report

    def _request(self, candidate: Judged) -> PytestRequest:
        cpu_limit_s, _ = time_limits_s(candidate.baseline_s, TEST_TIMEOUT_S)
        return PytestRequest(
            workdir=WORKDIR,
            files=tuple(item.path for item in candidate.test_files),
            test_command=self._test_command,
            required=tuple(test_id for item in candidate.test_files for test_id in item.stable),
            stop="never" if self._rules.needs_all(candidate) else "file",
            cpu_limit_s=cpu_limit_s,
            # Tighter than the grader's: a bug that makes tests wait for a socket is slow to grade, so it is no task.
            wall_limit_s=cpu_limit_s + WAIT_S,
        )
