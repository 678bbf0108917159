"""Replay: run a recorded episode's actions again in a fresh sandbox, and say where the world answers differently."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from swegym.core.action import AsyncEnv, Observation, StepResult
from swegym.core.errors import ConfigError
from swegym.core.outcome import Grader, Outcome
from swegym.core.records import Record
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory, Turn

__all__ = ["ReplayReport", "TurnReplay", "normalize_text", "reexecute"]

_VOLATILE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b0x[0-9a-fA-F]{4,}\b"), "0xADDRESS"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "TIMESTAMP"),
    (
        re.compile(
            r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d{1,2} (?:\d\d:\d\d(?::\d\d)?(?: \d{4})?| \d{4})"
        ),
        "TIME",
    ),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "TIME"),
    (re.compile(r"\b\d+m\d+[.,]\d+s\b"), "DURATION"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:ms|us|µs|ns|s|sec|secs|seconds?|minutes?)\b"), "DURATION"),
    (re.compile(r"/tmp/[A-Za-z0-9_.-]*[A-Za-z0-9_]{6,}"), "/tmp/NAME"),
    (re.compile(r"\b(?:pid|PID)[ =:]+\d+"), "pid N"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "COMMIT"),
    (re.compile(r"(\[[^\]\s]+ (?:\(root-commit\) )?)[0-9a-f]{7,12}\]"), r"\1COMMIT]"),
    (re.compile(r"={3,}"), "==="),  # pytest pads its lines to a width, so their length depends on the duration
)


def normalize_text(text: str) -> str:
    """The text without what differs between equal runs: times, durations, addresses, temporary paths, commit ids."""
    for pattern, replacement in _VOLATILE:
        text = pattern.sub(replacement, text)
    return text


class TurnReplay(Record):
    """One turn, run again."""

    index: int
    """-1 is the first observation."""
    differences: tuple[str, ...] = ()
    """One per field that differs: the field's name and both values, or a unified diff."""

    @property
    def is_equal(self) -> bool:
        return not self.differences


class ReplayReport(Record):
    """What a re-execution found."""

    episode_id: str
    turns: tuple[TurnReplay, ...]
    num_recorded_turns: int
    end_reason: str
    """How the re-executed episode ended; empty when the recorded actions ran out before the env ended it."""
    end_differences: tuple[str, ...] = ()
    """End, submission and task definition."""
    outcome_differences: tuple[str, ...] = ()
    outcome: Outcome | None = None
    """The new grade; None without a grader."""

    @property
    def is_equal(self) -> bool:
        return not self.lines()

    def lines(self) -> list[str]:
        """Every difference, one text each, in order; empty when there is none."""
        found = []
        for turn in self.turns:
            where = "first observation" if turn.index < 0 else f"turn {turn.index}"
            found += [f"{where}: {difference}" for difference in turn.differences]
        found += [f"end: {difference}" for difference in self.end_differences]
        return found + [f"outcome: {difference}" for difference in self.outcome_differences]


