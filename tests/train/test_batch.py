from __future__ import annotations

from collections.abc import Callable

import pytest

from swegym.core.errors import ConfigError, TrainingError
from swegym.core.outcome import Validity
from swegym.core.trajectory import TokenContext, Trajectory, Turn
from swegym.train.advantages import cwm, mean
from swegym.train.batch import build_batch, group_advantages, group_trajectories, sampling_temperature
from swegym.train.filters import DropCause, FilterRules
from swegym.train.packing import Sample

MakeTrajectory = Callable[..., Trajectory]
RULES = FilterRules()


def test_groups_are_formed_by_group_id(make_trajectory: MakeTrajectory) -> None:
    order = ["b", "a", "b", "a", "a", "b"]
    groups = group_trajectories([make_trajectory(group_id=name, reward=i) for i, name in enumerate(order)], 3)
    assert [[item.reward for item in group] for group in groups] == [[0.0, 2.0, 5.0], [1.0, 3.0, 4.0]]


def test_groups_of_one_are_refused_not_trained_as_zero(make_trajectory: MakeTrajectory) -> None:
    with pytest.raises(TrainingError, match="group g1 has 1 trajectories, expected 2"):
        group_trajectories([make_trajectory(group_id=f"g{n}") for n in (0, 0, 1)], 2)
    with pytest.raises(TrainingError, match="no group id"):
        group_trajectories([make_trajectory(group_id="")], 2)
    with pytest.raises(TrainingError, match="mixes tasks task-1, task-2"):
        group_trajectories([make_trajectory(task_id=f"task-{n}") for n in (1, 2)], 2)
    with pytest.raises(ConfigError, match="group_size must be at least 2"):
        build_batch([[make_trajectory()]], cwm, RULES, 0)


def test_baseline_weighs_trained_tokens_and_leaves_out_what_failed(make_trajectory: MakeTrajectory) -> None:
    group = [
        make_trajectory(reward=1.0, action=(5,)),
        make_trajectory(reward=0.0, action=(5, 6, 7)),
        make_trajectory(reward=1.0, action=(5,) * 9, validity=Validity.INFRASTRUCTURE),
        make_trajectory(reward=None, action=(5,) * 4),
    ]
    advantages, causes = group_advantages(group, cwm, RULES)
    assert advantages == [0.75, -0.25, 0.0, 0.0]
    assert causes == [None, None, DropCause.INVALID, DropCause.INVALID]


def test_overlong_masking_takes_a_trajectory_out_of_the_baseline_too(make_trajectory: MakeTrajectory) -> None:
    group = [make_trajectory(reward=r, truncated=r == -1.0, end_reason="turn_limit") for r in (1.0, 0.0, -1.0)]
    assert group_advantages(group, mean, FilterRules(overlong="keep"))[0] == [1.0, 0.0, -1.0]
    assert group_advantages(group, mean, FilterRules(overlong="mask"))[0] == [0.5, -0.5, 0.0]


def test_samples_carry_what_the_engine_sampled(make_trajectory: MakeTrajectory) -> None:
    # two turns in one context, with an observation between them and env tokens at the end that cannot matter
    context = TokenContext(
        tokens=(1, 2, 7, 8, 3, 9, 4, 4), source=(0, 0, 1, 1, 0, 1, 0, 0),
        rollout_logprobs=(0.0, 0.0, -0.5, -0.25, 0.0, -2.0, 0.0, 0.0), loss_mask=(0, 0, 1, 1, 0, 1, 0, 0),
        policy_version=(-1, -1, 4, 4, -1, 5, -1, -1),
    )  # fmt: skip
    frozen = TokenContext(tokens=(6,), source=(1,), rollout_logprobs=(-1.0,), loss_mask=(0,), policy_version=(4,))
    group = [
        make_trajectory(reward=1.0, contexts=(frozen, context)),
        make_trajectory(reward=0.0, action=(5,), temperature=0.7, version=5),
    ]
    batch = build_batch([group], mean, RULES, policy_version=5)
    assert batch.samples == {
        1.0: [
            Sample(
                tokens=(1, 2, 7, 8, 3, 9),
                loss_mask=(0, 0, 1, 1, 0, 1),
                values={"rollout_logprobs": (0.0, 0.0, -0.5, -0.25, 0.0, -2.0), "advantages": (0.5,) * 6},
            )
        ],
        0.7: [
            Sample(
                tokens=(1, 2, 5),
                loss_mask=(0, 0, 1),
                values={"rollout_logprobs": (0.0, 0.0, -1.0), "advantages": (-0.5,) * 3},
            )
        ],
    }
    assert batch.num_trained_tokens == 4


