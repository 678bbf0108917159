"""CWM's chat format as tokens, written turn by turn and never re-tokenised.

A prompt is a sequence of *pieces*: ordinary text and special tokens. Ordinary text can never become a special token.
`ContextWriter` appends pieces of the template and completions of the policy to one token context; what was written
stays as it is, so every prompt is an exact prefix of the next one and the trained ids are the sampled ids.
Source: cwm.md 1.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from swegym.core.errors import ConfigError, PolicyError
from swegym.core.policy import Completion, Message, Tokenizer
from swegym.core.trajectory import TokenContext

__all__ = [
    "BOS",
    "EOT",
    "STOP_NAMES",
    "ContextWriter",
    "Piece",
    "Special",
    "chat_header",
    "chat_message",
    "encode_pieces",
    "stop_token_ids",
]


@dataclass(frozen=True, slots=True)
class Special:
    """One special token by name."""

    name: str


Piece = str | Special
BOS = Special("<|begin_of_text|>")
EOT = Special("<|eot_id|>")
STOP_NAMES = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
_HEADER_START, _HEADER_END = Special("<|start_header_id|>"), Special("<|end_header_id|>")


def chat_header(role: str) -> tuple[Piece, ...]:
    """Header of a message. The blank line is a piece of its own, so that no body can merge with it."""
    return (_HEADER_START, role, _HEADER_END, "\n\n")


def chat_message(message: Message) -> tuple[Piece, ...]:
    """A whole message. The body is stripped except in tool messages, whose output is kept byte for byte."""
    body = message.content if message.role.startswith("tool: ") else message.content.strip()
    return (*chat_header(message.role), body, EOT) if body else (*chat_header(message.role), EOT)


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[int]:
    """Raises ConfigError: the tokenizer lacks a special token of the template."""
    token_ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, str):
            token_ids += tokenizer.encode(piece)
            continue
        try:
            token_ids.append(tokenizer.special(piece.name))
        except KeyError:
            raise ConfigError(
                f"the tokenizer has no special token {piece.name}, which the prompt profile needs"
            ) from None
    return token_ids


def stop_token_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every id that ends a message; CWM stops at any of three."""
    found = []
    for name in STOP_NAMES:
        try:
            found.append(tokenizer.special(name))
        except KeyError:
            continue
    if not found:
        raise ConfigError(f"the tokenizer has none of the stop tokens {', '.join(STOP_NAMES)}")
    return tuple(found)


class ContextWriter:
    """Five aligned arrays that only grow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_token_ids(tokenizer))
        self._tokens: list[int] = []
        self._source: list[int] = []
        self._logprobs: list[float] = []
        self._loss_mask: list[int] = []
        self._versions: list[int] = []

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(self._tokens)

    def encode(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of template pieces, not yet written."""
        return encode_pieces(self._tokenizer, pieces)

    def needs_eot(self) -> bool:
        """The policy's turn has no stop token of its own, so the template must close it."""
        return bool(self._source) and self._source[-1] == 1 and self._tokens[-1] not in self._stop_ids

    def write_template(self, token_ids: list[int]) -> None:
        """Append tokens that nobody sampled: mask 0, log-probability 0, version -1."""
        self._extend(token_ids, 0, [0.0] * len(token_ids), [-1] * len(token_ids))

    def write_completion(self, completion: Completion) -> None:
        """Append what the policy sampled, exactly as sampled, the stop token with its own log-probability included.

        Raises:
            PolicyError: the policy's arrays differ in length, or a log-probability is not finite.
        """
        ids, logprobs, versions = completion.token_ids, completion.logprobs, completion.policy_versions
        if not len(ids) == len(logprobs) == len(versions):
            raise PolicyError(f"policy returned {len(ids)} ids, {len(logprobs)} logprobs, {len(versions)} versions")
        if not all(math.isfinite(value) for value in logprobs):
            raise PolicyError("policy returned a log-probability that is not finite")
        self._extend(ids, 1, logprobs, versions)

    def write_recorded(self, record: TokenContext) -> None:
        """Append the tokens that a policy sampled next in a record, exactly as they stand there."""
        begin = end = len(self._tokens)
        while end < len(record.tokens) and record.source[end] == 1:
            end += 1
        part = slice(begin, end)
        self._extend(record.tokens[part], 1, record.rollout_logprobs[part], record.policy_version[part])
        self._loss_mask[part] = record.loss_mask[part]

    def context(self) -> TokenContext:
        return TokenContext(
            tokens=tuple(self._tokens),
            source=tuple(self._source),
            rollout_logprobs=tuple(self._logprobs),
            loss_mask=tuple(self._loss_mask),
            policy_version=tuple(self._versions),
        )

    def _extend(self, ids: Iterable[int], source: int, logprobs: Iterable[float], versions: Iterable[int]) -> None:
        before = len(self._tokens)
        self._tokens += ids
        added = len(self._tokens) - before
        self._source += [source] * added
        self._loss_mask += [source] * added
        self._logprobs += logprobs
        self._versions += versions
