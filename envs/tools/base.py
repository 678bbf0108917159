"""What a tool is. A tool's failure is text for the agent to read; only a failing sandbox raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from swegym.core.action import ToolSpec
from swegym.core.errors import ConfigError
from swegym.core.registries import tools
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits

__all__ = ["Tool", "ToolResult", "make_tools"]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one call did."""

    text: str
    """For the agent; holds nothing that differs between two equal runs."""
    exit_code: int | None = None
    """Of the command when there was one; a refusal by the tool itself is 1."""
    truncated_bytes: int = 0
    """Bytes of output that `text` leaves out."""
    terminated: bool = False
    """The agent handed in its work."""
    submission: str | None = None
    """The patch that was handed in; None with `terminated`: the work tree's diff."""
    info: dict[str, Any] = field(default_factory=dict)


class Tool(Protocol):
    """One action of an environment."""

    spec: ToolSpec
    allows_empty_body: bool

    async def run(self, sandbox: Sandbox, task: Task, body: str, limits: TaskLimits) -> ToolResult:
        """Run one call.

        Args:
            sandbox: where `prepare_workspace` ran.
            task: public half.
            body: Unicode text without lone surrogates; "" only when `allows_empty_body`.
            limits: of this call: `command_timeout_s` is what is left, `observation_limit_bytes` bounds `text`.

        Raises:
            SandboxError: the sandbox failed, SandboxLost when it is gone.
        """
        ...


def make_tools(names: tuple[str, ...]) -> dict[str, Tool]:
    """Tools by name, in the order given.

    Raises:
        UnknownName: no such tool.
        ConfigError: a tool is registered under another name than its spec's.
    """
    made: dict[str, Tool] = {}
    for name in names:
        tool: Tool = tools.get(name)()
        if tool.spec.name != name:
            raise ConfigError(f"tool {name!r} is registered under that name but calls itself {tool.spec.name!r}")
        made[name] = tool
    return made
