"""Evaluation: pass@k over a task set with any policy, with intervals over tasks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import comb

import numpy as np

from swegym.core.errors import ConfigError
from swegym.core.outcome import Grader, Validity
from swegym.core.records import Record
from swegym.core.store import EpisodeStore
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory
from swegym.rewards.compose import RewardSet
from swegym.run.rollout import MakeAgent, MakeEnv, rollout
from swegym.run.statistics import TrajectoryStatistics, trajectory_statistics

__all__ = ["EvalReport", "Interval", "bootstrap_mean", "eval_report", "evaluate", "paired_bootstrap", "pass_at_k"]

NUM_RESAMPLES = 10_000


class Interval(Record):
    """An estimate with its bootstrap percentile interval."""

    mean: float
    low: float
    high: float


class EvalReport(Record):
    """Result of one evaluation. An invalid sample is no failure: it is left out and its share is reported."""

    num_tasks: int
    """Tasks with at least one valid graded sample."""
    num_tasks_without_result: int
    """Tasks all of whose samples were invalid."""
    pass_rate: Interval | None
    """Mean over tasks of the share of samples that were resolved; interval by resampling tasks."""
    pass_at_k: dict[int, float]
    """k -> mean over the tasks with at least k valid samples; a k that no task reaches is absent."""
    task_pass_rates: dict[str, float]
    statistics: TrajectoryStatistics
    duration_s: float = 0.0
    tokens_per_s: float = 0.0
    """Agent tokens by wall time."""
    seed: int = 0


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that at least one of k samples drawn without replacement is correct: 1 - C(n-c,k)/C(n,k).

    Raises:
        ConfigError: k or num_correct is not within 1..n or 0..n.
    Source: the unbiased estimator of Chen et al., arXiv 2107.03374, section 2.1.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ConfigError(f"pass@{k} cannot be estimated from {num_correct} correct of {num_samples} samples")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def bootstrap_mean(
    values: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, confidence: float = 0.95
) -> Interval:
    """Mean of one value per task, with the percentile interval of means over resampled tasks.

    Raises:
        ConfigError: no values.
    """
    if not len(values):
        raise ConfigError("no values to resample")
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(array), size=(num_resamples, len(array)))
    low, high = np.quantile(array[draws].mean(axis=1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean=float(array.mean()), low=float(low), high=float(high))


def paired_bootstrap(
    before: Mapping[str, float], after: Mapping[str, float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Mean over tasks of after - before, resampling tasks with both of their values.

    Raises:
        ConfigError: there is no task that both have.
    """
    shared = sorted(before.keys() & after.keys())
    if not shared:
        raise ConfigError("the two evaluations have no task in common")
    return bootstrap_mean([after[task] - before[task] for task in shared], seed=seed, num_resamples=num_resamples)


def eval_report(
    trajectories: Sequence[Trajectory], *, k: Iterable[int] = (1,), seed: int = 0, duration_s: float = 0.0
) -> EvalReport:
    """Count graded trajectories, grouped by task."""
    resolved: dict[str, list[bool]] = defaultdict(list)
    for item in trajectories:
        results = resolved[item.task_id]
        if item.validity is Validity.VALID and item.outcome is not None:
            results.append(item.outcome.resolved)
    scored = {task_id: results for task_id, results in resolved.items() if results}
    rates = {task_id: sum(results) / len(results) for task_id, results in scored.items()}
    estimates: dict[int, float] = {}
    for each in sorted(set(k)):
        values = [pass_at_k(len(item), sum(item), each) for item in scored.values() if len(item) >= each]
        if values:
            estimates[each] = sum(values) / len(values)
    statistics = trajectory_statistics(trajectories)
    return EvalReport(
        num_tasks=len(scored),
        num_tasks_without_result=len(resolved) - len(scored),
        pass_rate=bootstrap_mean(list(rates.values()), seed=seed) if rates else None,
        pass_at_k=estimates,
        task_pass_rates=rates,
        statistics=statistics,
        duration_s=round(duration_s, 3),
        tokens_per_s=round(statistics.num_agent_tokens / duration_s, 1) if duration_s > 0 else 0.0,
        seed=seed,
    )


async def evaluate(
    tasks: Iterable[Task],
    make_env: MakeEnv,
    make_agent: MakeAgent,
    grader: Grader,
    *,
    samples_per_task: int = 1,
    k: Iterable[int] = (1,),
    rewards: RewardSet | Mapping[str, float] | None = None,
    concurrency: int = 4,
    store: EpisodeStore | None = None,
    on_trajectory: Callable[[Trajectory], None] | None = None,
    seed: int = 0,
) -> EvalReport:
    """Roll out every task `samples_per_task` times and report.

    Raises:
        ConfigError: a k larger than samples_per_task, or no tasks.
    """
    wanted = sorted(set(k))
    if not wanted or wanted[0] < 1 or wanted[-1] > samples_per_task:
        raise ConfigError(f"pass@k for k = {wanted} needs k within 1..{samples_per_task} (samples per task)")
    started = time.monotonic()
    trajectories = await rollout(
        tasks,
        make_env,
        make_agent,
        grader,
        rewards or {"tests": 1.0},
        group_size=samples_per_task,
        concurrency=concurrency,
        store=store,
        on_trajectory=on_trajectory,
        seed=seed,
    )
    if not trajectories:
        raise ConfigError("no tasks to evaluate")
    return eval_report(trajectories, k=wanted, seed=seed, duration_s=time.monotonic() - started)
