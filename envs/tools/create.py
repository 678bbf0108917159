"""create: a new file. It never overwrites."""

from __future__ import annotations

from swegym.core.action import ToolSpec
from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult
from swegym.envs.tools.paths import absolute_path, inspect_path, path_problem, split_path_line

__all__ = ["CreateTool"]


class CreateTool:
    """Source: CWM (arXiv 2510.02387) section 5.3.1, tool `create`."""

    allows_empty_body = False
    spec = ToolSpec(
        name="create",
        description=(
            "Create a new file. It fails if the path exists already, if its folder does not exist, or if there is no "
            "content. The file always ends with a newline."
        ),
        body_format="Line 1: the file's path, absolute or relative to the repository's root. The rest: its content.",
        parameters={
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": "Absolute, or relative to the repository's root."},
                "content": {"type": "string", "description": "The whole content of the file."},
            },
            "required": ["path", "content"],
            "additionalProperties": False,
        },
        body_template="{path}\n{content}",
    )

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        path, content = split_path_line(body)
        problem = path_problem(path)
        if not problem and not content:
            problem = f"there is no content for {path}; put it on the lines after the path"
        if problem:
            return ToolResult(f"create: {problem}.", exit_code=1)
        full_path = absolute_path(path, task)
        facts = await inspect_path(sandbox, full_path)
        if facts.kind != "missing":
            return ToolResult(f"create: {path} exists already ({facts.kind}); change it with edit.", exit_code=1)
        if not facts.parent_is_folder:
            return ToolResult(f"create: the folder of {path} does not exist; make it first.", exit_code=1)
        # A tool call's body has no newline before its closing tag, so a file would never end in one.
        data = (content if content.endswith("\n") else content + "\n").encode()
        try:
            await sandbox.write_file(full_path, data)
        except SandboxLost:
            raise
        except SandboxError as error:  # a read-only place, a full disk: the agent's to solve
            return ToolResult(f"create: cannot write {path}: {error}.", exit_code=1)
        count = data.count(b"\n")
        return ToolResult(f"Created {path} ({count} line{'s' if count != 1 else ''}).", exit_code=0)
