"""The two custom spaces."""

from __future__ import annotations

import pickle

import pytest
from gymnasium.vector.utils import batch_space

from swegym.core.errors import ConfigError
from swegym.envs.spaces import ToolCallSpace, UnicodeText


def test_unicode_text_takes_any_string_up_to_its_length() -> None:
    space = UnicodeText(3)
    assert "" in space
    assert "ä\n\u2028" in space
    assert "\U0001f600" * 3 in space
    assert "abcd" not in space
    assert b"a" not in space


def test_tool_call_space_membership() -> None:
    space = ToolCallSpace(("bash", "submit"), max_length=5)
    assert {"tool": "submit", "body": ""} in space
    assert {"tool": "bash", "body": "abcde"} in space
    for outsider in (
        {"tool": "edit", "body": ""},
        {"tool": "bash"},
        {"tool": "bash", "body": "abcdef"},
        {"tool": "bash", "body": 1},
        {"tool": "bash", "body": "a", "more": 1},
        ("bash", "a"),
    ):
        assert outsider not in space


def test_samples_are_members_and_follow_the_seed() -> None:
    one, two = ToolCallSpace(("a", "b", "c"), seed=5), ToolCallSpace(("a", "b", "c"))
    one.seed(7)
    two.seed(7)
    samples = [one.sample() for _ in range(50)]
    assert samples == [two.sample() for _ in range(50)]
    assert all(sample in one for sample in samples)
    assert {sample["tool"] for sample in samples} == {"a", "b", "c"}
    assert len({sample["body"] for sample in samples}) > 40


def test_equality_pickling_and_batches() -> None:
    space = ToolCallSpace(("a", "b"), max_length=9)
    assert pickle.loads(pickle.dumps(space)) == space
    assert space != ToolCallSpace(("b", "a"), max_length=9)
    assert UnicodeText(4) == UnicodeText(4)
    assert UnicodeText(4) != UnicodeText(5)
    assert batch_space(space, 2).contains(({"tool": "a", "body": ""}, {"tool": "b", "body": "x"}))


def test_bad_spaces_are_refused() -> None:
    for names in ((), ("a", "a")):
        with pytest.raises(ConfigError, match="each named once"):
            ToolCallSpace(names)
    with pytest.raises(ConfigError, match="at least 1"):
        UnicodeText(0)
    with pytest.raises(ConfigError, match="mask"):
        UnicodeText(2).sample(mask=1)
