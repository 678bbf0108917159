"""ScriptedPolicy: the same texts every time. What tests, teachers and demonstrations use."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence

from swegym.agents.chat import EOT
from swegym.core.errors import PolicyError
from swegym.core.policy import Completion, FinishReason, PolicyRequest, Tokenizer

__all__ = ["ScriptedPolicy", "complete_text"]

Script = Sequence[str] | Callable[[PolicyRequest], str | Awaitable[str]]


def complete_text(text: str, request: PolicyRequest, tokenizer: Tokenizer | None) -> Completion:
    """A completion that says `text` with certainty (log-probability 0), cut at the request's max_tokens."""
    if tokenizer is None:
        return Completion(text=text, finish_reason="stop")
    token_ids = [*tokenizer.encode(text), tokenizer.special(EOT.name)]
    finish_reason: FinishReason = "stop"
    if len(token_ids) > request.sampling.max_tokens:
        token_ids, finish_reason = token_ids[: request.sampling.max_tokens], "length"
    return Completion(
        text=tokenizer.decode(token_ids),
        finish_reason=finish_reason,
        token_ids=tuple(token_ids),
        logprobs=(0.0,) * len(token_ids),
        policy_versions=(0,) * len(token_ids),
    )


class ScriptedPolicy:
    """Says one text per turn. It holds no state, so one object serves any number of episodes at once."""

    def __init__(self, script: Script, *, tokenizer: Tokenizer | None = None, name: str = "scripted") -> None:
        """Take a script.

        Args:
            script: the text of each turn in order, or a function (may be async) from the request to its text.
            tokenizer: given, it acts as a token policy: texts are encoded and closed by end-of-turn.
            name: shown on trajectories.
        """
        self.name = name
        self.uses_tokens = tokenizer is not None
        self._script = script
        self._tokenizer = tokenizer

    async def sample(self, request: PolicyRequest) -> Completion:
        """Raises PolicyError: the script is shorter than the episode."""
        if callable(self._script):
            answer = self._script(request)
            text = await answer if inspect.isawaitable(answer) else answer
        elif request.turn < len(self._script):
            text = self._script[request.turn]
        else:
            raise PolicyError(f"the script has {len(self._script)} texts, and turn {request.turn} needs another one")
        return complete_text(text, request, self._tokenizer)

    async def close(self) -> None:
        """Nothing to release."""
