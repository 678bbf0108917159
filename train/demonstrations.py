"""Demonstrations of a scripted teacher: they teach the form of an action, not its meaning.

A line of Python gets one token replaced, and the teacher "repairs" it by a guess: it picks one of the tokens in the
line and a replacement that could stand there. It does not know what was right, so a model that learns from it proposes
well-formed repairs and has everything else to learn from tests. The lines are those of Python's own standard library,
which is on every machine and is no task of anybody.
"""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from swegym.agents.chat import BOS, EOT, encode_pieces
from swegym.agents.profiles.short import SEPARATOR, SUBMIT_TEXT, sed_action
from swegym.core.policy import Tokenizer
from swegym.envs.tasksets.mutations import Mutation, find_mutations
from swegym.train.sft import SftExample

__all__ = ["KINDS", "demonstrations", "guess_repair", "library_mutations", "tokenizer_corpus"]

LIBRARY_FOLDERS = (
    "asyncio", "collections", "concurrent", "ctypes", "email", "encodings", "html", "http", "importlib", "json",
    "logging", "multiprocessing", "sqlite3", "unittest", "urllib", "wsgiref", "xml", "xmlrpc",
)  # fmt: skip
KINDS = ("comparison", "arithmetic", "boolean", "identity", "membership", "augmented")
FAMILIES: tuple[tuple[str, ...], ...] = (
    ("==", "!=", "<", "<=", ">", ">=", "is", "is not", "in", "not in"),
    ("+", "-", "*", "/", "//", "%"),
    ("and", "or", "and not", "or not"),
    ("+=", "-=", "*=", "="),
)
"""Tokens that can stand in each other's place."""
FAMILY_OF = {token: family for family in FAMILIES for token in family}
MAX_LINE_CHARS = 90
CUE_SHARE = 0.5
"""How often the teacher picks the token that was really replaced; else any of the line's."""


def library_mutations(folders: Sequence[str] = LIBRARY_FOLDERS) -> list[Mutation]:
    """One-token mutations of the standard library's lines, each pair of lines once, in a fixed order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[tuple[str, str], Mutation] = {}
    for folder in folders:
        for file in sorted((root / folder).rglob("*.py")):
            try:
                mutations = find_mutations(str(file.relative_to(root)), file.read_text(encoding="utf-8"), KINDS)
            except (SyntaxError, UnicodeDecodeError, ValueError):
                continue  # the library's own tests hold broken files on purpose
            for mutation in mutations:
                if len(mutation.after_line.strip()) <= MAX_LINE_CHARS:
                    found.setdefault((mutation.before_line.strip(), mutation.after_line.strip()), mutation)
    return list(found.values())


def guess_repair(line: str, replaced: str, rng: random.Random) -> tuple[str, str]:
    """The teacher's guess: which token to replace in `line`, and by what."""
    present = [token for token in FAMILY_OF if line.count(f" {token} ") == 1]
    before = replaced if replaced in FAMILY_OF and rng.random() < CUE_SHARE else rng.choice(present or [replaced])
    family = FAMILY_OF.get(before, FAMILIES[0])
    return before, rng.choice([token for token in family if token != before])


def demonstrations(mutations: Sequence[Mutation], tokenizer: Tokenizer, seed: int) -> Iterator[SftExample]:
    """An endless stream of whole episodes in the `short` profile: prompt, repair, submission."""
    rng = random.Random(seed)
    separator = encode_pieces(tokenizer, (SEPARATOR,))
    submit = encode_pieces(tokenizer, (SUBMIT_TEXT, EOT))
    while True:
        mutation = rng.choice(mutations)
        line = mutation.after_line.strip()
        prompt = encode_pieces(tokenizer, (BOS, line, SEPARATOR))
        repair = encode_pieces(tokenizer, (sed_action(*guess_repair(line, mutation.after_token, rng)), EOT))
        tokens = prompt + repair + separator + submit
        loss_mask = [0] * len(prompt) + [1] * len(repair) + [0] * len(separator) + [1] * len(submit)
        yield SftExample(tokens, loss_mask)


def tokenizer_corpus(mutations: Sequence[Mutation]) -> Iterator[str]:
    """Texts to train the tokenizer on: lines, and every action the teacher can take."""
    actions = [sed_action(a, b) for family in FAMILIES for a in family for b in family if a != b]
    for mutation in mutations:
        yield mutation.after_line.strip()
    for _ in range(max(1, len(mutations) // (4 * len(actions)))):
        yield from actions
        yield SUBMIT_TEXT
