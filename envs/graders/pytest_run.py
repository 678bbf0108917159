"""One run of pytest in a sandbox, and what speaks against its report.

The runner (`plugin/runner.py`) lies outside the work tree, runs the tests in a child process and reports over a pipe
straight to this process. The exit code is the child's, as the runner saw it.
"""

from __future__ import annotations

import json
import math
import secrets
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from swegym.core.errors import TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import ExecResult, KilledBy, Sandbox
from swegym.envs.graders.junit import is_python, run_junit, wraps_pytest

__all__ = ["PytestReport", "PytestRequest", "install_runner", "parse_report", "run_pytest", "time_limits_s"]

REPORT_LIMIT_BYTES = 32 * 1024**2
LOG_TAIL_BYTES = 4_000
START_UP_S = 1.0
"""Allowance for starting Python and pytest on a busy machine, on top of the tests' own limit."""
MAX_STRETCH = 4
"""As in `plugin/runner.py`."""
STARVED_SHARE = 0.5
"""Of the wall time; a run that waited for a processor for longer says nothing when its time was over."""
SOFT_KINDS = ("outcome_rewritten", "patched")
# PYTHONPATH without the tree's folders: Python imports `sitecustomize` and more from it before the runner begins.
_WITHOUT_TREE = """whole=$PYTHONPATH kept=
set -f; IFS=:
for entry in $whole; do case $entry in ROOT|ROOT/*|[!/]*) ;; *) kept+=${kept:+:}$entry ;; esac; done
unset IFS; set +f
if [ -n "$kept" ]; then export PYTHONPATH=$kept; else unset PYTHONPATH; fi"""
QUIET_ARGUMENTS = (
    "-q",
    "--no-header",
    "--tb=no",  # the reporter writes down where a test failed, for a tenth of the time
    "--show-capture=no",
    "-p",
    "no:cacheprovider",
    "--maxfail=0",  # over an `-x` in the task's own options: a sentinel has to fail
    "--continue-on-collection-errors",
)


@dataclass(frozen=True, slots=True)
class PytestRequest:
    """What to run."""

    workdir: str
    files: tuple[str, ...]
    """Test files relative to the root, in the order to run them."""
    test_command: str = "python -m pytest"
    """Its interpreter and its arguments are used; the runner takes the place of `-m pytest`."""
    required: tuple[str, ...] = ()
    """Test ids that must pass; decides when to stop."""
    stop: Literal["test", "file", "never"] = "never"
    """Stop after the first required test that does not pass, after the file it is in, or never."""
    cpu_limit_s: float = 60.0
    """Of the pytest process; unlike wall time it does not depend on how busy the machine is."""
    wall_limit_s: float = 300.0
    plain_asserts: bool = True
    """Leave `assert` as it is instead of letting pytest rewrite it: the compiled test files of a workspace serve, which
    saves a fifth of a small run. Costs the values in failure messages, which nothing here reads."""
    coverage_path: str = ""
    """Where to write the lines that ran (builder only; needs the coverage package among the dependencies)."""
    watch: bool = False
    """Watch what decides a result (pytest's functions, builtins, hooks) for changes; the grader does."""