async def reexecute(
    trajectory: Trajectory,
    task: Task,
    env: AsyncEnv,
    grader: Grader | None = None,
    *,
    on_turn: Callable[[TurnReplay], None] | None = None,
) -> ReplayReport:
    """Run the recorded actions again; the caller closes the env and the grader.

    Args:
        trajectory: the record.
        task: the task it was made on.
        env: an env that grades nothing itself (`grade="deferred"`).
        grader: given, the new submission is graded and compared with the recorded outcome.
        on_turn: called after each turn, the first observation being -1.

    Raises:
        ConfigError: the task is another one than the record's.
        SandboxError, TaskError: the re-execution itself failed, which says nothing about the record.
    """
    if task.task_id != trajectory.task_id:
        raise ConfigError(f"episode {trajectory.episode_id} is of task {trajectory.task_id!r}, not {task.task_id!r}")
    ends: list[str] = []
    if trajectory.task_fingerprint not in ("", task.fingerprint):
        ends.append(f"the task changed since (fingerprint {trajectory.task_fingerprint} -> {task.fingerprint})")
    compared: list[TurnReplay] = []

    def add(turn: TurnReplay) -> None:
        compared.append(turn)
        if on_turn is not None:
            on_turn(turn)

    first, _ = await env.start(task, seed=trajectory.seed)
    add(TurnReplay(index=-1, differences=_observation_differences(trajectory.first_observation, first)))
    result: StepResult | None = None
    acted = [turn for turn in trajectory.turns if turn.observation is not None]
    for position, turn in enumerate(acted):
        result = await env.act(turn.action, error=turn.format_error)
        add(_compare_turn(turn, result))
        if (result.terminated or result.truncated) and position < len(acted) - 1:
            ends.append(f"the episode ended after turn {turn.index}, the record goes on to turn {acted[-1].index}")
            break
    ends += _end_differences(trajectory, result)
    submission = await env.submission()
    if not trajectory.end_reason.startswith("error:") and submission != trajectory.submission:
        ends.append(_text_difference("submission", trajectory.submission or "", submission or ""))
    outcome = await grader.grade(task, submission or "") if grader is not None else None
    is_over = result is not None and (result.terminated or result.truncated)
    return ReplayReport(
        episode_id=trajectory.episode_id,
        turns=tuple(compared),
        num_recorded_turns=len(trajectory.turns),
        end_reason=str(result.info.get("end_reason", "submitted")) if result is not None and is_over else "",
        end_differences=tuple(ends),
        outcome_differences=_outcome_differences(trajectory.outcome, outcome),
        outcome=outcome,
    )


def _compare_turn(turn: Turn, result: StepResult) -> TurnReplay:
    assert turn.observation is not None
    differences = _observation_differences(turn.observation, result.observation)
    recorded, again = turn.info.get("tests"), result.info.get("tests")
    if recorded is not None and dict(recorded) != dict(again or {}):
        differences = (*differences, _value_difference("tests", dict(recorded), dict(again or {})))
    return TurnReplay(index=turn.index, differences=differences)


def _observation_differences(recorded: Observation, again: Observation) -> tuple[str, ...]:
    found = []
    before, after = normalize_text(recorded.text), normalize_text(again.text)
    if before != after:
        found.append(_text_difference("text", before, after))
    if recorded.exit_code != again.exit_code:
        found.append(_value_difference("exit_code", recorded.exit_code, again.exit_code))
    # Outputs cut in the middle may differ by the digits of a duration.
    if bool(recorded.truncated_bytes) != bool(again.truncated_bytes):
        found.append(_value_difference("truncated_bytes", recorded.truncated_bytes, again.truncated_bytes))
    return tuple(found)


def _end_differences(trajectory: Trajectory, result: StepResult | None) -> list[str]:
    """Only ends that the env decides can be compared; the agent's own limits are not there at a replay."""
    by_env = trajectory.terminated or trajectory.end_reason == "turn_limit"
    again = bool(result and (result.terminated or result.truncated))
    reason = str(result.info.get("end_reason", "submitted")) if result and again else ""
    if by_env and reason != trajectory.end_reason:
        return [_value_difference("end_reason", trajectory.end_reason, reason or "not over")]
    return []


def _outcome_differences(recorded: Outcome | None, again: Outcome | None) -> tuple[str, ...]:
    if recorded is None or again is None:
        return ()
    found = [
        _value_difference(field, getattr(recorded, field), getattr(again, field))
        for field in ("resolved", "validity", "reason")
        if getattr(recorded, field) != getattr(again, field)
    ]
    changed = {
        test for test in recorded.tests.keys() | again.tests.keys() if recorded.tests.get(test) != again.tests.get(test)
    }
    found += [_value_difference(test, recorded.tests.get(test), again.tests.get(test)) for test in sorted(changed)]
    return tuple(found)


def _value_difference(name: str, before: object, after: object) -> str:
    return f"{name}: recorded {before}, now {after}"


def _text_difference(name: str, before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "recorded", "now", lineterm="", n=1)
    return f"{name} differs\n" + "\n".join(list(lines)[:40])
