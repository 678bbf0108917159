"""The whole loop, real: tasks built from a repository, local sandboxes, Ray actors, vLLM, learner, run folder."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from swegym.core.config import load_config
from swegym.core.errors import ConfigError, TrainingError
from swegym.core.runfolder import RunFolder
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets.build import build_mutate_fix
from swegym.train.config import RlConfig, recipe_path
from swegym.train.demonstrations import KINDS
from swegym.train.rl import run_rl

SOURCE = Path(__file__).parents[2] / "envs" / "data" / "tiny" / "workspace"
SMALL = [
    "--rollout.sandbox=local",
    "--algo.tasks_per_step=3",
    "--algo.group_size=4",
    "--algo.num_steps=2",
    "--algo.min_mixed_share=0",
    "--eval.samples_per_task=2",
    "--checkpoint_every=1",
    "--algo.rehearsal_examples=4",
]


@pytest.fixture(scope="module")
def taskset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "set"

    async def build() -> None:
        provider = make_provider("local")
        try:
            await build_mutate_fix(str(SOURCE), folder, 6, 3, 0, 2, provider, kinds=KINDS)
        finally:
            await provider.close()

    asyncio.run(build())
    return folder


def configure(taskset: Path, *overrides: str) -> RlConfig:
    return load_config(RlConfig, [recipe_path("demo")], [*SMALL, f"--data.taskset={taskset}", *overrides])


@pytest.mark.ray
@pytest.mark.vllm
def test_two_steps_with_vllm(taskset: Path, tmp_path: Path) -> None:
    config = configure(taskset)
    run = RunFolder.create(tmp_path / "run", config)
    summary = run_rl(config, run)
    assert summary == run.summary()
    assert (summary["engine"], summary["sandbox"], summary["num_steps"]) == ("vllm", "local", 2)
    assert summary["num_heldout_tasks"] == 3
    assert summary["invalid_share"] == 0.0
    assert 0.0 <= summary["pass_rate_after"] <= 1.0
    episodes = list(run.episodes)
    assert len(episodes) == 2 * 3 * (2 + 1) + 2 * 3 * 4  # two evaluations, sampled and greedy; two steps
    assert {item.group_id.split("/")[0] for item in episodes} == {
        "eval-00000-sampled",
        "eval-00000-greedy",
        "train-00001",
        "train-00002",
        "eval-00002-sampled",
        "eval-00002-greedy",
    }
    check_tokens(run)
    assert summary["best_episode"] in {item.episode_id for item in episodes}
    steps = [row for row in run.metrics() if "optim/steps" in row]
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row.get("loss/mean_abs_dlogp", 0.0) < 1e-3 for row in steps), "engine and learner disagree"
    assert (run.path / "plots" / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert (run.path / "checkpoints" / "final" / "model.safetensors").is_file()
    assert not (run.path / "weights").exists()
    assert json.loads((run.path / "config.json").read_text())["algo"]["group_size"] == 4


def check_tokens(run: RunFolder) -> None:
    """Every agent token carries the engine's log-probability and the version that sampled it."""
    versions = set()
    for item in run.episodes.select(lambda item: item.group_id.startswith("train-")):
        (context,) = item.contexts
        assert sum(context.loss_mask) == context.num_agent_tokens > 0
        for source, logprob, version in zip(
            context.source, context.rollout_logprobs, context.policy_version, strict=True
        ):
            assert (version >= 0) == bool(source)
            assert logprob <= 0 if source else logprob == 0
        versions.add(item.newest_policy_version)
    assert versions <= {0, 1}


@pytest.mark.ray
def test_learning_rate_zero_changes_no_weight_and_no_greedy_result(taskset: Path, tmp_path: Path) -> None:
    config = configure(taskset, "--engine.type=torch", "--optim.lr=0")
    run = RunFolder.create(tmp_path / "run", config)
    summary = run_rl(config, run)
    assert summary["pass_rate_after"] == summary["pass_rate_before"]
    assert summary["greedy_after"] == summary["greedy_before"]


@pytest.mark.ray
def test_too_few_mixed_groups_stop_the_run_and_keep_what_was_done(taskset: Path, tmp_path: Path) -> None:
    config = configure(taskset, "--engine.type=torch", "--algo.min_mixed_share=1.0", "--rollout.max_action_tokens=2")
    run = RunFolder.create(tmp_path / "run", config)
    with pytest.raises(TrainingError, match="groups are mixed"):
        run_rl(config, run)
    assert list(run.metrics())
    assert list(run.episodes)


def test_a_task_set_without_heldout_tasks_is_refused_before_ray_starts(tmp_path: Path) -> None:
    config = load_config(RlConfig, [recipe_path("demo")], ["--data.taskset=tiny", "--data.heldout_split=none"])
    with pytest.raises(ConfigError, match="no task of split 'none'"):
        run_rl(config, RunFolder.create(tmp_path / "run", config))
