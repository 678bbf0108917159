"""Episodes that go on from a prefix: they share its turns and tokens exactly, and end on their own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from swegym.agents.forager import ForagerAgent, ForagerConfig
from swegym.agents.policies.scripted import ScriptedPolicy, complete_text
from swegym.agents.profiles.short import example_texts
from swegym.core.errors import ConfigError
from swegym.core.policy import Completion, PolicyRequest, Tokenizer
from swegym.core.sandbox import SandboxProvider
from swegym.core.store import EpisodeStore
from swegym.core.task import Task, TaskSet
from swegym.core.trajectory import ParentRef, TokenContext, Trajectory
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.swe_env import SweEnv
from swegym.envs.tasksets import resolve_task_set
from swegym.run.branch import prefix_of
from swegym.run.episode import run_episode
from swegym.run.regrade import regrade
from swegym.train.tokenizer import train_tokenizer

LOOK, CURE = "cat tinykit/text.py | head -30", "sed -i '20s/>= width/> width/' tinykit/text.py"


def bash(body: str) -> str:
    return f"<tool: bash>\n{body}\n</tool>"


SUBMIT = "<tool: submit>\n\n</tool>"


class NoisyPolicy:
    """Says its texts as a sampling engine does: with log-probabilities and versions of its own."""

    name = "noisy"
    uses_tokens = True

    def __init__(self, texts: list[str], tokenizer: Tokenizer, version: int) -> None:
        self._texts, self._tokenizer, self._version = texts, tokenizer, version
        self.requests: list[PolicyRequest] = []

    async def sample(self, request: PolicyRequest) -> Completion:
        self.requests.append(request)
        rng = random.Random(request.turn)
        made = complete_text(self._texts[request.turn], request, self._tokenizer)
        logprobs = tuple(-rng.random() for _ in made.token_ids)
        return replace(made, logprobs=logprobs, policy_versions=(self._version,) * len(made.token_ids))

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(example_texts(), 300)


@pytest.fixture(scope="module")
def taskset() -> TaskSet:
    return resolve_task_set("tiny")


@pytest.fixture
def task(taskset: TaskSet) -> Task:
    return taskset.get("tiny-wrap")


@pytest.fixture
async def provider() -> AsyncIterator[SandboxProvider]:
    made = make_provider("local")
    yield made
    await made.close()


def first(context: TokenContext, count: int) -> list[tuple[Any, ...]]:
    arrays = (context.tokens, context.source, context.rollout_logprobs, context.loss_mask, context.policy_version)
    return [array[:count] for array in arrays]


@pytest.mark.parametrize("profile", ["cwm", "short"])
async def test_branches_share_the_prefix_to_the_last_token(
    provider: SandboxProvider, task: Task, taskset: TaskSet, tokenizer: Tokenizer, profile: str, tmp_path: Any
) -> None:
    def agent(texts: list[str], version: int) -> ForagerAgent:
        return ForagerAgent(NoisyPolicy(texts, tokenizer, version), tokenizer=tokenizer, profile=profile)

    think = "all right</think>" if profile == "cwm" else ""
    trunk_texts = [think + bash(LOOK), "no tool at all", think + bash("X=1; echo note > note.txt; false")]
    env = SweEnv(taskset=taskset, sandbox=provider, grade="deferred")
    trunk = await run_episode(task, env, agent(trunk_texts, 3), seed=1, stop_after=3)
    assert (trunk.end_reason, trunk.terminated, trunk.truncated, trunk.submission) == ("paused", False, False, None)
    assert [turn.observation is None for turn in trunk.turns] == [False] * 3
    num_shared = len(trunk.contexts[0].tokens)

    stored = Trajectory.model_validate_json(trunk.model_dump_json())
    forks = await asyncio.gather(*(env.afork() for _ in range(3)))
    ends = [[CURE, 'echo "$X" $(cat note.txt)'], ["echo nothing"], []]
    branches = []
    for number, (fork, commands) in enumerate(zip(forks, ends, strict=True)):
        texts = [""] * 3 + [think + bash(command) for command in commands] + [think + SUBMIT]
        branch = await run_episode(task, fork, agent(texts, 4), seed=10 + number, group_id="g", prefix=stored)
        branches.append(branch)
        await fork.aclose()
    await env.aclose()

    assert [len(branch.turns) for branch in branches] == [6, 5, 4]
    for number, branch in enumerate(branches):
        assert branch.turns[:3] == trunk.turns
        assert [turn.index for turn in branch.turns] == list(range(len(branch.turns)))
        assert first(branch.contexts[0], num_shared) == first(trunk.contexts[0], num_shared)
        assert set(branch.contexts[0].policy_version[num_shared:]) - {-1} == {4}
        assert branch.parent == ParentRef(episode_id=trunk.episode_id, turn=3)
        assert (branch.end_reason, branch.terminated, branch.seed, branch.group_id) == (
            "submitted",
            True,
            10 + number,
            "g",
        )
        assert branch.duration_s > trunk.duration_s
        assert branch.first_observation == trunk.first_observation
    assert len({branch.episode_id for branch in (trunk, *branches)}) == 4
    assert branches[0].turns[4].observation is not None
    assert branches[0].turns[4].observation.text == "1 note\n"
    grader = SweGrader(provider, taskset)
    graded = [await regrade(branch, task, grader, {"tests": 1.0}) for branch in branches]
    await grader.close()
    assert [branch.reward for branch in graded] == [1.0, 0.0, 0.0]
    store = EpisodeStore(tmp_path)
    for branch in graded:
        store.append(branch)
    store.close()
    assert sorted(read.model_dump_json() for read in EpisodeStore(tmp_path)) == sorted(
        branch.model_dump_json() for branch in graded
    )


async def test_a_text_policy_sees_one_conversation(provider: SandboxProvider, task: Task, taskset: TaskSet) -> None:
    seen: list[PolicyRequest] = []

    def agent(*texts: str) -> ForagerAgent:
        def script(request: PolicyRequest) -> str:
            seen.append(request)
            return texts[request.turn]

        return ForagerAgent(ScriptedPolicy(script))

    whole = [bash(LOOK), "talk", bash("echo $((6 * 7))"), SUBMIT]
    env = SweEnv(taskset=taskset, sandbox=provider, grade="deferred")
    straight = await run_episode(task, env, agent(*whole), seed=4)
    at_once = seen[:]
    seen.clear()
    trunk = await run_episode(task, env, agent(*whole), seed=4, stop_after=2)
    fork = await env.afork()
    branch = await run_episode(task, fork, agent(*whole), seed=4, prefix=trunk)
    for ours, theirs in zip(seen, at_once, strict=True):
        assert (ours.messages, ours.turn, ours.sampling) == (theirs.messages, theirs.turn, theirs.sampling)
    assert [turn.observation for turn in branch.turns] == [turn.observation for turn in straight.turns]
    await fork.aclose()
    await env.aclose()


async def test_a_recorded_episode_can_be_cut(echo_env: Any, make_task: Any) -> None:
    task, texts = make_task(), [bash("a"), bash("b"), "<tool: submit>\ngood\n</tool>"]
    record = await run_episode(task, echo_env(), ForagerAgent(ScriptedPolicy(texts)))
    prefix = prefix_of(record, 2)
    assert (len(prefix.turns), prefix.terminated, prefix.end_reason, prefix.submission) == (2, False, "paused", None)
    env = echo_env()
    await env.start(task)
    for turn in prefix.turns:
        await env.act(turn.action)
    branch = await run_episode(task, env, ForagerAgent(ScriptedPolicy(texts)), prefix=prefix)
    assert branch.turns[:2] == record.turns[:2]
    assert (branch.turns[2].action, branch.submission) == (record.turns[2].action, "good")
    with pytest.raises(ConfigError, match="no 4 turns"):
        prefix_of(record, 4)


async def test_paused_again_and_an_end_before_the_pause(echo_env: Any, make_task: Any) -> None:
    task, env = make_task(), echo_env()

    def agent() -> ForagerAgent:
        return ForagerAgent(ScriptedPolicy([bash("a"), bash("b"), "<tool: submit>\ngood\n</tool>"]))

    one = await run_episode(task, env, agent(), stop_after=1)
    two = await run_episode(task, env, agent(), prefix=one, stop_after=2)
    assert [len(one.turns), len(two.turns), two.end_reason] == [1, 2, "paused"]
    end = await run_episode(task, env, agent(), prefix=two, stop_after=9)
    assert (len(end.turns), end.end_reason, end.parent) == (
        3,
        "submitted",
        ParentRef(episode_id=two.episode_id, turn=2),
    )


async def test_what_is_no_prefix_is_refused(echo_env: Any, make_task: Any, tokenizer: Tokenizer) -> None:
    task, env = make_task(), echo_env()

    def agent(**options: Any) -> ForagerAgent:
        policy = ScriptedPolicy([bash("a"), SUBMIT], tokenizer=tokenizer)
        return ForagerAgent(policy, tokenizer=tokenizer, profile="short", **options)

    prefix = await run_episode(task, env, agent(), stop_after=1)
    with pytest.raises(ConfigError, match="is of task 't-0'"):
        await run_episode(make_task("t-1"), env, agent(), prefix=prefix)
    with pytest.raises(ConfigError, match="is of task"):
        await run_episode(make_task(max_turns=7), env, agent(), prefix=prefix)
    with pytest.raises(ConfigError, match=r"is over \(submitted\)"):
        await run_episode(task, env, agent(), prefix=await run_episode(task, env, agent()))
    with pytest.raises(ConfigError, match="not those of this agent"):
        await run_episode(
            task, env, ForagerAgent(ScriptedPolicy([], tokenizer=tokenizer), tokenizer=tokenizer), prefix=prefix
        )
    with pytest.raises(ConfigError, match="1 token contexts"):
        await run_episode(task, env, ForagerAgent(ScriptedPolicy([])), prefix=prefix)
    with pytest.raises(ConfigError, match="no observation"):
        bare = prefix.turns[0].model_copy(update={"observation": None})
        await run_episode(task, env, agent(), prefix=prefix.model_copy(update={"turns": (bare,)}))
    full = await run_episode(
        task, env, agent(config=ForagerConfig(max_context_tokens=len(prefix.contexts[0].tokens))), prefix=prefix
    )
    assert full.end_reason == "context_limit"


async def test_the_time_of_the_prefix_counts(echo_env: Any, make_task: Any) -> None:
    task, env = make_task(episode_timeout_s=60.0), echo_env()
    agent = ForagerAgent(ScriptedPolicy([bash("a"), bash("sleep")]))
    prefix = await run_episode(task, env, agent, stop_after=1)
    prefix = prefix.model_copy(update={"duration_s": 59.9})
    branch = await asyncio.wait_for(run_episode(task, env, agent, prefix=prefix), 20)
    assert (branch.truncated, branch.end_reason) == (True, "episode_timeout")
    assert branch.duration_s >= 59.9
