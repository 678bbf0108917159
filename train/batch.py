"""Batch: groups of trajectories -> documents to train on, one per context, with counts of what was left out.

The tokens are those that the engine sampled, never re-tokenised text. What follows the last trained token of a context
is cut off: with causal attention it cannot matter.

Shape letter: G members of one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from swegym.core.errors import TrainingError
from swegym.core.trajectory import TokenContext, Trajectory
from swegym.train.advantages import AdvantageFn
from swegym.train.filters import DropCause, FilterRules, baseline_drop, loss_drop, num_trained_tokens
from swegym.train.packing import Sample

__all__ = ["TrainingBatch", "build_batch", "group_advantages", "group_trajectories", "sampling_temperature"]


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """What one optimizer step trains on."""

    samples: dict[float, list[Sample]] = field(default_factory=dict)
    """Sampling temperature -> documents; `values` are `rollout_logprobs` and `advantages`, aligned with the tokens."""
    num_trajectories: int = 0
    num_groups: int = 0
    num_mixed_groups: int = 0
    """Groups in which some advantage is not 0."""
    num_trained_tokens: int = 0
    """Tokens with loss mask 1 in the samples."""
    drops: dict[DropCause, int] = field(default_factory=dict)
    """Trajectories left out, by cause; every cause is a key."""
    sum_abs_advantage: float = 0.0
    """Over the trajectories that are trained on."""

    @property
    def num_dropped(self) -> int:
        return sum(self.drops.values())


def group_trajectories(trajectories: Iterable[Trajectory], group_size: int) -> list[list[Trajectory]]:
    """Collect trajectories by `group_id`, groups in order of first appearance.

    Raises:
        TrainingError: a trajectory has no group id, a group is not of `group_size`, or it mixes tasks. Grouping by
            anything finer gives groups of one whose advantage is silently 0.
    """
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if not trajectory.group_id:
            raise TrainingError(f"episode {trajectory.episode_id} has no group id")
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    for group_id, group in groups.items():
        if len(group) != group_size:
            raise TrainingError(f"group {group_id} has {len(group)} trajectories, expected {group_size}")
        tasks = sorted({trajectory.task_id for trajectory in group})
        if len(tasks) != 1:
            raise TrainingError(f"group {group_id} mixes tasks {', '.join(tasks[:3])}")
    return list(groups.values())


def group_advantages(
    group: Sequence[Trajectory], advantage_fn: AdvantageFn, rules: FilterRules
) -> tuple[list[float], list[DropCause | None]]:
    """Advantage of each member, and why it is outside the baseline (None when it is in).

    Raises:
        ConfigError: the group has fewer than two members.
    """
    causes = [baseline_drop(trajectory, rules) for trajectory in group]
    valid_G = torch.tensor([cause is None for cause in causes], dtype=torch.bool)
    rewards_G = torch.tensor([trajectory.reward or 0.0 for trajectory in group], dtype=torch.float64)
    lengths_G = torch.tensor([num_trained_tokens(trajectory) for trajectory in group], dtype=torch.int64)
    return advantage_fn(rewards_G, lengths_G, valid_G).tolist(), causes


def sampling_temperature(trajectory: Trajectory) -> float:
    """The temperature that all its turns were sampled at.

    The trainer must divide its logits by the same temperature, or the ratio to the engine's probabilities is wrong.

    Raises:
        TrainingError: turns differ, were greedy, or cut the distribution with top_p, whose renormalised probabilities
            the trainer cannot reproduce.
    """
    temperatures = {turn.sampling.temperature for turn in trajectory.turns}
    where = f"episode {trajectory.episode_id} cannot be trained on"
    if len(temperatures) != 1:
        raise TrainingError(f"{where}: its turns have sampling temperatures {sorted(temperatures)}, need exactly one")
    temperature = temperatures.pop()
    if temperature <= 0:
        raise TrainingError(f"{where}: it was sampled greedily (temperature 0)")
    if any(turn.sampling.top_p != 1.0 for turn in trajectory.turns):
        raise TrainingError(f"{where}: it was sampled with top_p below 1")
    return temperature


def build_batch(
    groups: Sequence[Sequence[Trajectory]], advantage_fn: AdvantageFn, rules: FilterRules, policy_version: int
) -> TrainingBatch:
    """Compute advantages, apply the filters, and turn what is left into documents.

    Args:
        groups: each holds the trajectories of one task and one dispatch.
        advantage_fn: see `swegym.train.advantages`.
        rules: thresholds of the filters.
        policy_version: the learner's, in optimizer steps, for staleness.

    Raises:
        ConfigError: a group of fewer than two.
        TrainingError: a trajectory's sampling cannot be trained on.
    """
    samples: dict[float, list[Sample]] = {}
    drops: Counter[DropCause] = Counter(dict.fromkeys(DropCause, 0))
    num_mixed_groups, sum_abs_advantage = 0, 0.0
    for group in groups:
        advantages, causes = group_advantages(group, advantage_fn, rules)
        num_mixed_groups += any(advantages)
        for trajectory, advantage, cause in zip(group, advantages, causes, strict=True):
            cause = cause or loss_drop(trajectory, advantage, policy_version, rules)
            if cause is not None:
                drops[cause] += 1
                continue
            sum_abs_advantage += abs(advantage)
            bucket = samples.setdefault(sampling_temperature(trajectory), [])
            bucket.extend(_samples(trajectory.contexts, advantage))
    return TrainingBatch(
        samples=samples,
        num_trajectories=sum(len(group) for group in groups),
        num_groups=len(groups),
        num_mixed_groups=num_mixed_groups,
        num_trained_tokens=sum(sum(sample.loss_mask) for bucket in samples.values() for sample in bucket),
        drops=dict(drops),
        sum_abs_advantage=sum_abs_advantage,
    )


def _samples(contexts: Iterable[TokenContext], advantage: float) -> list[Sample]:
    samples = []
    for context in contexts:
        if not any(context.loss_mask):
            continue
        end = max(index for index, flag in enumerate(context.loss_mask) if flag) + 1
        samples.append(
            Sample(
                tokens=context.tokens[:end],
                loss_mask=context.loss_mask[:end],
                values={"rollout_logprobs": context.rollout_logprobs[:end], "advantages": (advantage,) * end},
            )
        )
    return samples
