import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swegym.agents.chat import (
    BOS,
    EOT,
    ContextWriter,
    Special,
    chat_header,
    chat_message,
    encode_pieces,
    stop_token_ids,
)
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import ConfigError, PolicyError
from swegym.core.policy import Completion, Message


class ByteTokenizer:
    """One id per byte, few special tokens: what a strange tokenizer looks like."""

    num_tokens = 257

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        return bytes(item for item in token_ids if item < 256).decode(errors="replace")

    def special(self, name: str) -> int:
        return {"<|eot_id|>": 256}[name]


def test_a_message_is_cwms_format_byte_for_byte() -> None:
    start, end = Special("<|start_header_id|>"), Special("<|end_header_id|>")
    user = chat_message(Message(role="user", content="\n hi  there \n"))
    assert user == (start, "user", end, "\n\n", "hi  there", EOT)
    tool = chat_message(Message(role="tool: bash", content=" <output>\nx\n</output> \n"))
    assert tool == (start, "tool: bash", end, "\n\n", " <output>\nx\n</output> \n", EOT)
    assert chat_message(Message(role="user", content="")) == (start, "user", end, "\n\n", EOT)
    assert chat_header("assistant") == (start, "assistant", end, "\n\n")


def test_golden_ids(tokenizer: BpeTokenizer) -> None:
    special = tokenizer.special
    ids = encode_pieces(tokenizer, (BOS, *chat_message(Message(role="user", content="fox"))))
    assert ids == [
        special("<|begin_of_text|>"),
        special("<|start_header_id|>"),
        *tokenizer.encode("user"),
        special("<|end_header_id|>"),
        *tokenizer.encode("\n\n"),
        *tokenizer.encode("fox"),
        special("<|eot_id|>"),
    ]


def test_text_never_becomes_a_special_token(tokenizer: BpeTokenizer) -> None:
    specials = set(map(tokenizer.special, ("<|eot_id|>", "<|begin_of_text|>", "<|action_sep|>")))
    ids = encode_pieces(tokenizer, ["<|eot_id|><|begin_of_text|><|action_sep|>"])
    assert not specials & set(ids)
    assert tokenizer.decode(ids) == "<|eot_id|><|begin_of_text|><|action_sep|>"


def test_a_tokenizer_without_the_templates_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no special token <\|begin_of_text\|>"):
        encode_pieces(ByteTokenizer(), [BOS])
    assert stop_token_ids(ByteTokenizer()) == (256,)


def test_the_three_stop_tokens(tokenizer: BpeTokenizer) -> None:
    names = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")
    assert stop_token_ids(tokenizer) == tuple(tokenizer.special(name) for name in names)


def completion(ids: list[int], logprob: float = -0.5, version: int = 3) -> Completion:
    return Completion("text", "stop", tuple(ids), (logprob,) * len(ids), (version,) * len(ids))


def test_hand_computed_arrays(tokenizer: BpeTokenizer) -> None:
    """Rows 54, 65, 66, 67: sampled ids as sampled, a sampled stop token keeps its log-probability and mask 1."""
    eot = tokenizer.special("<|eot_id|>")
    writer = ContextWriter(tokenizer)
    writer.write_template([10, 11, 12])
    writer.write_completion(Completion("ab", "stop", (20, 21, eot), (-0.5, -1.5, -0.01), (3, 3, 4)))
    assert not writer.needs_eot()
    writer.write_template([13])
    writer.write_completion(Completion("c", "length", (22,), (-2.0,), (4,)))
    assert writer.needs_eot()
    writer.write_template(writer.encode([EOT]))
    context = writer.context()
    assert context.tokens == (10, 11, 12, 20, 21, eot, 13, 22, eot)
    assert context.source == (0, 0, 0, 1, 1, 1, 0, 1, 0)
    assert context.loss_mask == (0, 0, 0, 1, 1, 1, 0, 1, 0)
    assert context.rollout_logprobs == (0.0, 0.0, 0.0, -0.5, -1.5, -0.01, 0.0, -2.0, 0.0)
    assert context.policy_version == (-1, -1, -1, 3, 3, 4, -1, 4, -1)


@pytest.mark.parametrize("name", ["<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"])
def test_any_stop_token_closes_a_turn(tokenizer: BpeTokenizer, name: str) -> None:
    writer = ContextWriter(tokenizer)
    writer.write_completion(completion([9, tokenizer.special(name)]))
    assert not writer.needs_eot()


@pytest.mark.parametrize(
    ("ids", "logprobs", "versions"),
    [((1, 2), (-1.0,), (0, 0)), ((1,), (-1.0,), ()), ((1,), (float("nan"),), (0,)), ((1,), (float("-inf"),), (0,))],
)
def test_a_policy_that_returns_nonsense_is_an_engine_failure(
    tokenizer: BpeTokenizer, ids: tuple[int, ...], logprobs: tuple[float, ...], versions: tuple[int, ...]
) -> None:
    writer = ContextWriter(tokenizer)
    with pytest.raises(PolicyError):
        writer.write_completion(Completion("x", "stop", ids, logprobs, versions))
    assert len(writer) == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12), st.booleans()), min_size=1, max_size=5))
def test_turn_by_turn_is_the_concatenation_and_keeps_every_prefix(
    tokenizer: BpeTokenizer, turns: list[tuple[str, str, bool]]
) -> None:
    """Rows 56, 59, 60, 64: a linear dialogue never forks, whatever the texts hold at the boundaries."""
    eot = tokenizer.special("<|eot_id|>")
    writer = ContextWriter(tokenizer)
    whole: list[int] = []
    prefixes: list[tuple[int, ...]] = []
    for said, answer, has_stop in turns:
        sampled = tokenizer.encode(said) + ([eot] if has_stop else [])
        pieces = (*chat_message(Message(role="tool: bash", content=answer)), *chat_header("assistant"))
        writer.write_completion(completion(sampled))
        ends_open = bool(sampled) and not has_stop
        assert writer.needs_eot() == ends_open
        writer.write_template(writer.encode((EOT, *pieces) if ends_open else pieces))
        whole += sampled + ([eot] if ends_open else []) + encode_pieces(tokenizer, pieces)
        prefixes.append(writer.token_ids)
    assert writer.token_ids == tuple(whole)
    for earlier, later in itertools.pairwise(prefixes):
        assert later[: len(earlier)] == earlier
