"""The scripted teacher: form without meaning."""

import random
import re
from collections import Counter
from itertools import islice

import pytest

from swegym.envs.tasksets.mutations import find_mutations
from swegym.train.demonstrations import KINDS, demonstrations, guess_repair, tokenizer_corpus
from swegym.train.tokenizer import train_tokenizer

SOURCE = """def f(a, b, c):
    if a <= b and c:
        return a - b
    return c in b
"""
MUTATIONS = find_mutations("f.py", SOURCE, KINDS)


def test_a_guess_replaces_a_token_of_the_line_within_its_family() -> None:
    rng = random.Random(0)
    for mutation in MUTATIONS:
        for _ in range(20):
            before, after = guess_repair(mutation.after_line.strip(), mutation.after_token, rng)
            assert f" {before} " in mutation.after_line
            assert before != after


def test_guesses_do_not_know_the_answer() -> None:
    rng = random.Random(1)
    guesses = Counter(guess_repair("return a + b", "+", rng)[1] for _ in range(2000))
    assert set(guesses) == {"-", "*", "/", "//", "%"}
    assert max(guesses.values()) < 2 * min(guesses.values())  # 400 each, were they exactly even


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return train_tokenizer(tokenizer_corpus(MUTATIONS), 512)


def test_an_example_is_one_episode_and_trains_only_the_actions(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for example in islice(demonstrations(MUTATIONS, tokenizer, seed=3), 30):
        assert len(example.tokens) == len(example.loss_mask)
        trained = [token for token, flag in zip(example.tokens, example.loss_mask, strict=True) if flag]
        text = tokenizer.decode(trained)
        assert re.fullmatch(r'<tool: bash>\nsed -i "\$\{L\}s/ .+ / .+ /" \$F\n</tool><tool: submit>\n</tool>', text)
        assert trained.count(tokenizer.special("<|eot_id|>")) == 2
        assert example.tokens[0] == tokenizer.special("<|begin_of_text|>")
        assert example.loss_mask[0] == 0


def test_the_stream_repeats_with_the_seed(tokenizer) -> None:  # type: ignore[no-untyped-def]
    streams = [list(islice(demonstrations(MUTATIONS, tokenizer, seed=seed), 10)) for seed in (5, 5, 6)]
    assert streams[0] == streams[1] != streams[2]
