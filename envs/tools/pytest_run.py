"""pytest: runs the repository's tests and tells, besides pytest's own output, the status of every test."""

from __future__ import annotations

import json
import re
import shlex
import uuid
from pathlib import Path

from swegym.core.action import ToolSpec
from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult
from swegym.envs.tools.output import result_text

__all__ = ["PytestTool", "parse_report"]

PLUGIN = "swegym_pytest_report"
FOLDER = "/tmp/.swegym-tools"
# "=== 2 passed in 0.03s ===" or, with -q, "2 passed in 0.03s": a duration differs between equal runs.
_DURATION = re.compile(
    r"^((?:=+ )?(?:\d+ \w+|no tests ran)\b.*?) in \d+\.\d+s(?: \(\d+:\d+:\d+\))?(?= =+$|$)", re.MULTILINE
)


class PytestTool:
    """Statuses come from a report file beside the work tree and never from the output, which tests can print to."""

    allows_empty_body = False
    spec = ToolSpec(
        name="pytest",
        description=(
            "Run tests with pytest in the repository's root. The answer is pytest's output. A run that goes past the "
            "time limit is killed."
        ),
        body_format="Arguments of pytest, for example: tests/test_api.py -k parse -x",
        parameters={
            "type": "object",
            "properties": {"arguments": {"type": "string", "description": "Arguments of pytest."}},
            "required": ["arguments"],
            "additionalProperties": False,
        },
        body_template="{arguments}",
    )

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        if "\0" in body:
            return ToolResult("pytest: the arguments hold a NUL character.", exit_code=1)
        try:
            await sandbox.write_file(f"{FOLDER}/{PLUGIN}.py", Path(__file__).with_name("pytest_report.py").read_bytes())
        except SandboxLost:
            raise
        except SandboxError as error:  # the agent filled the disk or made /tmp something else
            return ToolResult(f"pytest: cannot prepare the run: {error}.", exit_code=1)
        report_path = f"{FOLDER}/{uuid.uuid4().hex}.jsonl"
        result = await sandbox.run(
            _command(task, " ".join(body.split("\n")), report_path),
            timeout_s=limits.command_timeout_s,
            limit_bytes=limits.observation_limit_bytes,
        )
        try:
            tests = parse_report(await sandbox.read_file(report_path))
        except FileNotFoundError:
            tests = {}  # pytest did not start, or ran nothing
        info: dict[str, object] = {"tests": tests}
        if result.killed_by:
            info["killed_by"] = result.killed_by
        return ToolResult(
            text=result_text(_DURATION.sub(r"\1", result.text), result, limits.command_timeout_s),
            exit_code=result.exit_code,
            truncated_bytes=result.truncated_bytes,
            info=info,
        )


def _command(task: Task, arguments: str, report_path: str) -> str:
    """In a subshell, so that the agent's directory and variables stay; its environment and variables are seen."""
    payload = task.payload
    runner = payload.test_command if "pytest" in payload.test_command else "python -m pytest"
    return (
        f"( cd {shlex.quote(payload.workdir)} && export SWEGYM_PYTEST_REPORT={report_path}"
        f' PYTHONPATH="{FOLDER}${{PYTHONPATH:+:$PYTHONPATH}}" && {runner} -p {PLUGIN} {arguments} )'
    )


def parse_report(data: bytes) -> dict[str, TestStatus]:
    """Status of every test of a report by `swegym_pytest_report`: node id -> status, in the order run.

    A failure in set-up or tear-down is an error whatever the call said; a file that cannot be collected is an error
    under its own name; a test whose last phase is missing was cut short and counts as timed out.
    """
    phases: dict[str, dict[str, tuple[str, bool]]] = {}
    for line in data.decode("utf-8", errors="replace").split("\n"):
        try:
            nodeid, when, outcome, is_xfail = json.loads(line)
        except ValueError:
            continue  # a torn last line: the run was killed while it was written
        phases.setdefault(str(nodeid), {})[str(when)] = (str(outcome), bool(is_xfail))
    return {nodeid: _status(of_test) for nodeid, of_test in phases.items()}


def _status(phases: dict[str, tuple[str, bool]]) -> TestStatus:
    if any(phases.get(when, ("", False))[0] == "failed" for when in ("collect", "setup", "teardown")):
        return TestStatus.ERROR
    outcome, is_xfail = phases.get("call") or phases.get("setup") or ("", False)
    if is_xfail:
        return TestStatus.XFAIL if outcome == "skipped" else TestStatus.XPASS
    if outcome == "skipped":
        return TestStatus.SKIPPED
    if "teardown" not in phases:
        return TestStatus.TIMEOUT
    return {"passed": TestStatus.PASSED, "failed": TestStatus.FAILED}.get(outcome, TestStatus.ERROR)
