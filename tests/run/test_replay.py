from typing import Any

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.errors import ConfigError
from swegym.core.trajectory import Trajectory
from swegym.run.replay import TurnReplay, normalize_text, reexecute
from swegym.run.rollout import rollout


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<A object at 0x7f3a1c>", "<A object at 0x55d0aa10>"),
        ("==== 2 passed in 0.02s ====", "=== 2 passed in 10.15s ==="),
        ("real\t0m0.004s", "real\t1m12.104s"),
        ("at 2025-01-02T03:04:05.678+00:00", "at 2026-11-12T13:14:15Z"),
        ("-rw-r--r-- 1 root root 7 Nov  5 04:32 a", "-rw-r--r-- 1 root root 7 Dec 25 14:02 a"),
        ("/tmp/tmpab12cd_x/file", "/tmp/tmpzz99yy_q/file"),
        ("commit " + "a1" * 20, "commit " + "b2" * 20),
        ("[main (root-commit) 1a2b3c4] msg", "[main (root-commit) 9f8e7d6] msg"),
        ("took 3 ms", "took 25 ms"),
        ("started (pid 17)", "started (pid 4711)"),
    ],
)
def test_what_differs_between_equal_runs_is_taken_out(one: str, other: str) -> None:
    assert normalize_text(one) == normalize_text(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2 passed in 0.02s", "3 passed in 0.02s"),
        ("x = 0x1f", "x = 0x2f"),
        ("a == b", "a != b"),
        ("/testbed/a.py", "/testbed/b.py"),
        ("line 12", "line 13"),
        ("1.5", "2.5"),
        ("/tmp/out", "/tmp/err"),
    ],
)
def test_what_means_something_stays(one: str, other: str) -> None:
    assert normalize_text(one) != normalize_text(other)


@pytest.fixture
async def recorded(echo_env: Any, grader: Any, make_task: Any) -> Trajectory:
    texts = ["<tool: bash>\na\n</tool>", "talk", "<tool: bash>\nb\n</tool>", "<tool: submit>\ngood\n</tool>"]
    (found,) = await rollout(
        [make_task()], echo_env, lambda _: ForagerAgent(ScriptedPolicy(texts)), grader, {"tests": 1.0}
    )
    return found


async def test_an_honest_record_has_no_difference(
    recorded: Trajectory, echo_env: Any, grader: Any, make_task: Any
) -> None:
    turns: list[TurnReplay] = []
    report = await reexecute(recorded, make_task(), echo_env(), grader, on_turn=turns.append)
    assert report.lines() == []
    assert report.is_equal
    assert [turn.index for turn in turns] == [-1, 0, 1, 2, 3]
    assert report.outcome is not None
    assert report.outcome.resolved
    assert report.end_reason == "submitted"


def tampered(record: Trajectory, turn: int, observation: dict[str, Any] | None = None, **changes: Any) -> Trajectory:
    old = record.turns[turn]
    assert old.observation is not None
    changes["observation"] = old.observation.model_copy(update=observation or {})
    turns = list(record.turns)
    turns[turn] = old.model_copy(update=changes)
    return record.model_copy(update={"turns": tuple(turns)})


async def test_a_tampered_record_says_where_it_differs(
    recorded: Trajectory, echo_env: Any, grader: Any, make_task: Any
) -> None:
    task = make_task()

    async def differences(record: Trajectory) -> list[str]:
        return (await reexecute(record, task, echo_env(), grader)).lines()

    (text,) = await differences(tampered(recorded, 2, observation={"text": "forged"}))
    assert text.startswith("turn 2: text differs")
    assert "-forged" in text
    assert "+b" in text
    (code,) = await differences(tampered(recorded, 0, observation={"exit_code": 1}))
    assert code == "turn 0: exit_code: recorded 1, now 0"
    (tests,) = await differences(tampered(recorded, 0, info={"tests": {"x": "passed"}}))
    assert tests == "turn 0: tests: recorded {'x': 'passed'}, now {}"
    assert recorded.outcome is not None
    wrong = recorded.outcome.model_copy(update={"resolved": False, "reason": "tests_failed"})
    lines = await differences(recorded.model_copy(update={"outcome": wrong}))
    assert lines == [
        "outcome: resolved: recorded False, now True",
        "outcome: reason: recorded tests_failed, now resolved",
    ]
    (submission,) = await differences(recorded.model_copy(update={"submission": "bad"}))
    assert submission.startswith("end: submission differs")
    (reason,) = await differences(recorded.model_copy(update={"end_reason": "turn_limit"}))
    assert reason == "end: end_reason: recorded turn_limit, now submitted"
    (changed,) = await differences(recorded.model_copy(update={"task_fingerprint": "0000"}))
    assert changed.startswith("end: the task changed since (fingerprint 0000 -> ")
    first = recorded.first_observation.model_copy(update={"text": "another statement"})
    (statement,) = await differences(recorded.model_copy(update={"first_observation": first}))
    assert statement.startswith("first observation: text differs")


async def test_a_record_that_goes_on_after_the_end_is_noticed(
    recorded: Trajectory, echo_env: Any, make_task: Any
) -> None:
    moved = recorded.model_copy(update={"turns": (recorded.turns[3], *recorded.turns[:3])})
    report = await reexecute(moved, make_task(), echo_env())
    assert "end: the episode ended after turn 3, the record goes on to turn 2" in report.lines()
    assert report.outcome is None


async def test_turns_without_an_answer_are_left_out(recorded: Trajectory, echo_env: Any, make_task: Any) -> None:
    """An episode that ended by the agent's own limit: its last turn never reached the env."""
    last = recorded.turns[3].model_copy(update={"observation": None, "action": None})
    cut = recorded.model_copy(
        update={
            "turns": (*recorded.turns[:3], last),
            "terminated": False,
            "truncated": True,
            "end_reason": "action_limit",
            "submission": "",
        }
    )
    assert (await reexecute(cut, make_task(), echo_env())).lines() == []


async def test_another_task_is_refused(recorded: Trajectory, echo_env: Any, make_task: Any) -> None:
    with pytest.raises(ConfigError, match="is of task 't-0', not 't-1'"):
        await reexecute(recorded, make_task("t-1"), echo_env())
