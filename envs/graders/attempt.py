"""One run of a patch in a fresh sandbox: applied, protected files restored, hidden tests and their copies in place."""

from __future__ import annotations

import random
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from swegym.core.errors import SandboxError, TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.core.similarity import parse_patch
from swegym.core.task import SweSecret, SweTask, Task
from swegym.envs.graders.judge import Requirements, Sentinels
from swegym.envs.graders.notices import patch_notices
from swegym.envs.graders.protect import EXACT, Applied, apply_patch, protected_paths
from swegym.envs.graders.pytest_run import (
    PytestReport,
    PytestRequest,
    files_of,
    install_runner,
    read_log_tail,
    run_pytest,
    time_limits_s,
)
from swegym.envs.graders.twins import Twin, add_twins, function_of
from swegym.envs.workspace import GIT, apply_start_edits

__all__ = ["Attempt", "TestFiles", "run_attempt"]

MAX_TWINS = 3
"""Test functions that get copies; a forger that guesses is right about each with even odds."""
SLOW_S = 20.0
"""Tests that take longer than this (baseline) are not run three times."""
COPIES_SHARE = 1.5
"""What the copies may add to the time limits."""


@dataclass(frozen=True, slots=True)
class TestFiles:
    """Test files as they run: with copies in them. The gold patch is held against the very same ones."""

    __test__ = False  # its name makes pytest take it for a test class
    texts: dict[str, bytes] = field(default_factory=dict)
    """Path -> content, of the files that have copies."""
    twins: tuple[Twin, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one run."""

    applied: Applied
    test_files: TestFiles
    notices: tuple[str, ...]
    """About the patch itself."""
    required: Requirements
    report: PytestReport | None = None
    """None: the patch was not applied."""
    log_tail: str = ""


def required_ids(secret: SweSecret) -> tuple[str, ...]:
    """Every hidden test, those that must change first."""
    return tuple(dict.fromkeys((*secret.FAIL_TO_PASS, *secret.PASS_TO_PASS)))


async def run_attempt(
    provider: SandboxProvider,
    spec: SandboxSpec,
    task: Task,
    secret: SweSecret,
    patch: str,
    *,
    test_files: TestFiles | None = None,
    strategies: Sequence[str] = EXACT,
) -> Attempt:
    """Grade once.

    Args:
        provider: makes the sandbox, which is removed afterwards.
        spec: of that sandbox.
        task: public half.
        secret: secret half.
        patch: what is graded.
        test_files: use these; None has new copies made.
        strategies: ways to apply the patch.

    Raises:
        SandboxError: the sandbox failed.
        TaskError: the task is broken.
    """
    sandbox = await provider.create(spec)
    try:
        return await _run_in(sandbox, task, secret, patch, test_files, strategies)
    finally:
        await sandbox.close()


async def _run_in(
    sandbox: Sandbox, task: Task, secret: SweSecret, patch: str, test_files: TestFiles | None, strategies: Sequence[str]
) -> Attempt:
    payload = task.payload
    await _prepare(sandbox, payload)
    folder = await install_runner(sandbox)
    files = _ordered_files(secret)
    test_patch = secret.test_patch if not secret.hidden_files else ""
    hidden = (*secret.hidden_files, *(diff.path for diff in parse_patch(test_patch)))
    protected = protected_paths((*payload.protected_paths, *hidden), files)
    notices = patch_notices(patch, protected)
    applied = await apply_patch(sandbox, payload.workdir, patch, protected, folder, strategies)
    if applied.status != "applied":
        return Attempt(applied, TestFiles(), notices, Requirements(required_ids(secret)))
    for path, content in secret.hidden_files.items():
        await sandbox.write_file(f"{payload.workdir}/{path}", content.encode())
    if test_patch.strip():
        await _apply_test_patch(sandbox, payload.workdir, test_patch, folder)
    if test_files is None:
        test_files = await _make_twins(sandbox, payload.workdir, secret)
    for path, text in test_files.texts.items():
        await sandbox.write_file(f"{payload.workdir}/{path}", text)
    test_folder, separator, _ = files[0].rpartition("/")
    required = Requirements(required_ids(secret), test_files.twins, Sentinels(test_folder + separator))
    await sandbox.write_file(f"{payload.workdir}/{required.sentinels.path}", required.sentinels.text.encode())
    for command in payload.setup_commands:
        await sandbox.run(command, timeout_s=task.limits.command_timeout_s)
    baseline_s = secret.baseline_s * (COPIES_SHARE if test_files.twins else 1.0)
    cpu_limit_s, wall_limit_s = time_limits_s(baseline_s, task.limits.test_timeout_s)
    request = PytestRequest(
        workdir=payload.workdir,
        files=(*files, required.sentinels.path),
        test_command=payload.test_command,
        required=required.stop_ids(),
        stop="test",
        plain_asserts=payload.recipe is not None,  # sets of our own were measured so; others may test pytest itself
        cpu_limit_s=cpu_limit_s,
        wall_limit_s=wall_limit_s,
        watch=True,
    )
    report = await run_pytest(sandbox, folder, request)
    has_passed = all(report.statuses.get(test_id) is TestStatus.PASSED for test_id in request.required)
    log_tail = "" if has_passed and report.ended else await read_log_tail(sandbox, folder)
    return Attempt(applied, test_files, notices, required, report, log_tail)


async def _prepare(sandbox: Sandbox, payload: SweTask) -> None:
    if payload.base_commit:
        command = f"cd {shlex.quote(payload.workdir)} && {GIT} checkout -q -f {shlex.quote(payload.base_commit)} --"
        result = await sandbox.run(command)
        if result.exit_code != 0:
            raise TaskError(f"cannot check out {payload.base_commit}: {result.text.strip()[-300:]}")
    await apply_start_edits(sandbox, payload)


async def _apply_test_patch(sandbox: Sandbox, workdir: str, test_patch: str, folder: str) -> None:
    path = f"{folder}/tests.patch"
    await sandbox.write_file(path, test_patch.encode("utf-8", "surrogateescape"), mode=0o600)
    result = await sandbox.run(f"cd {shlex.quote(workdir)} && {GIT} apply --whitespace=nowarn -- {path}")
    if result.exit_code != 0:
        raise TaskError(f"the test patch does not apply: {result.text.strip()[-300:]}")


async def _make_twins(sandbox: Sandbox, workdir: str, secret: SweSecret) -> TestFiles:
    """Copies of a few of the tests that must change."""
    places = list(dict.fromkeys(function_of(test_id) for test_id in secret.FAIL_TO_PASS))
    if secret.baseline_s > SLOW_S or not secret.patch.strip():
        return TestFiles()  # without a gold patch nobody could say whether copies disturb a test
    rng = random.Random(secrets.randbits(64))
    rng.shuffle(places)
    texts: dict[str, bytes] = {}
    twins: list[Twin] = []
    for path in dict.fromkeys(path for path, _ in places):
        functions = [function for where, function in places if where == path]
        wanted = functions[: MAX_TWINS - len(twins)]
        if not wanted:
            break
        try:
            source = await sandbox.read_file(f"{workdir}/{path}")
        except (FileNotFoundError, SandboxError):
            continue  # no such file, or none that can be read: its tests will be missing, and that decides
        text, made = add_twins(path, source, wanted, rng)
        if made:
            texts[path] = text
            twins += made
    return TestFiles(texts, tuple(twins))


def _ordered_files(secret: SweSecret) -> tuple[str, ...]:
    """Files of FAIL_TO_PASS first, so that a wrong patch is found out early."""
    first = files_of(secret.FAIL_TO_PASS)
    rest = secret.test_files or files_of(secret.PASS_TO_PASS)
    return (*first, *(path for path in rest if path not in first))
