from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from swegym.train.loss import LossInput, LossStats, policy_loss


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def inputs(policy: Tensor, rollout: Tensor, advantages: Tensor, mask: list[int] | None = None) -> LossInput:
    flags = torch.tensor(mask if mask is not None else [1] * len(policy)).bool()
    return LossInput(policy, rollout, advantages, flags)


def random_inputs(num_tokens: int, seed: int = 0) -> LossInput:
    generator = torch.Generator().manual_seed(seed)
    rollout = -torch.rand(num_tokens, generator=generator) * 3
    policy = (rollout + 0.3 * torch.randn(num_tokens, generator=generator)).requires_grad_()
    mask = torch.rand(num_tokens, generator=generator) < 0.7
    return LossInput(policy, rollout, torch.randn(num_tokens, generator=generator), mask)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, of)
    return grad


def test_hand_computed_loss_gradient_and_clip_fraction() -> None:
    # ratios 2, 2, 0.5, 0.5, 1.1 against the bounds 0.8 and 1.25
    policy = tensor(math.log(2.0), math.log(2.0), math.log(0.5), math.log(0.5), math.log(1.1)).requires_grad_()
    advantages = tensor(1.0, -1.0, 1.0, -1.0, 3.0)
    loss, stats = policy_loss(inputs(policy, torch.zeros(5), advantages), normalizer=10.0)
    # min picks: 1.25 (clipped), -2 (not: pushing down stays allowed), 0.5, -0.8 (clipped), 3.3; the sum is 2.25
    assert loss.item() == pytest.approx(-0.225)
    torch.testing.assert_close(gradient(loss, policy), tensor(0.0, 0.2, -0.05, 0.0, -0.33))
    assert stats.metrics()["clip_fraction"] == pytest.approx(2 / 5)


def test_hand_computed_mismatch_metrics() -> None:
    policy, rollout = tensor(-1.0, -2.0, -3.0), tensor(-1.0, -2.5, -2.0)  # log ratios 0, 0.5, -1 and an ignored 9
    padded = inputs(
        torch.cat([policy, tensor(9.0)]), torch.cat([rollout, tensor(0.0)]), torch.ones(4), mask=[1, 1, 1, 0]
    )
    metrics = policy_loss(padded, normalizer=1.0)[1].metrics()
    assert metrics["mean_abs_dlogp"] == pytest.approx(1.5 / 3)
    assert metrics["max_abs_dlogp"] == pytest.approx(1.0)
    k3 = [0.0, math.exp(0.5) - 1.5, math.exp(-1.0)]
    assert metrics["mismatch_k3"] == pytest.approx(sum(k3) / 3)
    assert metrics["token_mult_prob_error"] == pytest.approx((1 + math.exp(0.5) + math.e) / 3)
    ratios = [1.0, math.exp(0.5), math.exp(-1.0)]
    assert metrics["ess"] == pytest.approx(sum(ratios) ** 2 / (3 * sum(ratio**2 for ratio in ratios)))


