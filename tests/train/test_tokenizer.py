"""The trained tokenizer: CWM's special tokens last, never produced by ordinary text, readable by transformers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from swegym.agents.tokenizer import CWM_VOCAB_SIZE, SPECIAL_TOKENS, BpeTokenizer, special_token_ids
from swegym.core.errors import ConfigError
from swegym.train.tokenizer import train_tokenizer

CORPUS = ["def double(x):\n    return x + x\n", "if double(3) == 6:\n    print('double is right')\n"] * 3
VOCAB_SIZE = 310
TOKENIZER = train_tokenizer(CORPUS, VOCAB_SIZE)
NAMES = [name for name, _ in SPECIAL_TOKENS]


def test_special_ids_are_cwms_for_its_vocabulary() -> None:
    ids = special_token_ids(CWM_VOCAB_SIZE)
    published = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|eot_id|>": 128009, "<|frame_sep|>": 128100}
    assert published.items() <= ids.items()
    assert ids["<|reasoning_thinking_end|>"] == 128121


def test_special_ids_are_the_last_ones() -> None:
    assert TOKENIZER.num_tokens == VOCAB_SIZE
    assert [TOKENIZER.special(name) for name in NAMES] == list(range(VOCAB_SIZE - 17, VOCAB_SIZE))
    assert TOKENIZER.stop_token_ids() == (294, 298, 299)
    with pytest.raises(KeyError):
        TOKENIZER.special("<|no_such_token|>")


def test_text_never_becomes_a_special_token() -> None:
    for name in NAMES:
        text = f"print({name!r}){name}"
        ids = TOKENIZER.encode(text)
        assert max(ids) < VOCAB_SIZE - 17
        assert TOKENIZER.decode(ids) == text


@given(st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert all(0 <= token < VOCAB_SIZE - 17 for token in ids)
    assert TOKENIZER.decode(ids) == text


def test_merges_were_learned_and_decode_leaves_specials_out() -> None:
    assert len(TOKENIZER.encode(" double")) < len(" double")
    ids = [TOKENIZER.special("<|begin_of_text|>"), *TOKENIZER.encode("x + x"), TOKENIZER.special("<|eot_id|>")]
    assert TOKENIZER.decode(tuple(ids)) == "x + x"
    broken = TOKENIZER.encode("é")[:1]
    assert TOKENIZER.decode(broken) == "\ufffd"


def test_digits_are_split_by_three() -> None:
    tokenizer = train_tokenizer(["1234567 1234567"] * 9, 400)
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("1234567")]
    assert pieces == ["123", "456", "7"]


def test_training_is_deterministic() -> None:
    assert train_tokenizer(iter(CORPUS), VOCAB_SIZE).encode("return double") == TOKENIZER.encode("return double")


def test_a_small_corpus_is_filled_up_with_reserved_tokens() -> None:
    tokenizer = train_tokenizer(["ab"], 1024)
    assert tokenizer.num_tokens == 1024
    assert tokenizer.special("<|reasoning_thinking_end|>") == 1023
    assert tokenizer.decode([tokenizer.special("<|reserved_special_token_0|>"), *tokenizer.encode("ab")]) == "ab"


@pytest.mark.parametrize(("size", "words"), [(272, "too small"), (CWM_VOCAB_SIZE, "released")])
def test_impossible_sizes_are_refused(size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train_tokenizer(CORPUS, size)


def test_save_load_pickle_and_transformers_agree(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "new")
    text = "def double(x): return 'ünï'\n"
    ids = TOKENIZER.encode(text)
    assert BpeTokenizer.load(tmp_path / "new").encode(text) == ids
    assert BpeTokenizer.load(tmp_path / "new" / "tokenizer.json").encode("<|eot_id|>") == TOKENIZER.encode("<|eot_id|>")
    assert pickle.loads(pickle.dumps(TOKENIZER)).encode("<|eot_id|>") == TOKENIZER.encode("<|eot_id|>")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.convert_tokens_to_ids(NAMES) == [TOKENIZER.special(name) for name in NAMES]
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (NAMES[0], NAMES[1], "<|pad|>")


def test_missing_or_broken_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer at .*tokenizer\.json"):
        BpeTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer"):
        BpeTokenizer.load(tmp_path)


def test_needs_no_torch(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    code = (
        "import sys; from swegym.agents.tokenizer import BpeTokenizer as B; "
        f"B.load({str(tmp_path)!r}).encode('x'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