@dataclass(frozen=True, slots=True)
class PytestReport:
    """What the runner reported and what its parent saw."""

    statuses: dict[str, TestStatus] = field(default_factory=dict)
    """Test id -> status, of the tests that ran to their end."""
    durations_s: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0
    """Of the process, as its parent saw it."""
    reported_exit_code: int | None = None
    """What the runner said it would exit with; None: it did not get that far."""
    killed_by: KilledBy | None = None
    duration_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the pytest process, 0.0 when the runner did not get to say it."""
    order: dict[str, int] = field(default_factory=dict)
    """Test id -> place in the run."""
    is_starved: bool = False
    """Killed by its wall limit while it waited for a processor most of the time: says nothing about the tests."""
    suspicions: tuple[str, ...] = ()
    """Marks of tampering that have no innocent reason: lines without the token, doubled results, a wrong exit code."""
    deviations: tuple[str, ...] = ()
    """`KIND DETAIL`: a rewritten outcome, a patched function. Tampering, unless the gold patch does it too."""

    @property
    def ended(self) -> bool:
        """Whether pytest came to its own end, and the parent saw the exit code that it announced."""
        return self.reported_exit_code is not None and self.reported_exit_code == self.exit_code


def time_limits_s(baseline_s: float, test_timeout_s: float) -> tuple[float, float]:
    """CPU and wall limit of a run: max(5 x baseline, 2 s) and start-up of CPU; three times that and 5 s of wall.

    An endless loop ends at the CPU limit on an idle machine as on a busy one. Unknown baseline: the task's own limit.
    """
    if baseline_s <= 0:
        return test_timeout_s, test_timeout_s
    cpu_limit_s = max(5 * baseline_s, 2.0) + START_UP_S
    return min(cpu_limit_s, test_timeout_s), min(3 * cpu_limit_s + 5.0, test_timeout_s)


async def install_runner(sandbox: Sandbox) -> str:
    """Write the runner into a new folder outside every work tree; returns the folder."""
    folder = f"/tmp/swegym-{secrets.token_hex(8)}"
    for name, data in _plugin_files().items():
        await sandbox.write_file(f"{folder}/{name}", data, mode=0o444)
    return folder


@cache
def _plugin_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "plugin").glob("*.py"))}


async def run_pytest(sandbox: Sandbox, folder: str, request: PytestRequest) -> PytestReport:
    """Run the files with the runner that `install_runner` put into `folder`.

    Raises:
        TaskError: the test command is not one of pytest, or there is no Python or pytest.
        SandboxLost: the sandbox is gone.
    """
    if wraps_pytest(request.test_command):
        return await _run_wrapped(sandbox, folder, request)
    interpreter, arguments = split_test_command(request.test_command)
    token = secrets.token_hex(16)
    plain = ("--assert=plain",) if request.plain_asserts else ()
    cpu_limit_s = math.ceil(request.cpu_limit_s)
    config = {
        "root": request.workdir,
        "stop": request.stop,
        "required": list(request.required) if request.stop == "file" else [],
        "args": [*QUIET_ARGUMENTS, *plain, *arguments, *request.files],
        "coverage_path": request.coverage_path,
        "watch": request.watch,
    }
    secret = {
        "token": token,
        "stop_ids": list(request.required) if request.stop == "test" else [],
        "wall_limit_s": request.wall_limit_s,
        "cpu_limit_s": cpu_limit_s,
    }
    await sandbox.write_file(f"{folder}/config.json", json.dumps(config).encode(), mode=0o600)
    await sandbox.write_file(f"{folder}/secret.json", json.dumps(secret).encode(), mode=0o600)
    root = shlex.quote(request.workdir)
    limits = f"ulimit -c 0 && ulimit -S -t {cpu_limit_s} && ulimit -H -t {cpu_limit_s + 2}"
    command = (
        f"( cd {root} && {limits} && export PYTHONDONTWRITEBYTECODE=1 && unset PYTEST_ADDOPTS PYTEST_PLUGINS\n"
        f"{_WITHOUT_TREE.replace('ROOT', root)}\n"
        f'exec {shlex.join(interpreter)} {folder}/runner.py {folder}/config.json {folder}/secret.json "$whole"'
        f" 3>&1 >{folder}/log 2>&1 </dev/null )"
    )
    # The runner keeps the limit itself, and stretches it on a busy machine; this one is for a runner that is gone.
    timeout_s = MAX_STRETCH * request.wall_limit_s + 10.0
    result = await sandbox.run(command, timeout_s=timeout_s, limit_bytes=REPORT_LIMIT_BYTES)
    if result.exit_code < 128 and not result.killed_by and f"{token} ready".encode() not in result.output:
        # Neither Python nor pytest has come up, and no code of the tree has run that could be to blame.
        log = (await read_log_tail(sandbox, folder)).strip()
        raise TaskError(f"{request.test_command!r} cannot be run: {log[-300:] or f'exit status {result.exit_code}'}")
    return parse_report(result, token)


async def _run_wrapped(sandbox: Sandbox, folder: str, request: PytestRequest) -> PytestReport:
    result, found = await run_junit(
        sandbox,
        request.test_command,
        [*QUIET_ARGUMENTS, *request.files],
        workdir=request.workdir,
        log_path=f"{folder}/log",
        timeout_s=request.wall_limit_s,
    )
    statuses, durations_s = found or ({}, {})
    has_failed = any(status in (TestStatus.FAILED, TestStatus.ERROR) for status in statuses.values())
    return PytestReport(
        statuses=statuses,
        durations_s=durations_s,
        order={test_id: place for place, test_id in enumerate(statuses)},
        exit_code=result.exit_code,
        reported_exit_code=None if found is None else int(has_failed),
        killed_by=result.killed_by,
        duration_s=result.duration_s,
    )


async def read_log_tail(sandbox: Sandbox, folder: str) -> str:
    """The end of what pytest printed. For people: nothing is decided by it."""
    result = await sandbox.run(f"tail -c {LOG_TAIL_BYTES} {folder}/log", timeout_s=10.0)
    return result.text


def split_test_command(command: str) -> tuple[list[str], list[str]]:
    """`python -b -m pytest -x` -> (["python", "-b"], ["-x"]); `pytest -x` -> (["python"], ["-x"]). Raises TaskError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TaskError(f"test command {command!r}: {error}") from None
    if words[:1] in (["pytest"], ["py.test"]):
        return ["python"], words[1:]
    if is_python(words):
        place = words.index("-m")
        return words[:place], words[place + 2 :]
    raise TaskError(f"test command {command!r} is neither `pytest ...` nor `python -m pytest ...`")