def test_every_agent_turn_is_trained(make_trajectory: MakeTrajectory) -> None:
    contexts = tuple(
        TokenContext(
            tokens=(1, n), source=(0, 1), rollout_logprobs=(0.0, -1.0), loss_mask=(0, 1), policy_version=(-1, 0)
        )
        for n in (2, 3, 4)
    )
    group = [make_trajectory(reward=1.0, contexts=contexts), make_trajectory(reward=0.0)]
    samples = build_batch([group], mean, RULES, 0).samples[1.0]
    assert [sample.values["advantages"] for sample in samples] == [(0.5, 0.5)] * 3 + [(-0.5,) * 5]


def test_every_drop_is_counted_once_under_its_cause(make_trajectory: MakeTrajectory) -> None:
    rules = FilterRules(max_staleness=3, overlong="mask", gibberish_token_id=10, vocab_size=20)
    mixed = [
        make_trajectory(reward=1.0, version=9),
        make_trajectory(reward=0.0, version=9),
        make_trajectory(reward=1.0, version=2),
        make_trajectory(reward=0.0, version=9, action=(11,), logprobs=[-9.0]),
        make_trajectory(reward=0.0, version=9, truncated=True),
        make_trajectory(reward=None, version=9),
        make_trajectory(reward=1.0, contexts=()),
    ]
    uniform = [make_trajectory(reward=1.0, version=9) for _ in range(5)]
    batch = build_batch([mixed, uniform], mean, rules, policy_version=9)
    assert batch.drops == {
        DropCause.INVALID: 1,
        DropCause.OVERLONG: 1,
        DropCause.NO_TOKENS: 1,
        DropCause.ZERO_ADVANTAGE: 5,
        DropCause.STALE: 1,
        DropCause.GIBBERISH: 1,
    }
    assert (batch.num_trajectories, batch.num_groups, batch.num_mixed_groups) == (12, 2, 1)
    assert batch.num_trained_tokens == 6  # of the two that are left; the uniform group's tokens count nowhere
    # the stale and the gibberish one have honest rewards, so the baseline is (1 + 0 + 1 + 0) / 4
    assert [sample.values["advantages"][0] for sample in batch.samples[1.0]] == [0.5, -0.5]
    assert batch.sum_abs_advantage == 1.0


def test_temperature_is_the_one_of_the_turns(make_trajectory: MakeTrajectory) -> None:
    trajectory = make_trajectory(temperature=0.7)
    assert sampling_temperature(trajectory) == 0.7
    mixed = trajectory.model_copy(update={"turns": (*trajectory.turns, Turn(index=1))})
    with pytest.raises(TrainingError, match=r"temperatures \[0\.7, 1\.0\]"):
        sampling_temperature(mixed)
    with pytest.raises(TrainingError, match="greedily"):
        sampling_temperature(make_trajectory(temperature=0.0))
    with pytest.raises(TrainingError, match="top_p"):
        sampling_temperature(make_trajectory(top_p=0.95))


def test_nothing_to_train_is_an_empty_batch(make_trajectory: MakeTrajectory) -> None:
    batch = build_batch([[make_trajectory(reward=0.0)] * 3], cwm, RULES, 0)
    assert batch.samples == {}
    assert batch.num_trained_tokens == 0
