"""One run of pytest in a sandbox, and how far its report can be believed.

The runner (`plugin/runner.py`) lies outside the work tree and reports over a pipe straight to this process. The exit
code is the one its parent shell saw.
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

__all__ = ["PytestReport", "PytestRequest", "install_runner", "parse_report", "run_pytest", "time_limits_s"]

REPORT_LIMIT_BYTES = 32 * 1024**2
LOG_TAIL_BYTES = 4_000
START_UP_S = 1.0
"""Allowance for starting Python and pytest on a busy machine, on top of the tests' own limit."""
SIGXCPU_EXIT = 128 + 24
QUIET_ARGUMENTS = (
    "-q",
    "--no-header",
    "--tb=short",
    "--show-capture=no",
    "-p",
    "no:cacheprovider",
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


@dataclass(frozen=True, slots=True)
class PytestReport:
    """What the runner reported and what its parent saw."""

    statuses: dict[str, TestStatus] = field(default_factory=dict)
    """Test id -> status, of the tests that ran to their end."""
    durations_s: dict[str, float] = field(default_factory=dict)
    collected: frozenset[str] = frozenset()
    exit_code: int = 0
    """Of the process, as its parent saw it."""
    reported_exit_code: int | None = None
    """What the runner said it would exit with; None: it did not get that far."""
    killed_by: KilledBy | None = None
    duration_s: float = 0.0
    suspicions: tuple[str, ...] = ()
    """Marks of tampering: lines without the token, doubled results, rewritten outcomes."""

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
        TaskError: the test command is not one of pytest.
        SandboxLost: the sandbox is gone.
    """
    interpreter, arguments = split_test_command(request.test_command)
    token = secrets.token_hex(16)
    plain = ("--assert=plain",) if request.plain_asserts else ()
    config = {
        "token": token,
        "root": request.workdir,
        "required": list(request.required),
        "stop": request.stop,
        "args": [*QUIET_ARGUMENTS, *plain, *arguments, *request.files],
        "coverage_path": request.coverage_path,
    }
    await sandbox.write_file(f"{folder}/config.json", json.dumps(config).encode(), mode=0o600)
    cpu_limit_s = math.ceil(request.cpu_limit_s)
    limits = f"ulimit -c 0 && ulimit -S -t {cpu_limit_s} && ulimit -H -t {cpu_limit_s + 2}"
    command = (
        f"( cd {shlex.quote(request.workdir)} && {limits} && export PYTHONDONTWRITEBYTECODE=1"
        f" && exec {shlex.join(interpreter)} {folder}/runner.py {folder}/config.json"
        f" 3>&1 >{folder}/log 2>&1 </dev/null )"
    )
    result = await sandbox.run(command, timeout_s=request.wall_limit_s, limit_bytes=REPORT_LIMIT_BYTES)
    return parse_report(result, token)


async def read_log_tail(sandbox: Sandbox, folder: str) -> str:
    """The end of what pytest printed. For people: nothing is decided by it."""
    result = await sandbox.run(f"tail -c {LOG_TAIL_BYTES} {folder}/log", timeout_s=10.0)
    return result.text


def split_test_command(command: str) -> tuple[list[str], list[str]]:
    """`python -m pytest -x` -> (["python"], ["-x"]); `pytest -x` -> (["python"], ["-x"]). Raises TaskError."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TaskError(f"test command {command!r}: {error}") from None
    if words[:1] in (["pytest"], ["py.test"]):
        return ["python"], words[1:]
    if words[1:3] == ["-m", "pytest"]:
        return words[:1], words[3:]
    raise TaskError(f"test command {command!r} is neither `pytest ...` nor `python -m pytest ...`")


def parse_report(result: ExecResult, token: str) -> PytestReport:
    """Read the runner's lines; anything else on its pipe is a suspicion, never a result."""
    ids: list[str] = []
    statuses: dict[str, TestStatus] = {}
    durations_s: dict[str, float] = {}
    reported_exit_code: int | None = None
    suspicions: list[str] = []
    if result.truncated_bytes:
        suspicions.append("report_flooded")
    for line in result.output.split(b"\n"):
        kind, body = _split_line(line, token)
        if kind == "ids":
            if ids:
                suspicions.append("collected_twice")
            ids = json.loads(body)
        elif kind == "test":
            index, status, milliseconds = (*body.split(), "", "", "")[:3]
            if not 0 <= int(index) < len(ids) or ids[int(index)] in statuses:
                suspicions.append("result_reported_twice")
                continue
            statuses[ids[int(index)]] = TestStatus(status)
            durations_s[ids[int(index)]] = int(milliseconds) / 1000
        elif kind == "rewritten":
            suspicions.append("outcome_rewritten")
        elif kind == "end":
            reported_exit_code = int(body)
        elif line.strip() and not (result.killed_by or result.exit_code >= 128):
            suspicions.append("foreign_report_line")
    if reported_exit_code is not None and reported_exit_code != result.exit_code:
        suspicions.append("exit_code_differs")
    return PytestReport(
        statuses=statuses,
        durations_s=durations_s,
        collected=frozenset(ids),
        exit_code=result.exit_code,
        reported_exit_code=reported_exit_code,
        killed_by="timeout" if result.exit_code == SIGXCPU_EXIT else result.killed_by,
        duration_s=result.duration_s,
        suspicions=tuple(dict.fromkeys(suspicions)),
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
