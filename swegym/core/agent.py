"""Agent: observation -> decision. An agent sees observations and never an env."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from swegym.core.action import Observation, ToolCall
from swegym.core.policy import FinishReason, SamplingParams
from swegym.core.task import Task
from swegym.core.trajectory import TokenContext, Turn

__all__ = ["Agent", "Decision", "ResumableAgent"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the agent chose to do in one turn."""

    action: ToolCall | None
    """None: the text held no well-formed action (`format_error`), or the agent stops here (`stop_reason`)."""
    text: str = ""
    format_error: str = ""
    stop_reason: str = ""
    """context_limit | action_limit | gave_up: ends the episode as truncated."""
    finish_reason: FinishReason = "stop"
    sampling: SamplingParams = field(default_factory=SamplingParams)
    duration_s: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


class Agent(Protocol):
    """One agent object serves one episode at a time."""

    name: str
    policy_name: str

    def begin(self, task: Task, observation: Observation, *, episode_id: str, seed: int | None) -> None:
        """Forget the last episode and take the first observation."""
        ...

    async def decide(self) -> Decision:
        """Raises PolicyError."""
        ...

    def observe(self, observation: Observation) -> None:
        """Take the answer to the last decision."""
        ...

    def contexts(self) -> tuple[TokenContext, ...]:
        """Token record so far; empty for text policies."""
        ...


@runtime_checkable
class ResumableAgent(Agent, Protocol):
    """An agent that can go on where another episode was."""

    def resume(self, turns: Sequence[Turn], contexts: Sequence[TokenContext]) -> None:
        """After `begin`: take over turns that were recorded with these contexts, as if they had been its own.

        Raises ConfigError: an agent set up differently made the record, so that the tokens would not be the same.
        """
        ...
