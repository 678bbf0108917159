"""Trajectory: the record of one episode. Token arrays are what the engine sampled, never re-tokenised text."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from swegym.core.action import Observation, ToolCall
from swegym.core.outcome import Outcome, Validity
from swegym.core.policy import FinishReason, SamplingParams
from swegym.core.records import Record

__all__ = ["TRAJECTORY_SCHEMA_VERSION", "ParentRef", "TokenContext", "Trajectory", "Turn"]

TRAJECTORY_SCHEMA_VERSION = 1
AGENT, ENV = 1, 0


class ParentRef(Record):
    """The episode and turn that this one was forked from."""

    episode_id: str
    turn: int


class TokenContext(Record):
    """One context window: five arrays of one length. An agent that compacts its history opens a new context."""

    tokens: tuple[int, ...] = ()
    source: tuple[int, ...] = ()
    """1 where the agent (policy) wrote the token, 0 where the env or the template did."""
    rollout_logprobs: tuple[float, ...] = ()
    """Engine's log-probability where source is 1, else 0.0."""
    loss_mask: tuple[int, ...] = ()
    """1 on tokens that the policy sampled and that may be trained on; never 1 where source is 0."""
    policy_version: tuple[int, ...] = ()
    """Version of the weights that sampled the token; -1 where source is 0."""

    @model_validator(mode="after")
    def _aligned(self) -> TokenContext:
        arrays = (self.source, self.rollout_logprobs, self.loss_mask, self.policy_version)
        if any(len(array) != len(self.tokens) for array in arrays):
            raise ValueError(f"token arrays differ in length: {[len(self.tokens), *map(len, arrays)]}")
        if any(mask > source for mask, source in zip(self.loss_mask, self.source, strict=True)):
            raise ValueError("loss_mask is 1 on a token that the policy did not sample")
        return self

    @property
    def num_agent_tokens(self) -> int:
        return sum(self.source)


class Turn(Record):
    """One action and what came of it."""

    index: int
    text: str = ""
    """The policy's text."""
    action: ToolCall | None = None
    """None when the text held no well-formed action; then format_error says why."""
    format_error: str = ""
    observation: Observation | None = None
    """None when the episode ended before the env answered."""
    finish_reason: FinishReason = "stop"
    sampling: SamplingParams = SamplingParams()
    policy_duration_s: float = 0.0
    env_duration_s: float = 0.0
    info: dict[str, Any] = Field(default_factory=dict)


class Trajectory(Record):
    """Everything about one episode."""

    schema_version: Literal[1] = 1
    episode_id: str
    parent: ParentRef | None = None
    task_id: str
    task_fingerprint: str = ""
    env_id: str
    group_id: str = ""
    """Trajectories of one task and one dispatch share it."""
    contexts: tuple[TokenContext, ...] = ()
    first_observation: Observation
    turns: tuple[Turn, ...] = ()
    submission: str | None = None
    """Patch handed to the grader."""
    outcome: Outcome | None = None
    rewards: dict[str, float] = Field(default_factory=dict)
    """Named terms; the authoritative record."""
    reward: float | None = None
    """Weighted sum of the terms; None when invalid or not graded."""
    terminated: bool = False
    truncated: bool = False
    end_reason: str = ""
    """submitted | turn_limit | context_limit | action_limit | episode_timeout | error:CLASS | paused (it can go on)"""
    validity: Validity = Validity.VALID
    validity_reason: str = ""
    seed: int | None = None
    policy: str = ""
    agent: str = ""
    sandbox: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    started_at: str = ""
    duration_s: float = 0.0

    @property
    def num_agent_tokens(self) -> int:
        return sum(context.num_agent_tokens for context in self.contexts)

    @property
    def newest_policy_version(self) -> int:
        """Version of the most recent sampled token; -1 when there is none."""
        return max((version for context in self.contexts for version in context.policy_version), default=-1)
