"""bash: commands in the episode's persistent shell."""

from __future__ import annotations

from swegym.core.action import ToolSpec
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult
from swegym.envs.tools.output import result_text

__all__ = ["BashTool"]


class BashTool:
    """Source: CWM (arXiv 2510.02387) section 5.3.1, tool `bash`."""

    allows_empty_body = False
    spec = ToolSpec(
        name="bash",
        description=(
            "Run commands in a persistent bash session. The working directory, variables, functions and background "
            "jobs stay from one call to the next. Standard input is empty, so nothing may ask a question. A command "
            "that runs past the time limit is killed."
        ),
        body_format="The commands, exactly as they would be typed; any number of lines.",
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string", "description": "The commands to run."}},
            "required": ["command"],
            "additionalProperties": False,
        },
        body_template="{command}",
    )

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        if "\0" in body:
            return ToolResult("bash: the commands hold a NUL character, which no shell can read.", exit_code=1)
        result = await sandbox.run(body, timeout_s=limits.command_timeout_s, limit_bytes=limits.observation_limit_bytes)
        return ToolResult(
            text=result_text(result.text, result, limits.command_timeout_s),
            exit_code=result.exit_code,
            truncated_bytes=result.truncated_bytes,
            info={"killed_by": result.killed_by} if result.killed_by else {},
        )
