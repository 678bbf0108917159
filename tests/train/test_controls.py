"""Does the learner learn from the reward, and only from it? Real agent, model, learner and rollout; no sandbox.

The env applies the agent's `sed` to one line and the grader compares it with the sound line: the demo's task family
with an instant oracle in the place of the tests, so that learning itself is what is tested.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from swegym.agents.forager import ForagerAgent, ForagerConfig
from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.action import Observation, StepResult, ToolCall, ToolSpec
from swegym.core.outcome import Outcome
from swegym.core.task import Provenance, SweTask, Task
from swegym.core.trajectory import Trajectory
from swegym.run.rollout import rollout
from swegym.train.batch import group_trajectories
from swegym.train.cluster import shuffled_rewards
from swegym.train.config import AlgoSection, OptimSection, RlConfig
from swegym.train.cwm.checkpoint import load_checkpoint
from swegym.train.learner import Learner
from swegym.train.schedule import tasks_for_step
from swegym.train.start import BASE_CHECKPOINT
from swegym.train.torch_policy import TorchPolicy

SOUND = [f"if {left} {sign} {right}:" for left in "abcdefgh" for sign in ("==", "<") for right in ("n", "m")]
TOOLS = tuple(ToolSpec(name=name, description="", body_format="") for name in ("bash", "submit"))
SED = re.compile(r'sed -i "\$\{L\}s/ (.+) / (.+) /" \$F')
NUM_STEPS = 12


def make_task(sound: str) -> Task:
    broken = sound.replace(" == ", " >= ").replace(" < ", " >= ")
    return Task(
        task_id=sound,
        statement=broken,
        provenance=Provenance(source="test"),
        payload=SweTask(repo="line", image="none", hints={"text": broken}),
    )


TASKS = {sound: make_task(sound) for sound in SOUND}


class LineEnv:
    """One line of text, edited by the one command that the `short` profile's model writes."""

    env_id = "test/Line-v0"

    def __init__(self) -> None:
        self.line = ""

    async def start(self, task: Task, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        self.line = task.payload.hints["text"]
        return Observation(text=task.statement, hints=task.payload.hints, tools=TOOLS, remaining_turns=4), {}

    async def act(self, call: ToolCall | None, *, error: str = "") -> StepResult:
        if call is not None and call.tool == "submit":
            return StepResult(Observation(text=""), 0.0, True, False, {"end_reason": "submitted"})
        found = SED.fullmatch(call.body) if call is not None else None
        if found is None:
            return StepResult(Observation(text=error), 0.0, False, True, {"end_reason": "turn_limit"})
        before, after = (part.replace("\\", "") for part in found.groups())
        self.line = self.line.replace(f" {before} ", f" {after} ", 1)
        return StepResult(Observation(text="", exit_code=0), 0.0, False, False, {})

    async def submission(self) -> str | None:
        return self.line

    async def aclose(self) -> None: ...


class LineGrader:
    """Compares with the sound line."""

    name = "line"

    async def grade(self, task: Task, patch: str) -> Outcome:
        return Outcome(task_id=task.task_id, resolved=patch == task.task_id)

    async def close(self) -> None: ...


class Lab:
    """A small RL run in one process."""

    def __init__(self, **changes: Any) -> None:
        torch.manual_seed(0)
        algo = AlgoSection(tasks_per_step=8, normalizer=2048, shuffle_rewards=changes.pop("shuffle", False))
        optim = OptimSection(lr=changes.pop("lr", 5e-4), warmup_steps=2, grad_clip=1.0, weight_decay=0.0)
        self.config = RlConfig(algo=algo, optim=optim)
        self.tokenizer = BpeTokenizer.load(BASE_CHECKPOINT)
        self.learner = Learner(load_checkpoint(BASE_CHECKPOINT), self.config)
        self.policy = TorchPolicy(load_checkpoint(BASE_CHECKPOINT), self.tokenizer)

    async def collect(self, task_ids: list[str], seed: int) -> list[Trajectory]:
        limits = ForagerConfig(max_context_tokens=160, max_action_tokens=40)

        def make_agent(_: Task) -> ForagerAgent:
            return ForagerAgent(self.policy, tokenizer=self.tokenizer, profile="short", config=limits)

        tasks = [TASKS[task_id] for task_id in task_ids]
        return await rollout(
            tasks, LineEnv, make_agent, LineGrader(), {"tests": 1.0}, group_size=8, concurrency=64, seed=seed
        )

    async def pass_rate(self) -> float:
        episodes = await self.collect(SOUND, seed=10_000)
        return sum(item.reward or 0.0 for item in episodes) / len(episodes)

    async def train(self) -> list[dict[str, float]]:
        history = []
        for step in range(NUM_STEPS):
            episodes = await self.collect(tasks_for_step(SOUND, 8, step, seed=0), seed=step)
            if self.config.algo.shuffle_rewards:
                episodes = shuffled_rewards(episodes, seed=step)
            metrics = self.learner.step(group_trajectories(episodes, 8))
            history.append(metrics)
            if metrics["optim/steps"]:
                self.policy.update_weights(self.learner.model.state_dict(), self.learner.policy_version)
        return history


async def test_the_pass_rate_rises_and_engine_and_learner_agree() -> None:
    lab = Lab()
    before = await lab.pass_rate()
    history = await lab.train()
    after = await lab.pass_rate()
    assert before < 0.4
    assert after > before + 0.25
    assert max(metrics.get("loss/mean_abs_dlogp", 0.0) for metrics in history) < 1e-3
    assert all(metrics["rollout/invalid_share"] == 0 for metrics in history)


async def test_control_with_learning_rate_zero_nothing_moves() -> None:
    lab = Lab(lr=0.0)
    before = await lab.pass_rate()
    await lab.train()
    assert lab.learner.policy_version > 0
    assert await lab.pass_rate() == before  # equal seeds and equal weights: equal episodes


async def test_control_with_shuffled_rewards_the_pass_rate_does_not_rise() -> None:
    lab = Lab(shuffle=True)
    before = await lab.pass_rate()
    await lab.train()
    assert await lab.pass_rate() < before + 0.1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_base_checkpoint_ships_and_is_small(name: str) -> None:
    assert (BASE_CHECKPOINT / name).is_file()
    assert sum(file.stat().st_size for file in BASE_CHECKPOINT.iterdir()) < 10_000_000
