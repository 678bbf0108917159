"""Filters: which trajectories may teach. Each decision is a pure function that names one cause.

Order (the first cause that applies is the one counted):
  before the baseline   invalid, overlong (only with `overlong="mask"`), no_tokens
  after the advantages  zero_advantage, stale, gibberish

What is dropped before the baseline is not part of the group's mean. What is dropped after it has an honest reward that
stays in the mean, and only its own tokens are left out of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from swegym.core.outcome import Validity
from swegym.core.trajectory import TokenContext, Trajectory

__all__ = [
    "DropCause",
    "FilterRules",
    "baseline_drop",
    "is_gibberish",
    "is_overlong",
    "loss_drop",
    "num_trained_tokens",
    "staleness",
]


class DropCause(StrEnum):
    """Why a trajectory's tokens are not in the loss."""

    INVALID = "invalid"
    """The sandbox, engine, grader or task failed, or there is no reward."""
    OVERLONG = "overlong"
    """A limit cut it off and `overlong` is "mask"."""
    NO_TOKENS = "no_tokens"
    """The policy sampled nothing that may be trained."""
    ZERO_ADVANTAGE = "zero_advantage"
    STALE = "stale"
    """Even its newest token comes from weights that are too old."""
    GIBBERISH = "gibberish"


@dataclass(frozen=True, slots=True)
class FilterRules:
    """Thresholds. Defaults are CWM's (arXiv 2510.02387, section 5.2 and appendix C)."""

    max_staleness: int = 100
    """Optimizer steps between the newest sampled token and the learner."""
    overlong: Literal["keep", "mask"] = "keep"
    """"keep": a trajectory that hit a limit is trained on with its reward. "mask": it is left out of baseline and loss
    (compact filtering, DeepSWE)."""
    gibberish_token_id: int = 100_000
    """Ids above it are rare words."""
    vocab_size: int = 128_256

    @property
    def gibberish_logprob(self) -> float:
        """A rare word below this log-probability was sampled from noise: e^2 times less likely than a uniform draw."""
        return -math.log(self.vocab_size) - 2.0


def num_trained_tokens(trajectory: Trajectory) -> int:
    """Tokens with loss mask 1: what a trajectory weighs in a length-weighted baseline, and its terms in the loss."""
    return sum(sum(context.loss_mask) for context in trajectory.contexts)


def staleness(trajectory: Trajectory, policy_version: int) -> int:
    """Optimizer steps since the newest token that the policy sampled."""
    return policy_version - trajectory.newest_policy_version


def is_overlong(trajectory: Trajectory) -> bool:
    """Whether a limit ended it (context, action, turns, time). Judged by the recorded reason, never by an EOS token."""
    return trajectory.truncated


def is_gibberish(trajectory: Trajectory, rules: FilterRules) -> bool:
    """Whether it holds a rare token that the engine itself found very unlikely. Only sampled tokens count."""
    return any(
        token > rules.gibberish_token_id and logprob < rules.gibberish_logprob
        for context in trajectory.contexts
        for token, logprob in _sampled(context)
    )


def baseline_drop(trajectory: Trajectory, rules: FilterRules) -> DropCause | None:
    """Why a trajectory is kept out of its group's baseline and out of the loss; None when it is in."""
    if trajectory.validity is not Validity.VALID or trajectory.reward is None:
        return DropCause.INVALID
    if rules.overlong == "mask" and is_overlong(trajectory):
        return DropCause.OVERLONG
    if num_trained_tokens(trajectory) == 0:
        return DropCause.NO_TOKENS
    return None


def loss_drop(trajectory: Trajectory, advantage: float, policy_version: int, rules: FilterRules) -> DropCause | None:
    """Why a trajectory that counts in the baseline is kept out of the loss; None when it is trained on.

    Args:
        trajectory: one that `baseline_drop` let pass.
        advantage: of this trajectory.
        policy_version: the learner's, in optimizer steps.
        rules: the thresholds.
    """
    if advantage == 0.0:
        return DropCause.ZERO_ADVANTAGE
    if staleness(trajectory, policy_version) > rules.max_staleness:
        return DropCause.STALE
    if is_gibberish(trajectory, rules):
        return DropCause.GIBBERISH
    return None


def _sampled(context: TokenContext) -> Iterator[tuple[int, float]]:
    for token, source, logprob in zip(context.tokens, context.source, context.rollout_logprobs, strict=True):
        if source:
            yield token, logprob
