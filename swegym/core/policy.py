"""Policy: tokens (or messages) in, tokens out. Torch-free ones live in agents/, torch and vLLM ones in train/."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from pydantic import Field

from swegym.core.action import ToolSpec
from swegym.core.records import Record

__all__ = ["Completion", "FinishReason", "Message", "Policy", "PolicyRequest", "SamplingParams", "Tokenizer"]

FinishReason = Literal["stop", "length", "abort"]


class SamplingParams(Record):
    """How one completion is sampled. Log-probabilities are always those of the distribution sampled from."""

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=4096, ge=1)
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None


class Message(Record):
    """One chat message. Roles: system, user, assistant, or `tool: NAME`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """One call. Token policies read `prompt_token_ids`; `messages` is the same conversation for the others."""

    messages: tuple[Message, ...]
    prompt_token_ids: tuple[int, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    episode_id: str = ""
    turn: int = 0
    tools: tuple[ToolSpec, ...] = ()
    """Tools of the episode, for endpoints with function calls."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy returned. Token policies fill the three aligned tuples; text policies leave them empty."""

    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()
    """Includes the stop token when one was sampled."""
    logprobs: tuple[float, ...] = ()
    """float32 natural log of the sampling distribution, aligned with token_ids."""
    policy_versions: tuple[int, ...] = ()
    """Version of the weights that sampled each token, aligned with token_ids."""


@runtime_checkable
class Policy(Protocol):
    """Anything that continues a conversation."""

    name: str
    uses_tokens: bool
    """True: reads prompt_token_ids and returns token_ids. False: reads messages and returns text."""

    async def sample(self, request: PolicyRequest) -> Completion:
        """Raises PolicyError, PromptTooLong."""
        ...

    async def close(self) -> None: ...


class Tokenizer(Protocol):
    """What chat rendering needs of a tokenizer."""

    num_tokens: int

    def encode(self, text: str) -> list[int]:
        """Ordinary text only: special token names in it are encoded as text."""
        ...

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Special tokens are left out."""
        ...

    def special(self, name: str) -> int:
        """Id of a special token such as `<|eot_id|>`. Raises KeyError."""
        ...
