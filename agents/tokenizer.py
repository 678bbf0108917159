"""Byte-level BPE tokenizer with CWM's special tokens; needs no torch. Training one is in `swegym.train.tokenizer`.

CWM's own vocabulary is 128000 BPE tokens followed by 256 special ids (cwm.md 1.4). A small vocabulary keeps that form:
BPE tokens first, the named special tokens last, in the order of their CWM ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swegym.core.errors import ConfigError, DependencyMissing

__all__ = [
    "CWM_NUM_BPE_TOKENS",
    "CWM_VOCAB_SIZE",
    "SPECIAL_TOKENS",
    "STOP_TOKENS",
    "BpeTokenizer",
    "special_token_ids",
]

CWM_NUM_BPE_TOKENS = 128_000
CWM_VOCAB_SIZE = 128_256

SPECIAL_TOKENS: tuple[tuple[str, int], ...] = (
    ("<|begin_of_text|>", 0),
    ("<|end_of_text|>", 1),
    ("<|pad|>", 4),
    ("<|start_header_id|>", 6),
    ("<|end_header_id|>", 7),
    ("<|eom_id|>", 8),
    ("<|eot_id|>", 9),
    ("<|frame_sep|>", 100),
    ("<|action_sep|>", 101),
    ("<|return_sep|>", 102),
    ("<|call_sep|>", 103),
    ("<|line_sep|>", 104),
    ("<|exception_sep|>", 105),
    ("<|arg_sep|>", 106),
    ("<|trace_context_start|>", 107),
    ("<|reasoning_thinking_start|>", 120),
    ("<|reasoning_thinking_end|>", 121),
)
"""Name and offset from 128000 in CWM's vocabulary."""

STOP_TOKENS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
"""Any of these ends a generation (CWM's eos list)."""


def special_token_ids(vocab_size: int) -> dict[str, int]:
    """Ids of the named special tokens: CWM's own for its vocabulary size, else the last ids of the vocabulary.

    Raises:
        ConfigError: the vocabulary has no room for the 256 bytes and the special tokens.
    """
    if vocab_size == CWM_VOCAB_SIZE:
        return {name: CWM_NUM_BPE_TOKENS + offset for name, offset in SPECIAL_TOKENS}
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special tokens need {smallest}"
        )
    first = vocab_size - len(SPECIAL_TOKENS)
    return {name: first + index for index, (name, _) in enumerate(SPECIAL_TOKENS)}


class BpeTokenizer:
    """Implements `swegym.core.policy.Tokenizer` over a `tokenizer.json`; pickles, so it may cross processes."""

    def __init__(self, tokenizer_json: str) -> None:
        """Args: tokenizer_json: the file's content. Raises: DependencyMissing, ConfigError (not a tokenizer)."""
        self._json = tokenizer_json
        self._tokenizer = _parse(tokenizer_json)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special: dict[str, int] = {token.content: token_id for token_id, token in added.items() if token.special}
        self.num_tokens: int = self._tokenizer.get_vocab_size(with_added_tokens=True)

    @classmethod
    def load(cls, path: str | Path) -> BpeTokenizer:
        """Read `tokenizer.json`, given as the file or as the folder that holds it.

        Raises:
            ConfigError: there is no such file, or it is not a tokenizer.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise ConfigError(f"no tokenizer at {file}: give a folder that holds a tokenizer.json")
        try:
            return cls(file.read_text(encoding="utf-8"))
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as transformers and vLLM read them."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "tokenizer.json").write_text(self._json, encoding="utf-8")
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|end_of_text|>",
            "pad_token": "<|pad|>",
            "clean_up_tokenization_spaces": False,
        }
        (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text; the name of a special token in it stays text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the tokens without special ones; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def special(self, name: str) -> int:
        """Raises KeyError: there is no special token of that name."""
        return self._special[name]

    def stop_token_ids(self) -> tuple[int, ...]:
        """Ids that end a generation."""
        return tuple(self._special[name] for name in STOP_TOKENS)

    def __reduce__(self) -> tuple[type[BpeTokenizer], tuple[str]]:
        return (type(self), (self._json,))


def _parse(tokenizer_json: str) -> Any:
    try:
        from tokenizers import Tokenizer as HfTokenizer
    except ImportError as error:
        raise DependencyMissing("token policies need the package tokenizers: pip install tokenizers") from error
    try:
        tokenizer = HfTokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare Exception for malformed files
        raise ConfigError(f"not a tokenizer.json: {error}") from error
    tokenizer.encode_special_tokens = True  # a special name in ordinary text must not become a special id
    return tokenizer
