from collections.abc import Mapping
from itertools import product

import pytest

from swegym.core.action import Observation
from swegym.core.errors import ConfigError, RewardError, UnknownName
from swegym.core.outcome import Outcome, Validity
from swegym.core.registries import rewards as registry
from swegym.core.reward import check_terms
from swegym.core.task import Provenance, SweTask, Task
from swegym.core.trajectory import Trajectory
from swegym.rewards.compose import RewardSet, make_reward, score

TASK = Task(task_id="t", statement="s", provenance=Provenance(source="test"), payload=SweTask(repo="r", image="i"))


def trajectory(**values: object) -> Trajectory:
    fields = {"episode_id": "e", "task_id": "t", "env_id": "v", "first_observation": Observation(text="")}
    return Trajectory.model_validate(fields | {"terminated": True, "end_reason": "submitted"} | values)


def outcome(resolved: bool = False, **values: object) -> Outcome:
    return Outcome.model_validate({"task_id": "t", "resolved": resolved} | values)


CUT = {"terminated": False, "truncated": True, "end_reason": "turn_limit"}


@pytest.mark.parametrize(
    ("resolved", "similarity", "is_cut", "expected"),
    [
        (True, None, False, 1.0),
        (True, 0.0, False, 1.0),
        (False, None, False, -1.0),
        (False, 0.0, False, -1.0),
        (False, 0.49999, False, -1.0),
        (False, 0.5, False, 0.0),
        (False, 1.0, False, 0.0),
        (True, 1.0, True, -1.0),
        (False, 0.9, True, -1.0),
    ],
)
def test_cwm_rule(resolved: bool, similarity: float | None, is_cut: bool, expected: float) -> None:
    terms = make_reward("cwm")(TASK, trajectory(**(CUT if is_cut else {})), outcome(resolved, similarity=similarity))
    assert terms == {"outcome": expected}


def test_tests_reward_looks_at_the_tests_only() -> None:
    for is_cut, resolved in product([False, True], [False, True]):
        terms = make_reward("tests")(TASK, trajectory(**(CUT if is_cut else {})), outcome(resolved, similarity=1.0))
        assert terms == {"resolved": float(resolved)}


@pytest.mark.parametrize("name", registry.names())
def test_contract_of_every_registered_reward(name: str) -> None:
    reward = make_reward(name)
    assert reward.name == name
    assert reward.ranges
    assert all(low < high for low, high in reward.ranges.values())
    for resolved, similarity, values in product([False, True], [None, 0.0, 0.5, 1.0], [{}, CUT]):
        given, graded = trajectory(**values), outcome(resolved, similarity=similarity)
        before = (given.model_dump_json(), graded.model_dump_json())
        terms = reward(TASK, given, graded)
        check_terms(reward, terms)
        assert terms == reward(TASK, given, graded)  # pure
        assert (given.model_dump_json(), graded.model_dump_json()) == before


class Odd:
    """A user's reward that returns what it is told."""

    name = "odd"
    ranges: Mapping[str, tuple[float, float]] = {"a": (0.0, 1.0), "b": (-2.0, 2.0)}

    def __init__(self, terms: dict[str, float]) -> None:
        self.terms = terms

    def __call__(self, task: Task, trajectory: Trajectory, outcome: Outcome) -> dict[str, float]:
        return {name: value / value * value if value else 0 / 0 for name, value in self.terms.items()}


def test_weights_over_rewards_and_terms() -> None:
    registry.register("odd", Odd({"a": 0.5, "b": -2.0}), replace=True)
    try:
        scored = score(TASK, trajectory(), outcome(True), {"tests": 3.0, "odd.b": 0.25, "cwm": 0.0})
        assert scored.rewards == {"tests.resolved": 1.0, "odd.a": 0.5, "odd.b": -2.0, "cwm.outcome": 1.0}
        assert scored.reward == 3.0 - 0.5
        assert score(TASK, trajectory(), outcome(True), {"odd": 2.0}).reward == 2 * 0.5 - 2 * 2.0
        with pytest.raises(ConfigError, match="reward 'odd' has no term 'c'; it has a, b"):
            RewardSet.from_weights({"odd.c": 1.0})
    finally:
        registry._objects.pop("odd")
    with pytest.raises(UnknownName, match="no reward named 'odd'"):
        RewardSet.from_weights({"odd": 1.0})
    with pytest.raises(ConfigError, match="no reward chosen"):
        RewardSet.from_weights({})


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"a": 1.5, "b": 1.0}, r"a = 1\.5 is outside its range \[0\.0, 1\.0\]"),
        ({"a": 1.0}, r"returned terms \['a'\], declared \['a', 'b'\]"),
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "declared"),
        ({"a": 1.0, "b": float("nan")}, "outside its range"),
        ({"a": 1.0, "b": 0.0}, "ZeroDivisionError"),
    ],
)
def test_a_reward_that_misbehaves_invalidates_and_never_counts(terms: dict[str, float], message: str) -> None:
    rewards = RewardSet((Odd(terms),), {"odd.a": 1.0, "odd.b": 1.0})
    with pytest.raises(RewardError, match=message):
        rewards.terms(TASK, trajectory(), outcome())
    scored = score(TASK, trajectory(), outcome(), rewards)
    assert (scored.reward, scored.rewards, scored.validity) == (None, {}, Validity.GRADER)
    assert "odd" in scored.validity_reason


@pytest.mark.parametrize("validity", [Validity.INFRASTRUCTURE, Validity.GRADER, Validity.TASK])
def test_an_invalid_outcome_is_never_a_reward(validity: Validity) -> None:
    """Rows 41, 145."""
    scored = score(TASK, trajectory(), outcome(validity=validity, reason="sandbox_failed"), {"tests": 1.0})
    assert (scored.reward, scored.rewards) == (None, {})
    assert (scored.validity, scored.validity_reason) == (validity, "sandbox_failed")


def test_scoring_again_replaces_an_earlier_score() -> None:
    first = score(TASK, trajectory(), outcome(validity=Validity.GRADER, reason="x"), {"tests": 1.0})
    again = score(TASK, first, outcome(True), {"cwm": 1.0})
    assert (again.validity, again.validity_reason, again.rewards) == (Validity.VALID, "", {"cwm.outcome": 1.0})
    assert trajectory().model_copy(update={"outcome": again.outcome, "rewards": again.rewards, "reward": 1.0}) == again


def test_a_failed_episode_stays_invalid_whatever_the_grade() -> None:
    failed = trajectory(
        terminated=False,
        truncated=True,
        end_reason="error:SandboxLost",
        validity=Validity.INFRASTRUCTURE,
        validity_reason="gone",
    )
    scored = score(TASK, failed, outcome(True), {"tests": 1.0})
    assert (scored.reward, scored.validity, scored.validity_reason) == (None, Validity.INFRASTRUCTURE, "gone")