class _Reading:
    """Collects the runner's lines."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.statuses: dict[str, TestStatus] = {}
        self.durations_s: dict[str, float] = {}
        self.usage: dict[str, float] = {}
        self.reported_exit_code: int | None = None
        self.killed = ""
        self.notices: list[str] = []

    def read(self, kind: str, body: str) -> None:
        """One line. Raises ValueError, IndexError: it is not what the runner writes."""
        if kind == "ids":
            if self.ids:
                self.notices.append("collected_twice")
            self.ids = [str(test_id) for test_id in json.loads(body)]
        elif kind == "test":
            index, status, milliseconds = body.split()
            test_id = self.ids[int(index)]
            if test_id in self.statuses:
                self.notices.append("result_reported_twice")
                return
            self.statuses[test_id] = TestStatus(status)
            self.durations_s[test_id] = int(milliseconds) / 1000
        elif kind == "notice":
            self.notices.append(body.strip())
        elif kind == "killed":
            self.killed = body
        elif kind == "usage":
            self.usage = json.loads(body)
        elif kind == "ready":
            pass
        elif kind == "end":
            self.reported_exit_code = int(body)
        else:
            raise ValueError(kind)


def parse_report(result: ExecResult, token: str) -> PytestReport:
    """Read the runner's lines; anything else on its pipe is a suspicion, never a result."""
    reading = _Reading()
    if result.truncated_bytes:
        reading.notices.append("report_flooded")
    for line in result.output.split(b"\n"):
        try:
            if line.strip():
                reading.read(*_split_line(line, token))
        except (ValueError, IndexError):
            if not (result.killed_by or result.exit_code >= 128):
                reading.notices.append("foreign_report_line")
    if reading.reported_exit_code not in (None, result.exit_code) and not reading.killed:
        reading.notices.append("exit_code_differs")
    notices = tuple(dict.fromkeys(reading.notices))
    waiting_s, wall_s = (reading.usage.get(key, 0.0) for key in ("waiting_s", "wall_s"))
    return PytestReport(
        statuses=reading.statuses,
        durations_s=reading.durations_s,
        order={test_id: place for place, test_id in enumerate(reading.ids)},
        exit_code=result.exit_code,
        reported_exit_code=reading.reported_exit_code,
        killed_by="timeout" if reading.killed in ("cpu", "wall") else result.killed_by,
        duration_s=result.duration_s,
        cpu_s=reading.usage.get("cpu_s", 0.0),
        is_starved=reading.killed == "wall" and waiting_s > STARVED_SHARE * wall_s,
        suspicions=tuple(notice for notice in notices if not notice.startswith(SOFT_KINDS)),
        deviations=tuple(notice for notice in notices if notice.startswith(SOFT_KINDS)),
    )


def _split_line(line: bytes, token: str) -> tuple[str, str]:
    prefix = token.encode() + b" "
    if not line.startswith(prefix):
        return "", ""
    kind, _, body = line[len(prefix) :].decode("utf-8", "replace").partition(" ")
    return kind, body


def files_of(test_ids: Iterable[str]) -> tuple[str, ...]:
    """Files that test ids name, each once, in order."""
    return tuple(dict.fromkeys(test_id.split("::", 1)[0] for test_id in test_ids))
