"""The whole way on the tiny task set in local sandboxes: rollout, grade, store, read, replay, evaluate."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.oracle import OraclePolicy
from swegym.agents.policies.replay import ReplayPolicy
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.agents.profiles.short import SUBMIT_TEXT
from swegym.core.sandbox import SandboxProvider
from swegym.core.store import EpisodeStore
from swegym.core.task import Task, TaskSet
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.swe_env import SweEnv
from swegym.envs.tasksets import resolve_task_set
from swegym.run.evaluate import evaluate
from swegym.run.replay import reexecute
from swegym.run.rollout import rollout

REWARDS = {"tests": 1.0, "cwm": 0.5}


@pytest.fixture
async def provider() -> AsyncIterator[SandboxProvider]:
    made = make_provider("local")
    yield made
    await made.close()


@pytest.fixture
def taskset() -> TaskSet:
    return resolve_task_set("tiny")


@pytest.fixture
async def grader(provider: SandboxProvider, taskset: TaskSet) -> AsyncIterator[SweGrader]:
    made = SweGrader(provider, taskset)
    yield made
    await made.close()


def env_maker(provider: SandboxProvider, taskset: TaskSet):  # type: ignore[no-untyped-def]
    return lambda: SweEnv(taskset=taskset, sandbox=provider, grade="deferred")


async def test_the_oracle_resolves_every_task_and_its_record_replays(
    provider: SandboxProvider, taskset: TaskSet, grader: SweGrader, tmp_path: Path
) -> None:
    make_env = env_maker(provider, taskset)
    store = EpisodeStore(tmp_path)

    def oracle(task: Task) -> ForagerAgent:
        return ForagerAgent(OraclePolicy(taskset.secret(task.task_id).patch))

    await rollout(taskset, make_env, oracle, grader, REWARDS, concurrency=2, store=store)
    store.close()
    records = list(EpisodeStore(tmp_path, create=False))
    assert sorted(item.task_id for item in records) == sorted(taskset.ids())
    assert [(item.reward, item.end_reason) for item in records] == [(1.5, "submitted")] * len(records)
    env = make_env()
    for record in records:
        report = await reexecute(record, taskset.get(record.task_id), env, grader)
        assert report.lines() == []
        assert report.outcome is not None
    record, task = records[0], taskset.get(records[0].task_id)
    first = record.turns[0]
    assert first.action is not None
    no_patch = first.model_copy(update={"action": first.action.model_copy(update={"body": "echo surprise; exit 3"})})
    report = await reexecute(record.model_copy(update={"turns": (no_patch, *record.turns[1:])}), task, env, grader)
    await env.aclose()
    found = "\n".join(report.lines())
    assert "turn 0: text differs" in found
    assert "turn 0: exit_code: recorded 0, now 3" in found
    assert "end: submission differs" in found
    assert "outcome: resolved: recorded True, now False" in found


async def test_doing_nothing_resolves_nothing(provider: SandboxProvider, taskset: TaskSet, grader: SweGrader) -> None:
    """Row 48."""
    report = await evaluate(
        taskset,
        env_maker(provider, taskset),
        lambda _: ForagerAgent(ScriptedPolicy([SUBMIT_TEXT])),
        grader,
        samples_per_task=2,
        k=(1, 2),
        rewards=REWARDS,
    )
    assert report.pass_at_k == {1: 0.0, 2: 0.0}
    assert report.num_tasks == len(taskset)
    assert report.statistics.invalid_share == 0.0
    assert report.statistics.mean_reward == -0.5


async def test_a_recorded_policy_does_the_same_again(
    provider: SandboxProvider, taskset: TaskSet, grader: SweGrader
) -> None:
    make_env, task = env_maker(provider, taskset), next(iter(taskset))
    texts = ["<tool: bash>\nls\n</tool>", "only words", "<tool: nothing>\nx\n</tool>", SUBMIT_TEXT]
    (first,) = await rollout([task], make_env, lambda _: ForagerAgent(ScriptedPolicy(texts)), grader, REWARDS)
    (second,) = await rollout([task], make_env, lambda _: ForagerAgent(ReplayPolicy(first)), grader, REWARDS)
    assert [turn.observation for turn in first.turns] == [turn.observation for turn in second.turns]
    assert [turn.text for turn in second.turns] == texts
    assert first.turns[1].format_error
    assert first.reward == second.reward == -0.5
