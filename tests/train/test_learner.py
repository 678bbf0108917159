from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swegym.core.errors import CheckpointError, TrainingError, UnknownName
from swegym.core.trajectory import Trajectory
from swegym.train.config import AlgoSection, OptimSection, RlConfig
from swegym.train.cwm.checkpoint import load_checkpoint
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.learner import Learner
from swegym.train.sft import SftExample

MakeTrajectory = Callable[..., Trajectory]
MakeModel = Callable[..., CwmForCausalLM]
VOCAB = 23


def config(**changes: Any) -> RlConfig:
    """A learner's settings by field name, whichever section they are of."""
    optim = {"lr": 0.01, "warmup_steps": 0, "grad_clip": 1.0, "weight_decay": 0.0, "token_budget": 64}
    algo: dict[str, Any] = {"normalizer": 16}
    for name, value in changes.items():
        (algo if name in AlgoSection.model_fields else optim)[name] = value
    return RlConfig(algo=AlgoSection(**algo), optim=OptimSection(**optim))


def sample_group(
    make_trajectory: MakeTrajectory,
    model: CwmForCausalLM,
    reward: Callable[[list[int]], float],
    *,
    seed: int,
    prompt: tuple[int, ...] = (1, 2),
    num_tokens: int = 1,
    size: int = 8,
    temperature: float = 1.0,
    version: int = 0,
) -> list[Trajectory]:
    """Sample a group from the model itself, token by token, with the exact log-probabilities."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BL = torch.tensor([prompt] * size)
    logprobs: list[Tensor] = []
    with torch.no_grad():
        for _ in range(num_tokens):
            logprobs_BV = (model(tokens_BL)[:, -1] / temperature).log_softmax(-1)
            picked_B1 = torch.multinomial(logprobs_BV.exp(), 1, generator=generator)
            logprobs.append(logprobs_BV.gather(1, picked_B1))
            tokens_BL = torch.cat([tokens_BL, picked_B1], dim=1)
    actions = tokens_BL[:, len(prompt) :].tolist()
    return [
        make_trajectory(
            reward=reward(action), prompt=prompt, action=action, logprobs=row, version=version,
            temperature=temperature, group_id=f"g{seed}",
        )
        for action, row in zip(actions, torch.cat(logprobs, dim=1).tolist(), strict=True)
    ]  # fmt: skip


def mixed_groups(make_trajectory: MakeTrajectory, model: CwmForCausalLM) -> list[list[Trajectory]]:
    """Five groups of unequal lengths whose reward depends on the tokens."""
    return [
        sample_group(
            make_trajectory, model, lambda action: float(sum(action) % 2), seed=n, prompt=(1, 2, n)[: 2 + n % 2],
            num_tokens=1 + n, size=7,
        )
        for n in range(5)
    ]  # fmt: skip


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}


def is_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def probability(model: CwmForCausalLM, token: int) -> float:
    with torch.no_grad():
        return float(model(torch.tensor([[1, 2]]))[0, -1].softmax(-1)[token])


def test_reward_for_one_token_makes_it_likely(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    learner = Learner(make_model(), config())
    before = probability(learner.model, 7)
    for step in range(40):
        groups = [
            sample_group(
                make_trajectory, learner.model, lambda action: float(action == [7]), seed=100 * step + n, version=step
            )
            for n in range(6)
        ]
        learner.step(groups)
    assert before < 0.1
    assert probability(learner.model, 7) > 0.9


def test_control_rewards_that_ignore_the_action_teach_nothing(
    make_model: MakeModel, make_trajectory: MakeTrajectory
) -> None:
    learner = Learner(make_model(), config())
    rewards = torch.Generator().manual_seed(1)
    for step in range(40):
        groups = [
            sample_group(
                make_trajectory,
                learner.model,
                lambda _: float(torch.rand((), generator=rewards) < 0.2),
                seed=100 * step + n,
            )
            for n in range(6)
        ]
        learner.step(groups)
    assert learner.policy_version > 30
    assert probability(learner.model, 7) < 0.3


def test_control_learning_rate_zero_moves_nothing(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    learner = Learner(make_model(), config(lr=0.0, weight_decay=0.5))
    before = weights(learner)
    groups = mixed_groups(make_trajectory, learner.model)
    mismatches = []
    for _ in range(5):
        metrics = learner.step(groups)
        mismatches.append(metrics["loss/mean_abs_dlogp"])
        assert metrics["optim/grad_norm"] > 0
    assert is_equal(weights(learner), before)
    assert max(mismatches) < 1e-6  # the same policy: the ratio stays where it is
    assert learner.policy_version == 5


@pytest.mark.parametrize("case", ["zero_advantage", "invalid", "stale", "no_groups"])
def test_a_step_without_a_valid_token_changes_nothing(
    make_model: MakeModel, make_trajectory: MakeTrajectory, case: str
) -> None:
    learner = Learner(make_model(), config(weight_decay=0.5, warmup_steps=10, max_staleness=0))
    good = sample_group(make_trajectory, learner.model, lambda action: float(action[0] % 2), seed=3)
    learner.step([good])  # so that there is momentum that could leak into an empty step
    before = copy.deepcopy(learner.state_dict())
    groups = {
        "zero_advantage": [sample_group(make_trajectory, learner.model, lambda _: 0.1, seed=4, version=1)],
        "invalid": [[make_trajectory(reward=None)] * 3],
        "stale": [good],
        "no_groups": [],
    }[case]
    metrics = learner.step(groups, rehearsal=[SftExample((1, 2, 3), (0, 1, 1))])
    assert metrics["optim/steps"] == 0.0
    assert metrics["policy_version"] == 1.0
    after = learner.state_dict()
    assert is_equal(after["model"], before["model"])
    assert after["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    for key, moments in before["optimizer"]["state"].items():
        assert is_equal(after["optimizer"]["state"][key], moments)
    assert learner.policy_version == 1
    if case != "no_groups":
        assert metrics[f"filter/{case}"] == len(groups[0])


def test_a_zero_advantage_group_does_not_shrink_the_step(
    make_model: MakeModel, make_trajectory: MakeTrajectory
) -> None:
    alone, joined = (Learner(make_model(), config(normalizer="tokens")) for _ in range(2))
    group = sample_group(make_trajectory, alone.model, lambda action: float(action[0] % 2), seed=3)
    uniform = sample_group(make_trajectory, alone.model, lambda _: 1.0, seed=4, num_tokens=9)
    first, second = alone.step([group]), joined.step([group, uniform])
    assert is_equal(weights(alone), weights(joined))
    assert first["optim/grad_norm"] == second["optim/grad_norm"]
    assert second["filter/zero_advantage"] == 8.0
    assert second["batch/mixed_group_share"] == 0.5


def gradients(learner: Learner, groups: list[list[Trajectory]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Gradient of one step, read where the optimizer reads it."""
    seen: dict[str, Tensor] = {}

    def keep(*_: Any) -> None:
        seen.update({name: p.grad.clone() for name, p in learner.model.named_parameters() if p.grad is not None})

    hook = learner.optimizer.register_step_pre_hook(keep)
    metrics = learner.step(groups)
    hook.remove()
    return seen, metrics