def test_on_policy_loss_is_the_policy_gradient_and_the_metrics_are_at_rest() -> None:
    logprobs = tensor(-0.3, -1.7, -2.2).requires_grad_()
    advantages = tensor(0.5, -2.0, 1.0)
    loss, stats = policy_loss(inputs(logprobs, logprobs.detach(), advantages), normalizer=4.0)
    assert torch.equal(gradient(loss, logprobs), -advantages / 4)
    assert stats.metrics() == {
        "clip_fraction": 0.0,
        "mean_abs_dlogp": 0.0,
        "max_abs_dlogp": 0.0,
        "mismatch_k3": 0.0,
        "token_mult_prob_error": 1.0,
        "ess": 1.0,
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_stands_under_the_mask_is_never_read(bad: float) -> None:
    clean = random_inputs(17)
    loss, stats = policy_loss(clean, normalizer=5.0)
    policy = torch.where(clean.loss_mask_T, clean.policy_logprobs_T.detach(), bad).requires_grad_()
    rollout = torch.where(clean.loss_mask_T, clean.rollout_logprobs_T, bad)
    advantages = torch.where(clean.loss_mask_T, clean.advantages_T, bad)
    dirty_loss, dirty_stats = policy_loss(LossInput(policy, rollout, advantages, clean.loss_mask_T), normalizer=5.0)
    assert dirty_loss.item() == loss.item()
    assert dirty_stats == stats
    assert torch.equal(gradient(dirty_loss, policy), gradient(loss, clean.policy_logprobs_T))


def test_splitting_into_micro_batches_changes_nothing() -> None:
    whole = random_inputs(31)
    loss, stats = policy_loss(whole, normalizer=13.0)
    expected = gradient(loss, whole.policy_logprobs_T)
    losses, parts, grads = [], LossStats(), []
    for start, end in [(0, 4), (4, 5), (5, 24), (24, 31)]:
        policy = whole.policy_logprobs_T.detach()[start:end].requires_grad_()
        piece = LossInput(
            policy, whole.rollout_logprobs_T[start:end], whole.advantages_T[start:end], whole.loss_mask_T[start:end]
        )
        part_loss, part = policy_loss(piece, normalizer=13.0)
        losses.append(part_loss.item())
        grads.append(gradient(part_loss, policy))
        parts = parts + part
    assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)
    assert torch.equal(torch.cat(grads), expected)
    assert parts.metrics() == pytest.approx(stats.metrics(), rel=1e-9)


def test_padding_changes_nothing() -> None:
    short = random_inputs(9)
    pad = torch.full((4,), 7.0)
    padded = LossInput(
        torch.cat([short.policy_logprobs_T, pad]),
        torch.cat([short.rollout_logprobs_T, -pad]),
        torch.cat([short.advantages_T, pad]),
        torch.cat([short.loss_mask_T, torch.zeros(4, dtype=torch.bool)]),
    )
    loss, stats = policy_loss(short, normalizer=3.0)
    padded_loss, padded_stats = policy_loss(padded, normalizer=3.0)
    assert padded_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    assert padded_stats == stats


def test_an_absurd_log_ratio_stays_finite() -> None:
    policy = tensor(500.0, -500.0).requires_grad_()
    loss, stats = policy_loss(inputs(policy, torch.zeros(2), tensor(-1.0, -1.0)), normalizer=1.0)
    # the minimum takes exp(20) for the first token (no clip on that side) and 0.8 for the second
    assert loss.item() == pytest.approx(math.exp(20.0) + 0.8, rel=1e-6)
    assert gradient(loss, policy).tolist() == [0.0, 0.0]
    assert all(math.isfinite(value) for value in stats.metrics().values())
    assert stats.metrics()["max_abs_dlogp"] == 500.0


def test_no_token_gives_zero_loss_zero_gradient_and_no_metrics() -> None:
    policy = tensor(-1.0, -2.0).requires_grad_()
    loss, stats = policy_loss(inputs(policy, tensor(0.0, 0.0), tensor(1.0, 1.0), mask=[0, 0]), normalizer=7.0)
    assert loss.item() == 0.0
    assert gradient(loss, policy).tolist() == [0.0, 0.0]
    assert stats.metrics() == {}


def test_bfloat16_logprobs_are_compared_in_float32() -> None:
    policy = torch.tensor([-1.0, -2.0], dtype=torch.bfloat16)
    loss, _ = policy_loss(inputs(policy, tensor(-1.001, -2.001), tensor(1.0, 1.0)), normalizer=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-2 * math.exp(0.001), rel=1e-5)


def test_bad_arguments_are_refused() -> None:
    good = random_inputs(3)
    with pytest.raises(ValueError, match="normalizer must be a positive number"):
        policy_loss(good, normalizer=0.0)
    uneven = LossInput(good.policy_logprobs_T, good.rollout_logprobs_T[:2], good.advantages_T, good.loss_mask_T)
    with pytest.raises(ValueError, match="differ in shape"):
        policy_loss(uneven, normalizer=1.0)
