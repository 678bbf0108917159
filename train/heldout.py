"""Evaluation on held-out tasks during training: pass rate sampled, greedy and pass@k."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from swegym.core.trajectory import Trajectory
from swegym.run.evaluate import EvalReport, eval_report
from swegym.train.config import EvalSection

__all__ = ["HeldoutResult", "evaluate_heldout"]

Collect = Callable[[int, float, str, int], list[Trajectory]]
"""(episodes per task, temperature, kind, episodes done before) -> graded trajectories."""


@dataclass(frozen=True, slots=True)
class HeldoutResult:
    """One evaluation."""

    sampled: EvalReport
    greedy: EvalReport | None
    k: int
    """Samples per task, also the k of pass@k."""

    @property
    def pass_rate(self) -> float:
        """Mean over tasks of the share of samples that were resolved; nan when no sample was valid."""
        return self.sampled.pass_rate.mean if self.sampled.pass_rate else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of `pass_rate` over tasks."""
        found = self.sampled.pass_rate
        return (found.low, found.high) if found else (float("nan"), float("nan"))

    @property
    def greedy_pass_rate(self) -> float | None:
        return self.greedy.pass_rate.mean if self.greedy and self.greedy.pass_rate else None

    @property
    def pass_at_k(self) -> float | None:
        """None when a task has too few valid samples."""
        return self.sampled.pass_at_k.get(self.k)

    @property
    def invalid_share(self) -> float:
        """Of all episodes of this evaluation."""
        parts = [self.sampled.statistics] + ([self.greedy.statistics] if self.greedy else [])
        total = sum(part.num_trajectories for part in parts)
        return sum(part.num_trajectories - part.num_valid for part in parts) / total if total else 0.0

    def metrics(self) -> dict[str, float]:
        """Numbers for metrics.jsonl, without prefix."""
        low, high = self.interval
        found = {"pass_rate": self.pass_rate, "pass_rate_low": low, "pass_rate_high": high}
        if self.greedy_pass_rate is not None:
            found["greedy_pass_rate"] = self.greedy_pass_rate
        if self.pass_at_k is not None:
            found[f"pass_at_{self.k}"] = self.pass_at_k
        return found | {"invalid_share": self.invalid_share, "tokens_per_s": self.sampled.tokens_per_s}

    def describe(self) -> str:
        """One line."""
        low, high = self.interval
        text = f"pass rate {self.pass_rate:.3f} [{low:.3f}, {high:.3f}]"
        if self.greedy_pass_rate is not None:
            text += f", greedy {self.greedy_pass_rate:.3f}"
        if self.pass_at_k is not None:
            text += f", pass@{self.k} {self.pass_at_k:.3f}"
        return text


def evaluate_heldout(config: EvalSection, temperature: float, collect: Collect, seed: int) -> HeldoutResult:
    """Sample every task `samples_per_task` times, then once greedily if the configuration says so.

    Args:
        config: how many samples, and whether greedy as well.
        temperature: of the samples; the rollouts' own.
        collect: runs and grades episodes of all held-out tasks.
        seed: of the bootstrap.
    """
    k = config.samples_per_task
    started = time.monotonic()
    trajectories = collect(k, temperature, "sampled", 0)
    sampled = eval_report(trajectories, k=(1, k), seed=seed, duration_s=time.monotonic() - started)
    greedy = None
    if config.greedy:
        greedy = eval_report(collect(1, 0.0, "greedy", len(trajectories)), seed=seed)
    return HeldoutResult(sampled, greedy, k)
