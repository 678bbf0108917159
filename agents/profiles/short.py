"""The `short` profile: a prompt of about 20 tokens, for models with a context of a few hundred.

The first prompt is begin_of_text, one line of text and `<|action_sep|>`; the model then writes its action and
`<|eot_id|>`. A later observation is nothing but `<|action_sep|>`, or the head of the output when a command failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from swegym.agents.chat import BOS, Piece, Special
from swegym.agents.parse import ActionProtocol
from swegym.agents.profiles import Budget, Rendered
from swegym.core.action import Observation
from swegym.core.config import Section
from swegym.core.policy import Message
from swegym.core.task import Task

__all__ = ["SEPARATOR", "SUBMIT_TEXT", "ShortProfile", "example_texts", "sed_action"]

SEPARATOR = Special("<|action_sep|>")
SUBMIT_TEXT = "<tool: submit>\n</tool>"
_TOKENS = (
    "==", "!=", "<", "<=", ">", ">=", "+", "-", "*", "/", "//", "%", "**", "+=", "-=", "*=", "and", "or", "is",
    "is not", "in", "not in", "not", "True", "False", "&", "|", "^", "<<", ">>",
)  # fmt: skip


class ShortProfile(Section):
    """Nothing but the line in question."""

    name: ClassVar[str] = "short"
    protocol: str = "tags"
    """Action protocol the model is expected to use."""
    is_reasoning: bool = False
    """Whether the action stands after `</think>`."""
    max_output_chars: int = Field(default=40, ge=0)
    """Characters of a failed command's output that are shown."""
    max_statement_chars: int = Field(default=200, ge=1)
    """Characters of the statement that are shown where the task has no hint `text`."""

    def render_first(self, task: Task, observation: Observation, protocol: ActionProtocol, budget: Budget) -> Rendered:
        """The hint `text` (the mutated line, without its indentation), else the head of the statement."""
        text = observation.hints.get("text", "").strip() or task.statement.strip()[: self.max_statement_chars]
        return Rendered((Message(role="user", content=text),), (BOS, text, SEPARATOR))

    def render_observation(self, observation: Observation, tool: str, budget: Budget) -> Rendered:
        """Nothing for a command that succeeded, the head of the text otherwise."""
        is_failure = not tool or observation.exit_code not in (None, 0)
        text = observation.text.strip()[: self.max_output_chars] if is_failure else ""
        message = Message(role=f"tool: {tool}" if tool else "user", content=text)
        pieces: tuple[Piece, ...] = (text, SEPARATOR) if text else (SEPARATOR,)
        return Rendered((message,), pieces)


def sed_action(before: str, after: str) -> str:
    """The action that replaces ` before ` by ` after ` in the line that the shell variables F and L name."""
    pattern = re.sub(r"([\\/.*\[\]^])", r"\\\1", before)
    replacement = re.sub(r"([\\/&])", r"\\\1", after)
    # Within the shell's double quotes a backslash is special only before these four.
    command = re.sub(r'\\(?=[\\"$`])|(["$`])', r"\\\g<0>", f"s/ {pattern} / {replacement} /")
    return f'<tool: bash>\nsed -i "${{L}}{command}" $F\n</tool>'


def example_texts(tokens: Sequence[str] = _TOKENS) -> list[str]:
    """Texts that models of this profile write, for the tokenizer's corpus."""
    texts = [sed_action(before, after) for before in tokens for after in tokens if before != after]
    return [*texts, *[SUBMIT_TEXT] * len(tokens)]
