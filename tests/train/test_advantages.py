from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swegym.core.errors import ConfigError
from swegym.train.advantages import AdvantageFn, cwm, leave_one_out, mean
from swegym.train.config import ADVANTAGES

RULES = [cwm, mean, leave_one_out]
rewards_and_lengths = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.integers(1, 5000), st.booleans()), min_size=2, max_size=11
)


def group(rewards: list[float], lengths: list[int], valid: list[bool] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    flags = valid if valid is not None else [True] * len(rewards)
    return torch.tensor(rewards), torch.tensor(lengths), torch.tensor(flags)


def test_hand_computed_values() -> None:
    inputs = group([1.0, 0.0, -1.0], [1, 2, 5])
    # cwm: (1*1 + 0*2 - 1*5) / 8 = -0.5;  mean: 0;  leave one out: means of the others are -0.5, 0, 0.5
    assert cwm(*inputs).tolist() == [1.5, 0.5, -0.5]
    assert mean(*inputs).tolist() == [1.0, 0.0, -1.0]
    assert leave_one_out(*inputs).tolist() == [1.5, 0.0, -1.5]
    assert cwm(*inputs).dtype == torch.float32


def test_invalid_members_get_zero_and_leave_the_baseline_alone() -> None:
    rewards, lengths, valid = group([1.0, float("nan"), -1.0, 0.0], [3, 7, 1, 4], [True, False, True, True])
    assert cwm(rewards, lengths, valid).tolist() == [0.75, 0.0, -1.25, -0.25]  # baseline (3 - 1 + 0) / 8
    assert mean(rewards, lengths, valid).tolist() == [1.0, 0.0, -1.0, 0.0]
    assert leave_one_out(rewards, lengths, valid).tolist() == [1.5, 0.0, -1.5, 0.0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("reward", [0.1, -1.0, 1 / 3, 1e7 + 0.3])
def test_equal_rewards_give_exactly_zero(rule: AdvantageFn, reward: float) -> None:
    _, lengths, valid = group([reward] * 7, [3, 1, 4, 1, 5, 9, 2])
    for dtype in (torch.float64, torch.float32):
        rewards = torch.full((7,), reward, dtype=dtype)
        assert rule(rewards, lengths, valid).tolist() == [0.0] * 7


@pytest.mark.parametrize("rule", RULES)
def test_one_or_no_valid_member_teaches_nothing(rule: AdvantageFn) -> None:
    assert rule(*group([1.0, 0.0, 0.5], [2, 3, 4], [True, False, False])).tolist() == [0.0] * 3
    assert rule(*group([1.0, 0.0, 0.5], [2, 3, 4], [False] * 3)).tolist() == [0.0] * 3


def test_cwm_without_any_token_is_zero() -> None:
    assert cwm(*group([1.0, 0.0], [0, 0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
def test_a_group_of_one_is_refused(rule: AdvantageFn) -> None:
    with pytest.raises(ConfigError, match=r"algo\.group_size must be at least 2"):
        rule(*group([1.0], [5]))


@pytest.mark.parametrize("rule", RULES)
def test_shapes_must_agree(rule: AdvantageFn) -> None:
    with pytest.raises(ConfigError, match=r"\(3,\), \(2,\), \(3,\)"):
        rule(torch.zeros(3), torch.ones(2, dtype=torch.int64), torch.ones(3, dtype=torch.bool))


@settings(deadline=None, derandomize=True, database=None)
@given(rewards_and_lengths)
def test_identities(members: list[tuple[float, int, bool]]) -> None:
    rewards, lengths, valid = group([m[0] for m in members], [m[1] for m in members], [m[2] for m in members])
    num_valid = int(valid.sum())
    weighted = (cwm(rewards, lengths, valid).double() * lengths)[valid]
    assert abs(float(weighted.sum())) <= 1e-6 * float(lengths.sum())  # the sum over tokens is 0
    if num_valid > 1:
        scaled = mean(rewards, lengths, valid) * (num_valid / (num_valid - 1))
        torch.testing.assert_close(leave_one_out(rewards, lengths, valid), scaled, rtol=1e-6, atol=1e-7)
    # linear in the reward, and blind to a constant: no hidden division by a spread
    torch.testing.assert_close(
        cwm(2 * rewards + 3, lengths, valid), 2 * cwm(rewards, lengths, valid), rtol=1e-4, atol=1e-5
    )
    # equal lengths: the weighted mean is the plain one
    same = torch.full_like(lengths, 6)
    torch.testing.assert_close(cwm(rewards, same, valid), mean(rewards, same, valid), rtol=1e-6, atol=1e-7)


def test_registry_holds_every_rule() -> None:
    assert {name: ADVANTAGES.get(name) for name in ADVANTAGES.names()} == {
        "cwm": cwm,
        "leave_one_out": leave_one_out,
        "mean": mean,
    }
