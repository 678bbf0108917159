"""Prompt profiles: how observations are shown to a model. Chosen by name (registry `profiles`) or given as objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swegym.agents.chat import Piece
from swegym.agents.parse import ActionProtocol
from swegym.core.action import Observation
from swegym.core.policy import Message
from swegym.core.task import Task

__all__ = ["Budget", "PromptProfile", "Rendered"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What is left, for the model to see."""

    remaining_turns: int
    remaining_tokens: int | None = None
    """None for text policies, whose tokens are not counted here."""
    max_context_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """One observation in both forms. Pieces end where the policy goes on writing."""

    messages: tuple[Message, ...]
    pieces: tuple[Piece, ...]


class PromptProfile(Protocol):
    """A configuration with two functions."""

    @property
    def name(self) -> str: ...

    @property
    def protocol(self) -> str:
        """Name of the action protocol that it asks the model to use."""
        ...

    @property
    def is_reasoning(self) -> bool:
        """The model thinks in `<think>` tags; the action stands after them."""
        ...

    def render_first(self, task: Task, observation: Observation, protocol: ActionProtocol, budget: Budget) -> Rendered:
        """The prompt of the first turn."""
        ...

    def render_observation(self, observation: Observation, tool: str, budget: Budget) -> Rendered:
        """What is appended after an action, up to where the next one starts. `tool` is empty after a format error."""
        ...
