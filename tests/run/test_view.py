import pytest

from swegym.core.action import Observation, ToolCall
from swegym.core.errors import ConfigError
from swegym.core.outcome import Outcome, TestStatus, Validity
from swegym.core.trajectory import Trajectory, Turn
from swegym.run.view import episode_text


def episode(**values: object) -> Trajectory:
    turns = (
        Turn(
            index=0,
            text="<tool: bash>\nls [bold]\n</tool>",
            action=ToolCall(tool="bash", body="ls [bold]"),
            observation=Observation(text="a\x1b[31mred\x07\n[red]b", exit_code=2, truncated_bytes=9),
        ),
        Turn(index=1, text="words", format_error="no tool call found", observation=Observation(text="no tool")),
    )
    fields: dict[str, object] = {
        "episode_id": "abcd",
        "task_id": "t-1",
        "env_id": "v",
        "first_observation": Observation(text="the statement"),
        "turns": turns,
        "terminated": True,
        "end_reason": "submitted",
        "seed": 5,
        "submission": "diff --git a/x b/x\n",
        "outcome": Outcome(
            task_id="t-1", resolved=False, reason="tests_failed", tests={"t.py::a": TestStatus.FAILED}, notices=("odd",)
        ),
        "rewards": {"cwm.outcome": -1.0},
        "reward": -1.0,
    }
    return Trajectory.model_validate(fields | values)


def test_everything_is_shown_in_order() -> None:
    text = episode_text(episode())
    wanted = [
        "episode abcd", "task t-1", "seed 5", "the statement", "turn 0: agent", "ls [bold]", "exit code 2",
        "9 bytes left out", "[red]b", "turn 1: agent", "words", "format error: no tool call found", "diff --git",
        "terminated: submitted", "resolved: False (tests_failed)", "failed   t.py::a", "notice: odd",
        "reward -1", "cwm.outcome -1",
    ]  # fmt: skip
    places = [text.index(item) for item in wanted]
    assert places == sorted(places)


def test_recorded_escape_sequences_do_not_reach_the_terminal() -> None:
    text = episode_text(episode())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert r"a\x1b[31mred\x07" in text


def test_one_turn_and_long_texts() -> None:
    long = episode(turns=(Turn(index=0, text="s" * 50 + "e" * 50, observation=Observation(text="")),))
    text = episode_text(long, turn=0, max_chars=20)
    assert "ssssssssss" in text
    assert "[... 80 characters ...]" in text
    assert "s" * 11 not in text
    assert "the statement" not in text
    with pytest.raises(ConfigError, match=r"turns 0\.\.0, not 3"):
        episode_text(long, turn=3)


def test_an_invalid_episode_says_why() -> None:
    text = episode_text(episode(validity=Validity.INFRASTRUCTURE, validity_reason="gone", reward=None, outcome=None))
    assert "invalid (infrastructure): gone" in text
    assert "reward" not in text
