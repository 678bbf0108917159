"""GRPO with environments: the loop, synchronous.

Kept from CWM (arXiv 2510.02387, section 5.2 and appendix C): groups of G, length-weighted baseline without a standard
deviation, fixed normaliser, clipping on the ratio of trainer to engine, no KL, zero-advantage trajectories dropped.
Left out here: collecting while learning, the length schedule and environment mixtures.

    swegym train rl --config recipe.toml --run runs/first

One step: choose tasks -> episodes in sandboxes, graded -> one optimizer step -> publish the weights to the engines.
"""

from __future__ import annotations

import time
from typing import Any

from swegym.core.errors import ConfigError, TrainingError
from swegym.core.progress import Progress, Silent
from swegym.core.runfolder import RunFolder
from swegym.core.seeding import derive_seed
from swegym.core.trajectory import Trajectory
from swegym.envs.tasksets.folder import resolve_task_set
from swegym.train.batch import group_trajectories
from swegym.train.cluster import Cluster, open_cluster, shuffled_rewards
from swegym.train.config import RlConfig
from swegym.train.heldout import HeldoutResult, evaluate_heldout
from swegym.train.plots import plot_rewards
from swegym.train.schedule import tasks_for_step
from swegym.train.start import starting_checkpoint
from swegym.train.summary import summarize

__all__ = ["run_rl"]


def run_rl(config: RlConfig, run: RunFolder, progress: Progress | None = None) -> dict[str, Any]:
    """Train, evaluating before and after, and write everything to the run folder.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ConfigError, UnknownName: the task set or checkpoint does not fit the configuration.
        TrainingError: training cannot go on; what was finished is in the run folder.
    """
    progress = progress or Silent()
    taskset = resolve_task_set(config.data.taskset)
    train_ids, heldout_ids = taskset.ids(config.data.train_split), taskset.ids(config.data.heldout_split)
    if not heldout_ids:
        raise ConfigError(
            f"task set {taskset.name!r} has no task of split {config.data.heldout_split!r} to evaluate on"
        )
    tasks_for_step(train_ids, config.algo.tasks_per_step, 0, config.seed)  # too few tasks: say so before Ray starts
    started = time.monotonic()
    checkpoint = starting_checkpoint(config.model.checkpoint)
    progress.stage("Starting Ray, the learner and the engine")
    with open_cluster(config, checkpoint, run.path) as cluster:
        progress.say(f"sandbox: {cluster.sandbox}, engine: {config.engine.type}")
        loop = _Loop(config, run, cluster, progress, train_ids, heldout_ids)
        before = loop.evaluate("before", step=0)
        loop.train()
        after = loop.evaluate("after", step=config.algo.num_steps)
        cluster.export("final")
    summary = summarize(config, run, before, after, sandbox=cluster.sandbox, seconds=time.monotonic() - started)
    run.write_summary(summary)
    plot_rewards(list(run.metrics()), run.path / "plots" / "reward.png")
    return summary


class _Loop:
    """State of one run in the driver."""

    def __init__(
        self,
        config: RlConfig,
        run: RunFolder,
        cluster: Cluster,
        progress: Progress,
        train_ids: list[str],
        heldout_ids: list[str],
    ) -> None:
        self.config, self.run, self.cluster, self.progress = config, run, cluster, progress
        self.train_ids, self.heldout_ids = train_ids, heldout_ids
        self.version = 0
        self.published_version = 0

    def train(self) -> None:
        algo = self.config.algo
        self.progress.stage(
            f"Training: {algo.num_steps} steps of {algo.tasks_per_step} tasks x {algo.group_size} episodes"
        )
        for step in range(1, algo.num_steps + 1):
            metrics = self.step(step)
            self.run.log(step, metrics)
            self.progress.advance(step, algo.num_steps, _step_note(metrics))
            if step == 1:
                self.check_probe(metrics)
            if step % self.config.checkpoint_every == 0 or step == algo.num_steps:
                self.cluster.save(step)
            if self.config.eval.every and step % self.config.eval.every == 0 and step < algo.num_steps:
                self.evaluate("during", step)

    def step(self, step: int) -> dict[str, float]:
        """Collect, learn, publish."""
        config, started = self.config, time.perf_counter()
        task_ids = tasks_for_step(self.train_ids, config.algo.tasks_per_step, step - 1, config.seed)
        trajectories = self.cluster.collect(
            task_ids,
            config.algo.group_size,
            temperature=config.rollout.temperature,
            seed=derive_seed(config.seed, "step", step),
            label=f"train-{step:05d}",
        )
        collected = time.perf_counter()
        if config.algo.shuffle_rewards:
            trajectories = shuffled_rewards(trajectories, derive_seed(config.seed, "control", step))
        metrics = self.cluster.learn(group_trajectories(trajectories, config.algo.group_size))
        self.version += int(metrics["optim/steps"])
        if self.version >= self.published_version + config.algo.publish_every:
            metrics["time/publish_s"] = self.cluster.publish(self.version)
            self.published_version = self.version
        metrics["time/rollout_s"] = collected - started
        metrics["time/step_s"] = time.perf_counter() - started
        metrics["rollout/tokens_per_s"] = sum(item.num_agent_tokens for item in trajectories) / (collected - started)
        return metrics

    def check_probe(self, metrics: dict[str, float]) -> None:
        """Stop rather than burn time where nearly every group is all good or all bad."""
        share, least = metrics["batch/mixed_group_share"], self.config.algo.min_mixed_share
        if share < least:
            raise TrainingError(
                f"only {share:.0%} of the first step's groups are mixed (algo.min_mixed_share = {least:.0%}), "
                f"and the mean reward is {metrics.get('reward/mean', 0.0):.2f}: there is too little to learn from; "
                "choose easier or harder tasks, or another starting checkpoint"
            )

    def evaluate(self, name: str, step: int) -> HeldoutResult:
        """Held-out tasks, sampled and greedy, with the engines' present weights."""
        if self.published_version != self.version:
            self.cluster.publish(self.version)
            self.published_version = self.version
        self.progress.stage(f"Evaluating {name} training: {len(self.heldout_ids)} held-out tasks")
        total = len(self.heldout_ids) * (self.config.eval.samples_per_task + int(self.config.eval.greedy))

        def collect(group_size: int, temperature: float, kind: str, done: int) -> list[Trajectory]:
            return self.cluster.collect(
                self.heldout_ids,
                group_size,
                temperature=temperature,
                seed=derive_seed(self.config.seed, "heldout"),  # the same seeds before and after
                label=f"eval-{step:05d}-{kind}",
                on_progress=lambda finished: self.progress.advance(done + finished, total),
            )

        result = evaluate_heldout(self.config.eval, self.config.rollout.temperature, collect, self.config.seed)
        self.run.log(step, {f"eval/{key}": value for key, value in result.metrics().items()})
        self.progress.say(f"{name}: {result.describe()}")
        return result


def _step_note(metrics: dict[str, float]) -> str:
    return (
        f"pass rate {metrics.get('rollout/pass_rate', 0.0):.2f}, mixed {metrics['batch/mixed_group_share']:.2f}, "
        f"mismatch {metrics.get('loss/mismatch_k3', 0.0):.1e}, {metrics['time/step_s']:.1f} s"
    )
