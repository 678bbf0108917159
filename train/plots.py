"""Plots of a run, drawn from its metrics rows. Needs matplotlib (the extra `train`), no display."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swegym.core.errors import ConfigError, DependencyMissing

__all__ = ["plot_rewards"]

SMOOTHING_STEPS = 5
_TRAIN, _EVAL, _GREEDY = "#1f6fb4", "#c4501b", "#4d4d4d"

Row = Mapping[str, Any]


def plot_rewards(rows: Iterable[Row], path: Path | str, *, title: str = "Pass rate over training") -> Path:
    """Draw training and held-out pass rates over optimizer steps, and the mean reward below where it differs.

    Args:
        rows: lines of metrics.jsonl. Read are `step`; `rollout/pass_rate` and `reward/mean` of training steps;
            `eval/pass_rate`, `eval/pass_rate_low` and `eval/pass_rate_high` (the 95% interval) and
            `eval/greedy_pass_rate` of evaluations. Rows without any of these are passed over.
        path: of the PNG; its folder is made.
        title: above the plot.

    Returns:
        The path.

    Raises:
        DependencyMissing: matplotlib is absent.
        ConfigError: no row holds anything to draw, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise DependencyMissing("plots need matplotlib: pip install 'swegym[train]'") from None
    rows = list(rows)
    if not any(_points(rows, key)[0] for key in ("rollout/pass_rate", "reward/mean", "eval/pass_rate")):
        raise ConfigError(f"cannot draw {path}: no metrics row has a reward or a pass rate")
    has_own_scale = _has_reward_of_its_own(rows)
    figure = Figure(figsize=(8.0, 6.4 if has_own_scale else 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [3, 2] if has_own_scale else [1]
    axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    _draw_pass_rates(axes[0], rows)
    axes[0].set_title(title, loc="left", fontsize=12)
    if has_own_scale:
        _draw_line(axes[1], *_points(rows, "reward/mean"), label="mean reward, training")
        axes[1].set_ylabel("reward")
    for axis in axes:
        axis.grid(visible=True, color="#dddddd", linewidth=0.8)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=9, loc="best")
    axes[-1].set_xlabel("optimizer step")
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150, format="png")
    except OSError as error:
        raise ConfigError(f"cannot write plot {target}: {error.strerror or error}") from None
    return target


def _draw_pass_rates(axis: Any, rows: Sequence[Row]) -> None:
    _draw_line(axis, *_points(rows, "rollout/pass_rate"), label="training tasks, sampled")
    steps, rates = _points(rows, "eval/pass_rate")
    if steps:
        lows, highs = _bounds(rows)
        axis.errorbar(
            steps, rates, yerr=[lows, highs], color=_EVAL, marker="o", markersize=6, linewidth=1.6, capsize=4,
            label="held-out tasks, sampled (95% interval)", zorder=4,
        )  # fmt: skip
    steps, rates = _points(rows, "eval/greedy_pass_rate")
    if steps:
        axis.plot(
            steps, rates, color=_GREEDY, marker="s", linewidth=1.0, linestyle="--", label="held-out tasks, greedy"
        )
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("pass rate")


def _draw_line(axis: Any, steps: list[float], values: list[float], *, label: str) -> None:
    """Single steps faint, their running mean over the last few steps strong."""
    if not steps:
        return
    axis.plot(steps, values, color=_TRAIN, alpha=0.35, linewidth=0.9, marker=".", markersize=4)
    means = [_mean(values[max(0, end - SMOOTHING_STEPS) : end]) for end in range(1, len(values) + 1)]
    axis.plot(steps, means, color=_TRAIN, linewidth=2.0, label=f"{label} (mean of {SMOOTHING_STEPS} steps)")


def _points(rows: Sequence[Row], key: str) -> tuple[list[float], list[float]]:
    found = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) is not None and "step" in row]
    found.sort(key=lambda point: point[0])
    return [step for step, _ in found], [value for _, value in found]


def _bounds(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Distances from each evaluated rate down and up to its interval; 0 where a row has none."""
    evaluated = sorted(
        (row for row in rows if row.get("eval/pass_rate") is not None), key=lambda row: float(row["step"])
    )
    lows = [max(0.0, row["eval/pass_rate"] - row.get("eval/pass_rate_low", row["eval/pass_rate"])) for row in evaluated]
    highs = [
        max(0.0, row.get("eval/pass_rate_high", row["eval/pass_rate"]) - row["eval/pass_rate"]) for row in evaluated
    ]
    return lows, highs


def _has_reward_of_its_own(rows: Sequence[Row]) -> bool:
    """Whether the reward is another number than the pass rate; a 0/1 test reward is not, and would be drawn twice."""
    return any(
        abs(float(row["reward/mean"]) - float(row.get("rollout/pass_rate", float("nan")))) > 1e-9
        or "rollout/pass_rate" not in row
        for row in rows
        if row.get("reward/mean") is not None
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
