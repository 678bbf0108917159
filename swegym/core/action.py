"""What crosses the boundary between an agent and an env: tool calls one way, observations the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from pydantic import Field

from swegym.core.records import Record
from swegym.core.task import Task

__all__ = ["AsyncEnv", "ForkableEnv", "Observation", "StepResult", "ToolCall", "ToolSpec"]


class ToolCall(Record):
    """One action. `body` is the tool's whole input as text (cwm.md 5.1): a command, or a path line and content."""

    tool: str
    body: str = ""


class ToolSpec(Record):
    """What an agent is told about a tool, and how function-call arguments become its body."""

    name: str
    description: str
    """One paragraph, shown to the model."""
    body_format: str
    """How the body is laid out, shown to the model."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """JSON schema of the arguments for function-calling APIs."""
    body_template: str = "{body}"
    """`str.format` template from those arguments to the body."""


class Observation(Record):
    """What the agent sees. Nothing in it differs between two equal runs (durations live in `info`)."""

    text: str
    exit_code: int | None = None
    """Of the command, when there was one."""
    truncated_bytes: int = 0
    """Bytes left out in the middle of the output."""
    remaining_turns: int = 0
    tools: tuple[ToolSpec, ...] = ()
    """Filled in the first observation only."""
    hints: dict[str, str] = Field(default_factory=dict)
    """Filled in the first observation only: public facts about the task (see SweTask.hints)."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Gymnasium's five values by name."""

    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any] = field(default_factory=dict)
    """`end_reason` when over; `duration_s`; tool specific keys such as `tests` (pytest: id -> status)."""


class AsyncEnv(Protocol):
    """The async core of an env; the Gymnasium methods are a synchronous facade over it.

    `start` may be called again after an episode is over. `aclose` is idempotent and must be called. `submission` is the
    patch that the agent handed in, or the work tree's diff when the episode ended without a submit; None before that.
    """

    env_id: str

    async def start(self, task: Task, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Take a sandbox and prepare the task. Raises SandboxError, TaskError."""
        ...

    async def act(self, call: ToolCall | None, *, error: str = "") -> StepResult:
        """Run one tool call. None with `error` spends a turn on a malformed action; the text is the observation.

        Raises SandboxLost: the sandbox is gone.
        """
        ...

    async def submission(self) -> str | None: ...

    async def aclose(self) -> None: ...


class ForkableEnv(AsyncEnv, Protocol):
    """An env that can be copied in the middle of an episode, to branch a rollout."""

    async def afork(self) -> Self:
        """Another env in the same state, which has to be closed as well. Raises SandboxError."""
        ...
