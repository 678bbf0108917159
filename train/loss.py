"""The policy loss: a pure function from aligned arrays of tokens to a loss and to sums of health statistics.

Kept from CWM: PPO clipping of the ratio between the trainer's and the engine's probability (the engine's own
log-probabilities are the anchor, so there is no second pass for an old policy), asymmetric bounds, one fixed
normaliser instead of a length per trajectory, no KL term, no entropy bonus. Added: the log-ratio is clamped, and values
under the mask are never read, so a NaN there is harmless.

Everything is a sum over tokens divided by a number that the caller chooses once per optimizer step, so splitting a
step into micro-batches, padding it or sharding it changes nothing.

Shape letter: T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MAX_LOG_RATIO", "LossInput", "LossStats", "policy_loss"]

MAX_LOG_RATIO = 20.0
"""Bound of |log ratio|: exp(20) is still a finite float32, and no gradient flows beyond it."""


@dataclass(frozen=True, slots=True)
class LossInput:
    """Aligned arrays of one micro-batch. Only where `loss_mask_T` is True is anything read."""

    policy_logprobs_T: Tensor
    """float32 (T,): under the weights being trained, at the sampling temperature. Carries the gradient."""
    rollout_logprobs_T: Tensor
    """float32 (T,): of the engine at sampling time."""
    advantages_T: Tensor
    """float32 (T,): the trajectory's advantage at each of its tokens."""
    loss_mask_T: Tensor
    """bool (T,): tokens that the policy sampled and that are trained."""


@dataclass(frozen=True, slots=True)
class LossStats:
    """Sums over the tokens of a micro-batch; `+` joins those of several, `metrics` turns them into means."""

    num_tokens: int = 0
    num_clipped: int = 0
    sum_abs_log_ratio: float = 0.0
    max_abs_log_ratio: float = 0.0
    sum_k3: float = 0.0
    sum_mult_error: float = 0.0
    sum_ratio: float = 0.0
    sum_squared_ratio: float = 0.0

    def __add__(self, other: LossStats) -> LossStats:
        return LossStats(
            num_tokens=self.num_tokens + other.num_tokens,
            num_clipped=self.num_clipped + other.num_clipped,
            sum_abs_log_ratio=self.sum_abs_log_ratio + other.sum_abs_log_ratio,
            max_abs_log_ratio=max(self.max_abs_log_ratio, other.max_abs_log_ratio),
            sum_k3=self.sum_k3 + other.sum_k3,
            sum_mult_error=self.sum_mult_error + other.sum_mult_error,
            sum_ratio=self.sum_ratio + other.sum_ratio,
            sum_squared_ratio=self.sum_squared_ratio + other.sum_squared_ratio,
        )

    def metrics(self) -> dict[str, float]:
        """Means per token; empty when there were no tokens.

        `clip_fraction` counts tokens whose gradient the clip removed. `mismatch_k3` estimates KL(engine || trainer) and
        is never negative. `token_mult_prob_error` is the mean of exp |log ratio|: about 1.01-1.03 in a healthy bf16
        run. `ess` is the effective sample size of the ratios as a share of the tokens, 1 when all are equal.
        """
        if not self.num_tokens:
            return {}
        return {
            "clip_fraction": self.num_clipped / self.num_tokens,
            "mean_abs_dlogp": self.sum_abs_log_ratio / self.num_tokens,
            "max_abs_dlogp": self.max_abs_log_ratio,
            "mismatch_k3": self.sum_k3 / self.num_tokens,
            "token_mult_prob_error": self.sum_mult_error / self.num_tokens,
            "ess": self.sum_ratio**2 / (self.sum_squared_ratio * self.num_tokens),
        }


def policy_loss(
    inputs: LossInput, *, normalizer: float, clip_low: float = 0.2, clip_high: float = 0.25
) -> tuple[Tensor, LossStats]:
    """Minus the clipped objective: -(1/N) sum over masked tokens of min(rho A, clip(rho, 1 - low, 1 + high) A).

    Args:
        inputs: arrays of one shape (T,).
        normalizer: N, in tokens; the same number for every micro-batch of an optimizer step.
        clip_low: how far below 1 the ratio may push an action down.
        clip_high: how far above 1 the ratio may push an action up.

    Returns:
        The loss, a float32 scalar, and the statistics of these tokens. Without any masked token the loss is 0 with a
        gradient of exactly 0.

    Raises:
        ValueError: the shapes differ, or the normaliser is not positive.

    Source: CWM (arXiv 2510.02387) appendix C; N = 131072 there. Clipping: PPO (arXiv 1707.06347).
    """
    _check(inputs, normalizer)
    mask_T = inputs.loss_mask_T
    zeros_T = torch.zeros_like(inputs.policy_logprobs_T, dtype=torch.float32)
    # the inputs are masked, not the products: 0 * NaN is NaN, in the loss and in its gradient
    log_ratio_T = torch.where(mask_T, inputs.policy_logprobs_T.float() - inputs.rollout_logprobs_T.float(), zeros_T)
    advantages_T = torch.where(mask_T, inputs.advantages_T.float(), zeros_T)
    ratio_T = log_ratio_T.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    clipped_ratio_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective_T = torch.minimum(ratio_T * advantages_T, clipped_ratio_T * advantages_T)
    stats = _stats(log_ratio_T.detach(), ratio_T.detach(), clipped_ratio_T.detach(), advantages_T, mask_T)
    return -objective_T.sum() / normalizer, stats


def _check(inputs: LossInput, normalizer: float) -> None:
    arrays = (inputs.policy_logprobs_T, inputs.rollout_logprobs_T, inputs.advantages_T, inputs.loss_mask_T)
    if len({array.shape for array in arrays}) != 1:
        raise ValueError(f"arrays of a loss differ in shape: {[tuple(array.shape) for array in arrays]}")
    if not normalizer > 0 or not math.isfinite(normalizer):
        raise ValueError(f"normalizer must be a positive number of tokens, not {normalizer}")


def _stats(
    log_ratio_T: Tensor, ratio_T: Tensor, clipped_ratio_T: Tensor, advantages_T: Tensor, mask_T: Tensor
) -> LossStats:
    num_tokens = int(mask_T.sum())
    if not num_tokens:
        return LossStats()
    log_ratio_M, ratio_M = log_ratio_T[mask_T].double(), ratio_T[mask_T].double()
    # the minimum picks the clipped branch exactly where that is the smaller product
    clipped_T = clipped_ratio_T * advantages_T < ratio_T * advantages_T
    # same clamp as the loss: one absurd token must not turn every mean of the run's log into infinity
    bounded_M = log_ratio_M.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return LossStats(
        num_tokens=num_tokens,
        num_clipped=int(clipped_T[mask_T].sum()),
        sum_abs_log_ratio=float(log_ratio_M.abs().sum()),
        max_abs_log_ratio=float(log_ratio_M.abs().max()),
        sum_k3=float((bounded_M.exp() - bounded_M - 1.0).sum()),
        sum_mult_error=float(bounded_M.abs().exp().sum()),
        sum_ratio=float(ratio_M.sum()),
        sum_squared_ratio=float((ratio_M**2).sum()),
    )
