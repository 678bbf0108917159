"""From weights over rewards to the numbers on a trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from swegym.core.errors import ConfigError, RewardError, boundary
from swegym.core.outcome import Outcome, Validity
from swegym.core.registries import rewards as reward_registry
from swegym.core.reward import RewardFn, check_terms
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory

__all__ = ["RewardSet", "make_reward", "score"]


def make_reward(name: str) -> RewardFn:
    """A registered reward. Raises UnknownName."""
    target = reward_registry.get(name)
    return cast(RewardFn, target() if isinstance(target, type) else target)


@dataclass(frozen=True, slots=True)
class RewardSet:
    """Rewards and the weight of each of their terms."""

    rewards: tuple[RewardFn, ...]
    weights: Mapping[str, float]
    """"reward.term" -> weight."""

    @classmethod
    def from_weights(cls, weights: Mapping[str, float]) -> RewardSet:
        """Resolve `{"cwm": 1.0}` (every term of it) or `{"cwm.outcome": 1.0}` (that term).

        Raises:
            ConfigError: no weights, or a reward without the named term.
            UnknownName: no such reward.
        """
        if not weights:
            raise ConfigError('no reward chosen: give weights such as {"tests": 1.0}')
        rewards: dict[str, RewardFn] = {}
        resolved: dict[str, float] = {}
        for key, weight in weights.items():
            name, _, term = key.partition(".")
            reward = rewards.setdefault(name, make_reward(name))
            if term and term not in reward.ranges:
                raise ConfigError(f"reward {name!r} has no term {term!r}; it has {', '.join(sorted(reward.ranges))}")
            for each in (term,) if term else tuple(reward.ranges):
                resolved[f"{name}.{each}"] = float(weight)
        return cls(tuple(rewards.values()), resolved)

    def terms(self, task: Task, trajectory: Trajectory, outcome: Outcome) -> dict[str, float]:
        """Every term under its full name "reward.term", weighted or not.

        Raises:
            RewardError: a reward failed, or returned other terms than declared or values outside their ranges.
        """
        named: dict[str, float] = {}
        for reward in self.rewards:
            with boundary(RewardError, f"reward {reward.name!r} failed"):
                terms = reward(task, trajectory, outcome)
            check_terms(reward, terms)
            named |= {f"{reward.name}.{term}": float(value) for term, value in terms.items()}
        return named

    def total(self, terms: Mapping[str, float]) -> float:
        """Weighted sum."""
        return sum(weight * terms[name] for name, weight in self.weights.items())


def score(task: Task, trajectory: Trajectory, outcome: Outcome, rewards: RewardSet | Mapping[str, float]) -> Trajectory:
    """A copy of the trajectory with outcome, reward terms and reward.

    The reward is None, and the validity says why, when the episode failed (`end_reason` is `error:...`), the grader
    could not decide, or a reward function failed. Scoring again replaces an earlier score.

    Raises:
        ConfigError, UnknownName: `rewards` are weights that do not resolve.
    """
    reward_set = rewards if isinstance(rewards, RewardSet) else RewardSet.from_weights(rewards)
    if trajectory.end_reason.startswith("error:"):
        return trajectory.model_copy(update={"outcome": outcome, "rewards": {}, "reward": None})
    update: dict[str, object] = {
        "outcome": outcome,
        "rewards": {},
        "reward": None,
        "validity": outcome.validity,
        "validity_reason": "" if outcome.validity is Validity.VALID else outcome.reason,
    }
    if outcome.validity is Validity.VALID:
        valid = trajectory.model_copy(update={"validity": Validity.VALID, "validity_reason": "", "outcome": outcome})
        try:
            terms = reward_set.terms(task, valid, outcome)
            update |= {"rewards": terms, "reward": reward_set.total(terms)}
        except RewardError as error:
            update |= {"validity": Validity.GRADER, "validity_reason": str(error)}
    return trajectory.model_copy(update=update)
