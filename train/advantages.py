"""Advantages: one pure function per rule, from the rewards of one group to one number per trajectory.

None of the rules divides by a standard deviation: on a nearly uniform group that turns rounding noise into a large
signal. Members that are not valid get 0 and do not count in the baseline. Sums run in float64 on rewards taken
relative to one member, so that a group of equal rewards gives exactly 0 whatever the value is.

Names: `swegym.train.config.ADVANTAGES`.

Shape letter: G members of one group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from swegym.core.errors import ConfigError

__all__ = ["AdvantageFn", "cwm", "leave_one_out", "mean"]

AdvantageFn: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rewards_G float, lengths_G int, valid_G bool) -> advantages_G float32."""


def cwm(rewards_G: Tensor, lengths_G: Tensor, valid_G: Tensor) -> Tensor:
    """Reward minus the mean weighted by length, so that the sum over tokens of the advantage is 0 in every group.

    Args:
        rewards_G: float (G,), no unit; what stands where `valid_G` is False is never read.
        lengths_G: int (G,), trained tokens of each trajectory.
        valid_G: bool (G,).

    Returns:
        float32 (G,).

    Raises:
        ConfigError: G < 2, or the shapes differ.

    Source: CWM (arXiv 2510.02387) appendix C.
    """
    return _centred(rewards_G, lengths_G, valid_G, lengths_G.double()).float()


def mean(rewards_G: Tensor, lengths_G: Tensor, valid_G: Tensor) -> Tensor:
    """Reward minus the plain mean of the group. Arguments and errors as `cwm`; lengths are not read.

    Source: Dr. GRPO (arXiv 2503.20783), which is GRPO (arXiv 2402.03300) without the division by the std.
    """
    return _centred(rewards_G, lengths_G, valid_G, torch.ones_like(rewards_G, dtype=torch.float64)).float()


def leave_one_out(rewards_G: Tensor, lengths_G: Tensor, valid_G: Tensor) -> Tensor:
    """Reward minus the mean of the other members: n / (n - 1) times `mean` for n valid members, 0 for a single one.

    Arguments and errors as `cwm`; lengths are not read.

    Source: RLOO (arXiv 2402.14740).
    """
    centred_G = _centred(rewards_G, lengths_G, valid_G, torch.ones_like(rewards_G, dtype=torch.float64))
    num_valid = int(valid_G.sum())
    return (centred_G * (num_valid / max(num_valid - 1, 1))).float()


def _centred(rewards_G: Tensor, lengths_G: Tensor, valid_G: Tensor, weights_G: Tensor) -> Tensor:
    """float64 (G,): reward minus the weighted mean of the valid members; 0 where there is no weight at all."""
    if not rewards_G.shape == lengths_G.shape == valid_G.shape or rewards_G.dim() != 1:
        shapes = [tuple(tensor.shape) for tensor in (rewards_G, lengths_G, valid_G)]
        raise ConfigError(f"rewards, lengths and valid must be rows of one length, got shapes {shapes}")
    if rewards_G.numel() < 2:
        raise ConfigError(f"a group of {rewards_G.numel()} has no baseline: algo.group_size must be at least 2")
    zeros_G = torch.zeros_like(rewards_G, dtype=torch.float64)
    weights_G = torch.where(valid_G, weights_G, zeros_G)
    total = weights_G.sum()
    if total == 0:
        return zeros_G
    anchor = rewards_G[valid_G][0].double()
    relative_G = torch.where(valid_G, rewards_G.double() - anchor, zeros_G)
    baseline = (weights_G * relative_G).sum() / total
    return torch.where(valid_G, relative_G - baseline, zeros_G)
