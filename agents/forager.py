"""ForagerAgent: observation -> prompt -> policy -> one tool call, with an exact record of the tokens.

It never sees an env. With a token policy it keeps one `TokenContext` that only grows; with a text policy it keeps
messages and records no tokens. Source: cwm.md 2.3, 5; the ways an episode may end follow rl-failures rows 74-79.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from swegym.agents.chat import EOT, ContextWriter, stop_token_ids
from swegym.agents.parse import ActionProtocol, strip_reasoning
from swegym.agents.profiles import Budget, PromptProfile, Rendered
from swegym.core.action import Observation, ToolCall, ToolSpec
from swegym.core.agent import Decision
from swegym.core.config import Section
from swegym.core.errors import ConfigError, FormatError, PolicyError
from swegym.core.policy import Completion, Message, Policy, PolicyRequest, SamplingParams, Tokenizer
from swegym.core.registries import profiles, protocols
from swegym.core.seeding import derive_seed
from swegym.core.task import Task
from swegym.core.trajectory import TokenContext, Turn

__all__ = ["ForagerAgent", "ForagerConfig", "make_profile", "make_protocol"]


class ForagerConfig(Section):
    """Limits and sampling of a ForagerAgent."""

    sampling: SamplingParams = SamplingParams()
    """Its max_tokens and stop_token_ids are set by the agent."""
    max_context_tokens: int = Field(default=131_072, ge=2)
    """Tokens of prompt and completions together."""
    max_action_tokens: int = Field(default=65_536, ge=1)
    """Tokens of one completion."""


@dataclass(slots=True)
class _Episode:
    """State of the running episode."""

    task: Task
    episode_id: str
    seed: int | None
    tools: tuple[ToolSpec, ...]
    messages: list[Message]
    writer: ContextWriter | None
    turn: int = 0
    last_tool: str = ""
    is_full: bool = False
    """An observation did not fit into the context any more."""


def make_profile(profile: str | PromptProfile) -> PromptProfile:
    """A profile by name with its defaults, or the object itself. Raises UnknownName."""
    made: PromptProfile = profiles.get(profile)() if isinstance(profile, str) else profile
    return made


def make_protocol(protocol: str | ActionProtocol) -> ActionProtocol:
    """An action protocol by name, or the object itself. Raises UnknownName."""
    made: ActionProtocol = protocols.get(protocol)() if isinstance(protocol, str) else protocol
    return made


class ForagerAgent:
    """Implements `swegym.core.agent.Agent` over any policy. One agent serves one episode at a time."""

    name = "forager"

    def __init__(
        self,
        policy: Policy,
        *,
        tokenizer: Tokenizer | None = None,
        profile: str | PromptProfile = "cwm",
        protocol: str | ActionProtocol | None = None,
        config: ForagerConfig | None = None,
    ) -> None:
        """Put an agent together.

        Args:
            policy: what writes the text.
            tokenizer: needed by token policies; ignored for the others.
            profile: prompt profile, by name or as an object.
            protocol: how the model writes its actions; None takes the profile's own.
            config: sampling and limits.

        Raises:
            UnknownName: no such profile or protocol.
            ConfigError: a token policy without a tokenizer.
        """
        if policy.uses_tokens and tokenizer is None:
            raise ConfigError(f"policy {policy.name!r} works on tokens: give ForagerAgent a tokenizer")
        self.policy = policy
        self.policy_name = policy.name
        self.config = config or ForagerConfig()
        self._tokenizer = tokenizer if policy.uses_tokens else None
        self._profile = make_profile(profile)
        self._protocol = make_protocol(protocol or self._profile.protocol)
        self._episode: _Episode | None = None

    def begin(self, task: Task, observation: Observation, *, episode_id: str, seed: int | None) -> None:
        """Render the first prompt. Raises ConfigError: the tokenizer lacks a token of the profile."""
        writer = ContextWriter(self._tokenizer) if self._tokenizer is not None else None
        self._episode = _Episode(task, episode_id, seed, observation.tools, [], writer)
        budget = self._budget(self._episode, observation)
        self._write(self._episode, self._profile.render_first(task, observation, self._protocol, budget))

    async def decide(self) -> Decision:
        """One call of the policy.

        Raises:
            PolicyError: the engine failed, gave up or returned unaligned arrays.
            PromptTooLong: the engine's own limit is lower than the agent's.
        """
        episode = self._running()
        room = self.config.max_context_tokens - (len(episode.writer) if episode.writer else 0)
        if episode.is_full or room < 1:
            return Decision(action=None, stop_reason="context_limit", finish_reason="length")
        sampling = self._sampling(episode, room)
        request = PolicyRequest(
            messages=tuple(episode.messages),
            prompt_token_ids=episode.writer.token_ids if episode.writer else (),
            sampling=sampling,
            episode_id=episode.episode_id,
            turn=episode.turn,
            tools=episode.tools,
        )
        started = time.monotonic()
        completion = await self.policy.sample(request)
        duration_s = time.monotonic() - started
        self._record(episode, completion)
        action, format_error, stop_reason = self._read(completion, episode)
        episode.turn += 1
        episode.last_tool = action.tool if action else ""
        return Decision(
            action=action,
            text=completion.text,
            format_error=format_error,
            stop_reason=stop_reason,
            finish_reason=completion.finish_reason,
            sampling=sampling,
            duration_s=duration_s,
        )

    def observe(self, observation: Observation) -> None:
        """Append the answer to the last action, and the template tokens before the next one."""
        episode = self._running()
        budget = self._budget(episode, observation)
        self._write(episode, self._profile.render_observation(observation, episode.last_tool, budget))

    def resume(self, turns: Sequence[Turn], contexts: Sequence[TokenContext]) -> None:
        """See `ResumableAgent.resume`. Sampled tokens are taken from the record, the others are rendered and compared.

        Raises:
            ConfigError: the tokens do not come out as recorded, or a turn has no observation.
        """
        episode = self._running()
        record = contexts[0] if contexts else TokenContext()
        if len(contexts) > 1 or (episode.writer is not None) != bool(contexts):
            raise ConfigError(f"this agent cannot go on from an episode with {len(contexts)} token contexts")
        for turn in turns:
            if turn.observation is None:
                raise ConfigError(f"turn {turn.index} has no observation, so nothing can go on from there")
            if episode.writer is not None:
                episode.writer.write_recorded(record)
            episode.messages.append(Message(role="assistant", content=turn.text))
            episode.turn += 1
            episode.last_tool = turn.action.tool if turn.action else ""
            self.observe(turn.observation)
        if episode.writer is not None and episode.writer.token_ids != record.tokens[: len(episode.writer)]:
            raise ConfigError("the recorded tokens are not those of this agent's tokenizer, profile and limits")

    def contexts(self) -> tuple[TokenContext, ...]:
        """The token record so far; empty for text policies."""
        if self._episode is None or self._episode.writer is None or not len(self._episode.writer):
            return ()
        return (self._episode.writer.context(),)

    def _running(self) -> _Episode:
        if self._episode is None:
            raise RuntimeError("ForagerAgent.begin was not called")
        return self._episode

    def _budget(self, episode: _Episode, observation: Observation) -> Budget:
        if episode.writer is None:
            return Budget(observation.remaining_turns)
        remaining = self.config.max_context_tokens - len(episode.writer)
        return Budget(observation.remaining_turns, remaining, self.config.max_context_tokens)

    def _write(self, episode: _Episode, rendered: Rendered) -> None:
        episode.messages += rendered.messages
        if episode.writer is None:
            return
        pieces = (EOT, *rendered.pieces) if episode.writer.needs_eot() else rendered.pieces
        token_ids = episode.writer.encode(pieces)
        if len(episode.writer) + len(token_ids) >= self.config.max_context_tokens:
            episode.is_full = True  # not written: a context never holds more than its limit
        else:
            episode.writer.write_template(token_ids)

    def _sampling(self, episode: _Episode, room: int) -> SamplingParams:
        changes: dict[str, object] = {"max_tokens": self.config.max_action_tokens}
        if episode.writer is not None and self._tokenizer is not None:
            changes["max_tokens"] = min(self.config.max_action_tokens, room)
            changes["stop_token_ids"] = stop_token_ids(self._tokenizer)
        if episode.seed is not None:
            changes["seed"] = derive_seed(episode.seed, "turn", episode.turn)
        return self.config.sampling.model_copy(update=changes)

    def _record(self, episode: _Episode, completion: Completion) -> None:
        if completion.finish_reason == "abort":
            raise PolicyError(
                f"policy {self.policy_name!r} aborted turn {episode.turn} of episode {episode.episode_id}"
            )
        if episode.writer is not None:
            episode.writer.write_completion(completion)
        episode.messages.append(Message(role="assistant", content=completion.text))

    def _read(self, completion: Completion, episode: _Episode) -> tuple[ToolCall | None, str, str]:
        """Action, format error, stop reason: exactly one of them is set. A cut text is never parsed."""
        if completion.finish_reason == "length":
            is_cut_by_context = episode.writer is not None and len(completion.token_ids) < self.config.max_action_tokens
            return None, "", "context_limit" if is_cut_by_context else "action_limit"
        try:
            text = completion.text
            # A text policy's endpoint may keep its reasoning to itself; a token policy was put inside the think tag.
            if self._profile.is_reasoning and (episode.writer is not None or "</think>" in text):
                text = strip_reasoning(text)
            return self._protocol.parse(text, episode.tools), "", ""
        except FormatError as error:
            return None, str(error), ""
