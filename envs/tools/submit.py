"""submit: hands the work in and ends the episode."""

from __future__ import annotations

from swegym.core.action import ToolSpec
from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult
from swegym.envs.tools.paths import absolute_path, path_problem

__all__ = ["SubmitTool"]


class SubmitTool:
    """An empty body hands in the work tree; a path hands in a patch file (CWM, arXiv 2510.02387, section 5.3.1)."""

    allows_empty_body = True
    spec = ToolSpec(
        name="submit",
        description=(
            "Hand the work in; this ends the episode. Without a path, everything changed in the repository is handed "
            "in. With the path of a file that holds a patch and starts with 'diff', that patch is."
        ),
        body_format="Empty, or the path of a patch file.",
        parameters={
            "type": "object",
            "properties": {"path": {"type": "string", "description": "Path of a patch file; empty for all changes."}},
            "required": [],
            "additionalProperties": False,
        },
        body_template="{path}",
    )

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        path = body.strip()
        if not path:
            return ToolResult("Submitted.", exit_code=0, terminated=True)  # the env takes the work tree's diff
        if problem := "give one path, on one line" if "\n" in path else path_problem(path):
            return _refuse(problem)
        try:
            data = await sandbox.read_file(absolute_path(path, task))
        except FileNotFoundError:
            return _refuse(f"there is no file {path}")
        except SandboxLost:
            raise
        except SandboxError as error:
            return _refuse(f"cannot read {path}: {error}")
        if not data:
            return _refuse(f"{path} is empty")
        if not data.startswith(b"diff"):
            return _refuse(f"{path} does not start with 'diff'; make it with git diff")
        try:
            patch = data.decode("utf-8")
        except UnicodeDecodeError:
            return _refuse(f"{path} is not UTF-8; make it with git diff --binary, or submit without a path")
        return ToolResult("Submitted.", exit_code=0, terminated=True, submission=patch)


def _refuse(why: str) -> ToolResult:
    return ToolResult(f"submit: {why}. Nothing was submitted.", exit_code=1)
