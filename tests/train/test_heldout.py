"""Evaluation numbers and the choice of episodes worth a look, against hand-computed values."""

import pytest

from swegym.core.action import Observation
from swegym.core.outcome import Outcome, Validity
from swegym.core.trajectory import Trajectory, Turn
from swegym.train.cluster import shuffled_rewards
from swegym.train.config import EvalSection
from swegym.train.heldout import evaluate_heldout
from swegym.train.summary import best_and_worst


def episode(
    name: str, task: str, resolved: bool, *, valid: bool = True, label: str = "eval", turns: int = 1
) -> Trajectory:
    return Trajectory(
        episode_id=name,
        task_id=task,
        env_id="test/Env-v0",
        group_id=f"{label}/{task}",
        first_observation=Observation(text=""),
        turns=tuple(Turn(index=index) for index in range(turns)),
        outcome=Outcome(task_id=task, resolved=resolved, validity=Validity.VALID if valid else Validity.INFRASTRUCTURE),
        reward=float(resolved) if valid else None,
        validity=Validity.VALID if valid else Validity.INFRASTRUCTURE,
        terminated=True,
    )


def test_rates_leave_invalid_episodes_out() -> None:
    sampled = [
        episode("a0", "a", True),
        episode("a1", "a", True),
        episode("b0", "b", True),
        episode("b1", "b", False),
        episode("c0", "c", False),
        episode("c1", "c", False, valid=False),
    ]
    greedy = [episode("ga", "a", True), episode("gb", "b", False), episode("gc", "c", False)]
    asked: list[tuple[int, float, str, int]] = []

    def collect(group_size: int, temperature: float, kind: str, done: int) -> list[Trajectory]:
        asked.append((group_size, temperature, kind, done))
        return sampled if temperature else greedy

    result = evaluate_heldout(EvalSection(samples_per_task=2), 0.7, collect, seed=0)
    assert asked == [(2, 0.7, "sampled", 0), (1, 0.0, "greedy", 6)]
    assert result.pass_rate == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert result.pass_at_k == 1.0  # c has one valid sample only; a and b have a correct one in two
    assert result.greedy_pass_rate == pytest.approx(1 / 3)
    assert result.invalid_share == pytest.approx(1 / 9)
    assert {"pass_rate", "pass_rate_low", "pass_rate_high", "greedy_pass_rate", "pass_at_2"} < set(result.metrics())
    assert "pass rate 0.500" in result.describe()


def test_best_and_worst_are_valid_and_of_the_phase() -> None:
    episodes = [
        episode("early", "a", True, label="eval-00000"),
        episode("good", "a", True, label="eval-00002", turns=2),
        episode("long", "a", True, label="eval-00002", turns=5),
        episode("bad", "b", False, label="eval-00002", turns=3),
        episode("broken", "c", False, valid=False, label="eval-00002", turns=9),
    ]
    assert best_and_worst(episodes, "eval-00002") == ("good", "bad")
    assert best_and_worst([], "eval-00002") == (None, None)


def test_the_shuffling_control_keeps_the_rewards_and_moves_them() -> None:
    episodes = [episode(f"e{index}", f"t{index}", index < 5, valid=index != 19) for index in range(20)]
    shuffled = shuffled_rewards(episodes, seed=1)
    assert [item.episode_id for item in shuffled] == [item.episode_id for item in episodes]
    assert sum(item.reward or 0 for item in shuffled) == 5
    assert shuffled[19].reward is None
    assert [item.reward for item in shuffled] != [item.reward for item in episodes]
