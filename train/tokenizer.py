"""Train a byte-level BPE in the form of CWM's tokenizer: Llama-3 splitting, special tokens after the BPE tokens.

The class that encodes and decodes is `swegym.agents.tokenizer.BpeTokenizer`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable

from swegym.agents.tokenizer import CWM_VOCAB_SIZE, BpeTokenizer, special_token_ids
from swegym.core.errors import ConfigError, DependencyMissing

__all__ = ["SPLIT_PATTERN", "train_tokenizer"]

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # English contractions
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"  # a word, with one leading blank or sign
    r"|\p{N}{1,3}"  # up to three digits
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # signs
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"  # line ends and blanks
)
"""How text is cut before merges; the published Llama-3 pattern, which CWM uses."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> BpeTokenizer:
    """Train a tokenizer of exactly `vocab_size` ids, deterministic for one corpus.

    Args:
        texts: the corpus, ordinary text without special tokens.
        vocab_size: 256 bytes, merges, then the special tokens (see `special_token_ids`). Where the corpus has too few
            merges, reserved special tokens fill the gap, as CWM's own vocabulary does.

    Raises:
        ConfigError: the size is too small, or it is CWM's own (its released tokenizer is then the right one).
        DependencyMissing: the package tokenizers is absent.
    """
    if vocab_size == CWM_VOCAB_SIZE:
        raise ConfigError(f"vocab_size {CWM_VOCAB_SIZE} is CWM's own: load its released tokenizer.json instead")
    special_ids = special_token_ids(vocab_size)
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise DependencyMissing("training a tokenizer needs the package tokenizers: pip install tokenizers") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    num_bpe_tokens = vocab_size - len(special_ids)
    trainer = trainers.BpeTrainer(
        vocab_size=num_bpe_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    missing = num_bpe_tokens - tokenizer.get_vocab_size()
    names = [f"<|reserved_special_token_{number}|>" for number in range(missing)] + list(special_ids)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    for name, token_id in special_ids.items():
        if tokenizer.token_to_id(name) != token_id:  # would train a model on wrong ids without any other sign
            raise AssertionError(f"{name} has id {tokenizer.token_to_id(name)}, expected {token_id}")
    return BpeTokenizer(tokenizer.to_str())