@pytest.mark.parametrize("normalizer", [16, "tokens"])
def test_micro_batches_and_their_order_change_nothing(
    make_model: MakeModel, make_trajectory: MakeTrajectory, normalizer: float | str
) -> None:
    groups = mixed_groups(make_trajectory, make_model())
    shuffled = [list(reversed(group)) for group in reversed(groups)]
    whole, expected = gradients(Learner(make_model(), config(token_budget=10_000, normalizer=normalizer)), groups)
    for budget, order in [(13, groups), (1, shuffled), (40, shuffled)]:
        split, metrics = gradients(Learner(make_model(), config(token_budget=budget, normalizer=normalizer)), order)
        for name, gradient in whole.items():
            torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-7)
        assert metrics["loss/policy"] == pytest.approx(expected["loss/policy"], rel=1e-4, abs=1e-6)
        assert metrics["batch/trained_tokens"] == expected["batch/trained_tokens"]


def test_the_gradient_is_that_of_the_hand_written_objective(
    make_model: MakeModel, make_trajectory: MakeTrajectory
) -> None:
    """One document at a time, plain softmax, no packing: sum of A log p over sampled tokens, divided by N."""
    model = make_model()
    groups = mixed_groups(make_trajectory, model)
    actual, _ = gradients(Learner(make_model(), config(grad_clip=1e9)), groups)
    objective = torch.zeros(())
    for group in groups:
        lengths = [item.num_agent_tokens for item in group]
        rewards = [item.reward or 0.0 for item in group]
        baseline = sum(r * n for r, n in zip(rewards, lengths, strict=True)) / sum(lengths)
        for item in group:
            context = item.contexts[0]
            logprobs_LV = model(torch.tensor([context.tokens]))[0].log_softmax(-1)
            for position in range(1, len(context.tokens)):
                if context.loss_mask[position]:
                    token_logprob = logprobs_LV[position - 1, context.tokens[position]]
                    objective = objective + ((item.reward or 0.0) - baseline) * token_logprob / 16
    (-objective).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(actual[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_temperature_of_sampling_is_applied(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    learner = Learner(make_model(initializer_range=0.5), config(lr=0.0))
    hot, cold = (
        sample_group(
            make_trajectory, learner.model, lambda action: float(action[0] % 2), seed=5, num_tokens=6, temperature=t
        )
        for t in (1.0, 0.7)
    )
    metrics = learner.step([cold, hot])
    assert metrics["loss/max_abs_dlogp"] < 1e-5
    unscaled = [item.model_copy(update={"turns": hot[0].turns}) for item in cold]  # claims temperature 1
    assert learner.step([unscaled])["loss/mean_abs_dlogp"] > 0.01


def test_rehearsal_adds_weighted_nll(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    group = sample_group(make_trajectory, make_model(), lambda action: float(action[0] % 2), seed=3)
    examples = [SftExample((1, 9, 9, 4), (0, 1, 0, 1)), SftExample((2, 5), (0, 1))]
    plain, _ = gradients(Learner(make_model(), config(grad_clip=1e9)), [group])
    model = make_model()
    first_VL, second_VL = (model(torch.tensor([example.tokens]))[0].log_softmax(-1) for example in examples)
    nll = -(first_VL[0, 9] + first_VL[2, 4] + second_VL[0, 5])
    (0.25 * nll / 16).backward()

    learner = Learner(make_model(), config(grad_clip=1e9, rehearsal_weight=0.25))
    seen: dict[str, Tensor] = {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None})
    )
    metrics = learner.step([group], rehearsal=examples)
    assert metrics["loss/rehearsal"] == pytest.approx(nll.item() / 16, rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(seen[name], plain[name] + parameter.grad, rtol=1e-4, atol=1e-6)


def test_gradient_is_clipped_and_rate_warms_up(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    learner = Learner(make_model(), config(lr=0.008, warmup_steps=4, grad_clip=0.001))
    groups = mixed_groups(make_trajectory, learner.model)
    seen, metrics = gradients(learner, groups)
    total = sum(float(gradient.double().square().sum()) for gradient in seen.values()) ** 0.5
    assert metrics["optim/grad_norm"] > 0.001
    assert total == pytest.approx(0.001, rel=1e-3)
    rates = [metrics["optim/lr"], *(learner.step(groups)["optim/lr"] for _ in range(4))]
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.008])
    assert learner.policy_version == 5


def test_what_is_not_finite_stops_before_the_step(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    learner = Learner(make_model(), config())
    before = weights(learner)
    group = [make_trajectory(reward=1.0), make_trajectory(reward=0.0, logprobs=[-1.0, float("nan"), -1.0])]
    with pytest.raises(TrainingError, match=r"step 1 is not finite \(loss nan"):
        learner.step([group])
    assert is_equal(weights(learner), before)
    assert learner.policy_version == 0
    learner.step([sample_group(make_trajectory, learner.model, lambda action: float(action[0] % 2), seed=3)])
    assert all(bool(tensor.isfinite().all()) for tensor in weights(learner).values())


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_resume_equals_uninterrupted_bit_for_bit(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    def run(learner: Learner, first: int, last: int) -> list[dict[str, float]]:
        rows = []
        for step in range(first, last):
            # the seed comes from torch's global generator, so its state must be restored as well
            seed = int(torch.randint(1 << 20, ()))
            group = sample_group(
                make_trajectory, learner.model, lambda action: float(sum(action) % 2), seed=seed, num_tokens=3,
                version=step,
            )  # fmt: skip
            rows.append({k: v for k, v in learner.step([group]).items() if k != "time/learner_s"})
        return rows

    settings = config(warmup_steps=6, weight_decay=0.1)
    torch.manual_seed(5)
    straight = Learner(make_model(), settings)
    run(straight, 0, 3)
    state = through_a_file(straight.state_dict())
    expected = run(straight, 3, 7)

    torch.manual_seed(99)
    resumed = Learner(make_model(seed=1), settings)
    resumed.load_state_dict(state)
    assert resumed.policy_version == 3
    assert run(resumed, 3, 7) == expected
    assert is_equal(weights(resumed), weights(straight))


def test_resume_takes_settings_from_its_own_config(make_model: MakeModel, make_trajectory: MakeTrajectory) -> None:
    first = Learner(make_model(), config(weight_decay=0.1))
    first.step(mixed_groups(make_trajectory, first.model))
    second = Learner(make_model(), config(weight_decay=0.3, betas=(0.8, 0.9), lr=0.5))
    second.load_state_dict(through_a_file(first.state_dict()))
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0.3, 0.0]
    assert second.optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert second.step(mixed_groups(make_trajectory, second.model))["optim/lr"] == 0.5


def test_foreign_states_are_refused(make_model: MakeModel) -> None:
    learner = Learner(make_model(), config())
    state = learner.state_dict()
    with pytest.raises(CheckpointError, match="format 99"):
        learner.load_state_dict({**state, "schema_version": 99})
    smaller = {**state, "model": {name: tensor[:1] for name, tensor in state["model"].items()}}
    with pytest.raises(CheckpointError, match="does not fit this model"):
        learner.load_state_dict(smaller)


def test_saved_weights_load_as_a_checkpoint(
    make_model: MakeModel, make_trajectory: MakeTrajectory, tmp_path: Path
) -> None:
    learner = Learner(make_model(), config())
    learner.save_weights(tmp_path / "weights")
    learner.step(mixed_groups(make_trajectory, learner.model))
    learner.save_weights(tmp_path / "weights")  # replaces the older version
    assert is_equal(load_checkpoint(tmp_path / "weights").state_dict(), weights(learner))


def test_rollout_metrics_are_means_over_valid_trajectories(
    make_model: MakeModel, make_trajectory: MakeTrajectory
) -> None:
    learner = Learner(make_model(), config(max_staleness=9))
    learner.policy_version = 6
    group = [
        make_trajectory(reward=1.0, action=(5,), logprobs=[-1.0], version=6),
        make_trajectory(reward=0.0, action=(5, 6, 7), logprobs=[-2.0, -3.0, -0.5], version=3, truncated=True),
        make_trajectory(reward=None),
    ]
    metrics = learner.step([group])
    expected = {
        "rollout/trajectories": 3.0,
        "rollout/invalid_share": 1 / 3,
        "reward/mean": 0.5,
        "reward/tests": 0.5,
        "rollout/agent_tokens": 2.0,
        "rollout/truncated_share": 0.5,
        "rollout/staleness": 1.5,
        "rollout/staleness_max": 3.0,
        "rollout/entropy": 6.5 / 4,
        "batch/trajectories": 2.0,
        "batch/trained_tokens": 4.0,
        "batch/mean_abs_advantage": 0.5,  # 0.75 and -0.25
        "filter/invalid": 1.0,
        "policy_version": 7.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_an_unknown_advantage_is_refused_at_the_start() -> None:
    with pytest.raises(UnknownName, match="no advantage named 'cmw'; did you mean cwm"):
        config(advantage="cmw")
