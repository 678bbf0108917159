"""One run of a foreign task: its own command, its output read by a log parser, and what speaks against that reading.

The log is written by the process under test. It is believed when every required test is read as passed and nothing
contradicts it: a must-fail sentinel (where the runner is pytest and takes files), the exit code that the shell saw, and
the runner's own counts. Less is certain than with the runner of our own, and a notice says so.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from swegym.core.errors import TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import ExecResult, Sandbox, SandboxProvider, SandboxSpec
from swegym.core.task import SweSecret, Task
from swegym.envs.graders.judge import Sentinels
from swegym.envs.graders.log_parsers import ParsedLog, match_ids, parse_log
from swegym.envs.graders.notices import patch_notices
from swegym.envs.graders.protect import EXACT, apply_patch, protected_paths
from swegym.envs.workspace import GIT, apply_start_edits

__all__ = ["LogVerdict", "grade_by_log", "judge_log"]

LOG_LIMIT_BYTES = 32 * 1024**2
LOG_TAIL_CHARACTERS = 4_000
APPLY_TIMEOUT_S = 120.0
_HAS_FAILED = (TestStatus.FAILED, TestStatus.ERROR)
_SENTINEL_PARSERS = frozenset({"pytest"})


@dataclass(frozen=True, slots=True)
class LogVerdict:
    """What a run amounts to."""

    reason: str
    """As `Outcome.reason`."""
    tests: dict[str, TestStatus] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    log_tail: str = ""
    applied_by: str = ""
    """Which way of applying the patch fitted."""


async def grade_by_log(
    provider: SandboxProvider,
    spec: SandboxSpec,
    task: Task,
    secret: SweSecret,
    patch: str,
    strategies: Sequence[str] = EXACT,
) -> LogVerdict:
    """Run a foreign task's tests over a patch, in a sandbox of its own.

    Raises:
        SandboxError: the sandbox failed.
        TaskError: the base commit, the start edits or the test patch do not fit the image.
    """
    sandbox = await provider.create(spec)
    try:
        return await _run_in(sandbox, task, secret, patch, strategies)
    finally:
        await sandbox.close()


async def _run_in(sandbox: Sandbox, task: Task, secret: SweSecret, patch: str, strategies: Sequence[str]) -> LogVerdict:
    payload = task.payload
    root = shlex.quote(payload.workdir)
    if payload.base_commit:
        checkout = f"cd {root} && {GIT} checkout -q -f {shlex.quote(payload.base_commit)} --"
        _expect(await sandbox.run(checkout, timeout_s=APPLY_TIMEOUT_S), f"cannot check out {payload.base_commit}")
    await apply_start_edits(sandbox, payload)
    folder = f"/tmp/swegym-{secrets.token_hex(8)}"
    touched = _files_of(secret.test_patch)
    declared = (*payload.protected_paths, *secret.hidden_files, *touched)
    # Directives of runners other than pytest are no paths.
    files = [path for path in (*secret.test_files, *touched) if "/" in path or path.endswith(".py")]
    protected = protected_paths(declared, files)
    notices = patch_notices(patch, protected)
    applied = await apply_patch(sandbox, payload.workdir, patch, protected, folder, strategies)
    if applied.status != "applied":
        reason = "patch_does_not_apply" if applied.status == "does_not_apply" else "tampered"
        return LogVerdict(reason, notices=notices, log_tail=applied.log)
    if secret.test_patch.strip():
        await sandbox.write_file(f"{folder}/tests.patch", secret.test_patch.encode("utf-8", "surrogateescape"))
        exact = f"{GIT} apply --whitespace=nowarn {folder}/tests.patch"
        script = f"( cd {root} && {{ {exact} || patch --batch --fuzz=5 -p1 -i {folder}/tests.patch; }} )"
        result = await sandbox.run(script, timeout_s=APPLY_TIMEOUT_S)
        _expect(result, f"the test patch of {task.task_id} does not apply")
    for path, content in secret.hidden_files.items():
        await sandbox.write_file(f"{payload.workdir}/{path}", content.encode())
    command, sentinels = await _command(sandbox, task, secret)
    for setup in payload.setup_commands:
        await sandbox.run(setup, timeout_s=task.limits.command_timeout_s)
    clean = "unset PYTEST_ADDOPTS PYTEST_PLUGINS && export PYTHONDONTWRITEBYTECODE=1"
    script = f"( cd {root} && {clean}\n{command}\n) </dev/null"
    timeout_s = task.limits.test_timeout_s
    result = await sandbox.run(script, timeout_s=timeout_s, limit_bytes=LOG_LIMIT_BYTES)
    verdict = judge_log(result, parse_log(secret.log_parser, result.output), secret, sentinels)
    tail = "" if verdict.reason == "resolved" else result.text[-LOG_TAIL_CHARACTERS:]
    return LogVerdict(verdict.reason, verdict.tests, (*notices, *verdict.notices), tail, applied.strategy)


def _files_of(patch: str) -> tuple[str, ...]:
    """Files that the test patch touches: what the submission does to them is undone before it is applied."""
    from swegym.core.similarity import parse_patch

    paths = [path for diff in parse_patch(patch) for path in (diff.old_path, diff.new_path) if path is not None]
    return tuple(dict.fromkeys(paths))


async def _command(sandbox: Sandbox, task: Task, secret: SweSecret) -> tuple[str, Sentinels | None]:
    if secret.eval_command:
        return secret.eval_command, None
    words = [*(shlex.quote(path) for path in secret.test_files)]
    sentinels = None
    if secret.log_parser in _SENTINEL_PARSERS and secret.test_files:
        folder, separator, _ = secret.test_files[0].rpartition("/")
        sentinels = Sentinels(folder + separator)
        await sandbox.write_file(f"{task.payload.workdir}/{sentinels.path}", sentinels.text.encode())
        words.append(shlex.quote(sentinels.path))
    return " ".join([task.payload.test_command, *words]), sentinels


def judge_log(result: ExecResult, parsed: ParsedLog, secret: SweSecret, sentinels: Sentinels | None) -> LogVerdict:
    """Pure. FAIL_TO_PASS must be read as passed; of PASS_TO_PASS an expected failure counts too, as in data sets.

    Args:
        result: how the command ended.
        parsed: what it printed.
        secret: which tests are required.
        sentinels: that ran beside them; None: the runner takes none.
    """
    tests = match_ids((*secret.FAIL_TO_PASS, *secret.PASS_TO_PASS), parsed.statuses)
    absent = {"timeout": TestStatus.TIMEOUT, "oom": TestStatus.OOM}.get(result.killed_by or "")
    if absent is not None:
        tests = {test: absent if status is TestStatus.MISSING else status for test, status in tests.items()}
        return LogVerdict("tests_timed_out" if result.killed_by == "timeout" else "tests_out_of_memory", tests)
    if not parsed.statuses:
        return LogVerdict("no_tests_ran", tests)
    good = {test: _is_good(test, status, secret) for test, status in tests.items()}
    if any(not good[test] and status is not TestStatus.MISSING for test, status in tests.items()):
        return LogVerdict("tests_failed", tests)
    if not all(good.values()):
        return LogVerdict("tests_missing", tests)
    if not parsed.ended or result.killed_by:
        return LogVerdict("tests_aborted", tests, ("the runner did not come to its end",))
    problems = list(parsed.problems)
    if sentinels is not None and not sentinels.hold(parsed.statuses):
        problems.append("sentinel tests came out wrong")
    if not secret.eval_command and result.exit_code == 0 and any(s in _HAS_FAILED for s in parsed.statuses.values()):
        problems.append("the exit code is 0 although tests failed")
    if problems:
        return LogVerdict("tampered", tests, tuple(problems))
    return LogVerdict("resolved", tests, () if sentinels else ("no sentinels: the log is believed as it is",))


def _is_good(test: str, status: TestStatus, secret: SweSecret) -> bool:
    return status is TestStatus.PASSED or (status is TestStatus.XFAIL and test not in secret.FAIL_TO_PASS)


def _expect(result: ExecResult, what: str) -> None:
    if result.exit_code != 0:
        raise TaskError(f"{what}: {result.text.strip()[-300:]}")
