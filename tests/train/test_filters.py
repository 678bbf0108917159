from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from swegym.core.outcome import Validity
from swegym.core.trajectory import TokenContext, Trajectory
from swegym.train.filters import DropCause, FilterRules, baseline_drop, is_gibberish, loss_drop, num_trained_tokens

MakeTrajectory = Callable[..., Trajectory]
KEEP, MASK = FilterRules(), FilterRules(overlong="mask")


@pytest.mark.parametrize("validity", [Validity.INFRASTRUCTURE, Validity.GRADER, Validity.TASK])
def test_what_is_not_valid_is_out_whatever_its_reward(make_trajectory: MakeTrajectory, validity: Validity) -> None:
    assert baseline_drop(make_trajectory(reward=1.0, validity=validity), KEEP) is DropCause.INVALID


def test_an_ungraded_trajectory_is_out(make_trajectory: MakeTrajectory) -> None:
    assert baseline_drop(make_trajectory(reward=None), KEEP) is DropCause.INVALID


@pytest.mark.parametrize("end_reason", ["turn_limit", "context_limit", "action_limit", "episode_timeout"])
def test_overlong_is_kept_or_masked_by_rule(make_trajectory: MakeTrajectory, end_reason: str) -> None:
    trajectory = make_trajectory(reward=-1.0, truncated=True, end_reason=end_reason)
    assert baseline_drop(trajectory, KEEP) is None
    assert baseline_drop(trajectory, MASK) is DropCause.OVERLONG


def test_an_end_without_eos_is_not_overlong(make_trajectory: MakeTrajectory) -> None:
    # judged by how the episode ended: the last token is no stop token here
    assert baseline_drop(make_trajectory(action=(3, 3, 3)), MASK) is None


def test_no_sampled_token_is_a_cause_of_its_own(make_trajectory: MakeTrajectory) -> None:
    assert baseline_drop(make_trajectory(contexts=()), KEEP) is DropCause.NO_TOKENS
    assert baseline_drop(make_trajectory(action=()), KEEP) is DropCause.NO_TOKENS


def test_zero_advantage_goes_first(make_trajectory: MakeTrajectory) -> None:
    trajectory = make_trajectory(version=0)
    assert loss_drop(trajectory, 0.0, policy_version=999, rules=KEEP) is DropCause.ZERO_ADVANTAGE
    assert loss_drop(trajectory, -0.5, policy_version=0, rules=KEEP) is None


def test_staleness_is_that_of_the_newest_token(make_trajectory: MakeTrajectory) -> None:
    context = TokenContext(
        tokens=(1, 2, 3), source=(0, 1, 1), rollout_logprobs=(0.0, -1.0, -1.0), loss_mask=(0, 1, 1),
        policy_version=(-1, 3, 7),
    )  # fmt: skip
    trajectory = make_trajectory(contexts=(context,))
    rules = FilterRules(max_staleness=5)
    assert loss_drop(trajectory, 1.0, policy_version=12, rules=rules) is None  # 12 - 7 = 5 steps old
    assert loss_drop(trajectory, 1.0, policy_version=13, rules=rules) is DropCause.STALE


def test_gibberish_needs_a_rare_token_and_a_tiny_probability(make_trajectory: MakeTrajectory) -> None:
    bound = -math.log(128_256) - 2.0
    assert KEEP.gibberish_logprob == pytest.approx(-13.7618, abs=1e-4)
    cases = {(100_001, bound - 0.01): True, (100_001, bound + 0.01): False, (100_000, bound - 5.0): False}
    for (token, logprob), expected in cases.items():
        trajectory = make_trajectory(action=(5, token), logprobs=[-0.1, logprob])
        assert is_gibberish(trajectory, KEEP) is expected
        assert loss_drop(trajectory, 1.0, 0, KEEP) is (DropCause.GIBBERISH if expected else None)


def test_gibberish_scales_with_the_vocabulary(make_trajectory: MakeTrajectory) -> None:
    rules = FilterRules(gibberish_token_id=15, vocab_size=20)
    assert is_gibberish(make_trajectory(action=(16,), logprobs=[-math.log(20) - 2.01]), rules)
    assert not is_gibberish(make_trajectory(action=(15,), logprobs=[-99.0]), rules)


def test_a_rare_token_of_the_prompt_is_not_gibberish(make_trajectory: MakeTrajectory) -> None:
    context = TokenContext(
        tokens=(120_000, 5), source=(0, 1), rollout_logprobs=(-99.0, -0.1), loss_mask=(0, 1), policy_version=(-1, 0)
    )
    assert not is_gibberish(make_trajectory(contexts=(context,)), KEEP)


def test_trained_tokens_are_counted_over_contexts(make_trajectory: MakeTrajectory) -> None:
    first = TokenContext(
        tokens=(1, 2, 3), source=(0, 1, 1), rollout_logprobs=(0.0,) * 3, loss_mask=(0, 0, 1), policy_version=(-1, 0, 0)
    )
    second = TokenContext(tokens=(4,), source=(1,), rollout_logprobs=(0.0,), loss_mask=(1,), policy_version=(0,))
    assert num_trained_tokens(make_trajectory(contexts=(first, second))) == 2
