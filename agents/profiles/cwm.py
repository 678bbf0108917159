"""The `cwm` profile: system prompt, issue, tool messages with output and budget (cwm.md 1.4, 5.1), in our own words."""

from __future__ import annotations

from typing import ClassVar

from swegym.agents.chat import BOS, Piece, chat_header, chat_message
from swegym.agents.parse import ActionProtocol
from swegym.agents.profiles import Budget, Rendered
from swegym.core.action import Observation
from swegym.core.config import Section
from swegym.core.policy import Message
from swegym.core.task import Task

__all__ = ["CwmProfile"]

_REASONING = """You solve problems by thinking first. Put your whole line of thought between think tags, then answer:
<think>
your thoughts
</think>
your answer"""

_ENVIRONMENT = """# Environment

You work in a container that persists: files, shell variables, the working directory and background processes stay from
one step to the next. There is no network.

Limits:
- one command may run for {command_timeout_s:g} seconds; after that it is killed and you see its output so far
- {turns} steps{tokens}
- {observation_limit_bytes} bytes of a command's output are shown; the middle of a longer output is left out

{instructions}

Rules:
1. Use one tool in each step, and wait for its output before you go on.
2. Look into the repository with a tool before you submit anything.
3. You are finished only when a submission was accepted."""

_ISSUE = """The repository in {workdir} has this issue:

<issue_description>
{statement}
</issue_description>

Change the repository so that the issue is resolved. Hidden tests decide whether it is, so correctness is what counts:
find the cause, mend it there, and check your change by running code or tests. Do not edit the existing tests to make
them pass. When you are done, submit. An empty submission hands in everything you changed; you may instead write a patch
file in git diff format and submit its path."""


class CwmProfile(Section):
    """The published prompt's content."""

    name: ClassVar[str] = "cwm"
    protocol: str = "tags"
    """Action protocol that the system prompt explains."""
    is_reasoning: bool = True
    """Ask for reasoning in think tags, and open the first one for the model."""

    def render_first(self, task: Task, observation: Observation, protocol: ActionProtocol, budget: Budget) -> Rendered:
        """System prompt and issue, then the assistant's header."""
        limits = task.limits
        tokens = "" if budget.max_context_tokens is None else f", and {budget.max_context_tokens} tokens of context"
        environment = _ENVIRONMENT.format(
            command_timeout_s=limits.command_timeout_s,
            turns=limits.max_turns,
            tokens=tokens,
            observation_limit_bytes=limits.observation_limit_bytes,
            instructions=protocol.instructions(observation.tools),
        )
        system = f"{_REASONING}\n\n{environment}" if self.is_reasoning else environment
        user = _ISSUE.format(workdir=task.payload.workdir, statement=task.statement.strip())
        messages = (Message(role="system", content=system), Message(role="user", content=user))
        pieces = [BOS, *(piece for message in messages for piece in chat_message(message)), *self._assistant_prefix()]
        return Rendered(messages, tuple(pieces))

    def render_observation(self, observation: Observation, tool: str, budget: Budget) -> Rendered:
        """`<output>` and `<budget>` in a tool message; a format error comes from the user, as no tool was called."""
        left = [f"remaining turns: {budget.remaining_turns}"]
        if budget.remaining_tokens is not None:
            left.append(f"remaining tokens: {budget.remaining_tokens}")
        content = f"<output>\n{observation.text}\n</output>\n\n<budget>\n" + "\n".join(left) + "\n</budget>"
        message = Message(role=f"tool: {tool}" if tool else "user", content=content)
        return Rendered((message,), (*chat_message(message), *self._assistant_prefix()))

    def _assistant_prefix(self) -> tuple[Piece, ...]:
        return (*chat_header("assistant"), "<think>\n") if self.is_reasoning else chat_header("assistant")
