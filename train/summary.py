"""The closing numbers of an RL run, and which of its episodes are worth a look."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swegym.core.outcome import Validity
from swegym.core.runfolder import RunFolder
from swegym.core.trajectory import Trajectory
from swegym.run.evaluate import paired_bootstrap
from swegym.train.config import RlConfig
from swegym.train.heldout import HeldoutResult

__all__ = ["best_and_worst", "summarize"]


def summarize(
    config: RlConfig, run: RunFolder, before: HeldoutResult, after: HeldoutResult, *, sandbox: str, seconds: float
) -> dict[str, Any]:
    """What `summary.json` holds. Rates are shares of 1; intervals are 95% bootstrap intervals over tasks."""
    gain = paired_bootstrap(before.sampled.task_pass_rates, after.sampled.task_pass_rates, seed=config.seed)
    steps = [row for row in run.metrics() if "rollout/trajectories" in row]
    num_episodes = sum(row["rollout/trajectories"] for row in steps)
    num_invalid = sum(row["rollout/trajectories"] * row["rollout/invalid_share"] for row in steps)
    best, worst = best_and_worst(run.episodes, f"eval-{config.algo.num_steps:05d}")
    k = after.k
    return {
        "pass_rate_before": _rounded(before.pass_rate),
        "pass_rate_after": _rounded(after.pass_rate),
        "pass_rate_before_ci95": [_rounded(edge) for edge in before.interval],
        "pass_rate_after_ci95": [_rounded(edge) for edge in after.interval],
        "pass_rate_gain": _rounded(gain.mean),
        "pass_rate_gain_ci95": [_rounded(gain.low), _rounded(gain.high)],
        "greedy_before": _rounded(before.greedy_pass_rate),
        "greedy_after": _rounded(after.greedy_pass_rate),
        f"pass{k}_before": _rounded(before.pass_at_k),
        f"pass{k}_after": _rounded(after.pass_at_k),
        "num_heldout_tasks": after.sampled.num_tasks,
        "num_steps": len(steps),
        "num_episodes": int(num_episodes),
        "invalid_share": _rounded(num_invalid / num_episodes if num_episodes else 0.0),
        "tokens_per_s": round(sum(row["rollout/tokens_per_s"] for row in steps) / len(steps), 1) if steps else 0.0,
        "mismatch_k3": max((row["loss/mismatch_k3"] for row in steps if "loss/mismatch_k3" in row), default=0.0),
        "seconds": round(seconds, 1),
        "sandbox": sandbox,
        "engine": config.engine.type,
        "seed": config.seed,
        "best_episode": best,
        "worst_episode": worst,
    }


def best_and_worst(episodes: Iterable[Trajectory], label: str) -> tuple[str | None, str | None]:
    """Ids of the best and the worst valid episode of one phase.

    Among equals the best is the one that was submitted in the fewest turns, the worst the one that took the most.
    """
    best: tuple[tuple[float, bool, int], str] | None = None
    worst: tuple[tuple[float, int], str] | None = None
    for item in episodes:
        if item.validity is not Validity.VALID or item.reward is None or not item.group_id.startswith(label):
            continue
        high, low = (item.reward, item.terminated, -len(item.turns)), (-item.reward, len(item.turns))
        if best is None or high > best[0]:
            best = high, item.episode_id
        if worst is None or low > worst[0]:
            worst = low, item.episode_id
    return (best[1] if best else None), (worst[1] if worst else None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
