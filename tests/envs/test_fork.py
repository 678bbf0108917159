"""SweEnv.fork: both go on from one state, alone, to their own ends. On the tiny tasks in real local sandboxes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from swegym.core.action import ForkableEnv, ToolCall
from swegym.core.errors import ConfigError, SandboxLost
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import Task, TaskLimits
from swegym.envs import SweEnv, make_provider, resolve_task_set
from swegym.envs.tasksets import sandbox_spec

TINY = resolve_task_set("tiny")
CURE = "sed -i '20s/>= width/> width/' tinykit/text.py"
SUBMIT = ToolCall(tool="submit")
BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


def bash(command: str) -> ToolCall:
    return ToolCall(tool="bash", body=command)


def limited(**limits: float) -> Task:
    task = TINY.get("tiny-wrap")
    return task.model_copy(update={"limits": TaskLimits.model_validate(task.limits.model_dump() | limits)})


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SandboxProvider]:
    made = make_provider("local", temp_folder=str(tmp_path))
    yield made
    await made.close()


@pytest.fixture
async def env(provider: SandboxProvider) -> AsyncIterator[SweEnv]:
    made = SweEnv(sandbox=provider)
    yield made
    await made.aclose()


@pytest.mark.parametrize("backend", ["local", pytest.param("docker", marks=pytest.mark.docker)])
def test_a_solved_and_an_unsolved_branch_of_one_state(backend: str) -> None:
    """The facade, as a user meets it; the env that made the back end is closed first."""
    options = {"base_image": BASE_IMAGE}
    made = gymnasium.make("swegym/Tiny-v0", sandbox=backend, render_mode="ansi", sandbox_options=options)
    made.reset(seed=3, options={"task_id": "tiny-wrap"})
    trunk = made.unwrapped
    assert isinstance(trunk, SweEnv)
    trunk.step(bash("cd tinykit; export X=5; echo '# note' >> text.py"))
    solved, unsolved = trunk.fork(), trunk.fork()
    assert solved.step(bash("echo $X ${PWD##*/}"))[0]["text"] == "5 tinykit\n"
    solved.step(bash(f"cd ..; {CURE}"))
    assert trunk.step(bash("git diff --stat | tail -1"))[0]["text"] == " 1 file changed, 1 insertion(+)\n"
    made.close()
    _, reward, terminated, _, info = solved.step(SUBMIT)
    assert (reward, terminated) == (1.0, True)
    assert "+# note" in info["patch"]
    assert unsolved.step(SUBMIT)[1] < 1.0
    transcript = unsolved.render()
    assert transcript is not None
    assert "[1] bash: cd tinykit" in transcript
    assert "[2] submit" in transcript
    assert CURE not in transcript
    solved.close()
    assert unsolved.reset()[0]["text"]  # a fork is an env like any other
    unsolved.close()


async def test_the_budget_goes_on(env: SweEnv, provider: SandboxProvider) -> None:
    await env.start(limited(max_turns=3, episode_timeout_s=30.0))
    await env.act(bash("true"))
    await asyncio.sleep(1.0)
    fork = await env.afork()
    checked: ForkableEnv = fork
    assert checked.env_id == env.env_id
    assert fork.last_result == env.last_result
    assert env._episode is not None
    assert fork._episode is not None
    spent_s = env._episode.budget.remaining_s - fork._episode.budget.remaining_s
    assert -0.5 < spent_s < 0.0  # the second before is counted in both, the fork itself in the origin only
    assert fork._episode.budget.remaining_s < 27.5
    assert [(await fork.act(bash("true"))).observation.remaining_turns for _ in range(2)] == [1, 0]
    assert (await env.act(bash("true"))).observation.remaining_turns == 1
    with pytest.raises(ResetNeeded):
        await fork.act(bash("true"))
    await fork.aclose()


async def test_nothing_to_fork(env: SweEnv) -> None:
    with pytest.raises(ResetNeeded, match="nothing to fork; call reset"):
        await env.afork()
    await env.start(TINY.get("tiny-wrap"))
    await env.act(SUBMIT)
    with pytest.raises(ResetNeeded):
        await env.afork()
    await env.aclose()
    with pytest.raises(ResetNeeded):
        await env.afork()


async def test_a_fork_during_an_action_is_refused(env: SweEnv, tmp_path: Path) -> None:
    await env.start(TINY.get("tiny-wrap"))
    acting = asyncio.create_task(env.act(bash("sleep 0.5; echo done")))
    await asyncio.sleep(0.1)
    with pytest.raises(ConfigError, match="between two actions"):
        await env.afork()
    assert (await acting).observation.text == "done\n"
    assert len(list(tmp_path.glob("swegym-*"))) == 1


async def test_a_lost_sandbox_cannot_be_forked(env: SweEnv) -> None:
    await env.start(TINY.get("tiny-wrap"))
    assert env._episode is not None
    await env._episode.sandbox.close()
    with pytest.raises(SandboxLost):
        await env.afork()


async def test_eight_forks_of_one_state_and_forks_of_forks(provider: SandboxProvider, tmp_path: Path) -> None:
    env = SweEnv(sandbox=provider, grade="deferred")
    await env.start(TINY.get("tiny-wrap"))
    await env.act(bash("echo trunk > new.txt"))
    forks = await asyncio.gather(*(env.afork() for _ in range(8)))
    await asyncio.gather(*(fork.act(bash(f"echo {number} >> new.txt")) for number, fork in enumerate(forks)))
    leaf = await (await forks[5].afork()).afork()
    await asyncio.gather(*(each.aclose() for each in (env, *forks)))
    await leaf.act(SUBMIT)
    assert (await leaf.submission() or "").endswith("+trunk\n+5\n")
    await leaf.aclose()
    assert len(list(tmp_path.glob("swegym-*"))) == 1  # the fork between is not closed yet
    await (await provider.create(sandbox_spec(TINY.get("tiny-wrap"), TINY))).close()  # one that was given stays open


def test_random_numbers_go_on_alike_and_alone(tmp_path: Path) -> None:
    env = SweEnv(sandbox="local", sandbox_options={"temp_folder": str(tmp_path)})
    env.reset(seed=7)
    fork = env.fork()
    drawn = fork.np_random.integers(1000, size=20)
    assert np.array_equal(env.np_random.integers(1000, size=20), drawn)
    assert fork.np_random_seed == env.np_random_seed == 7
    fork.action_space.seed(1)
    env.action_space.seed(1)
    assert fork.action_space.sample() == env.action_space.sample()
    env.close()
    env.close()
    assert fork.step(bash("echo lives"))[0]["text"] == "lives\n"
    fork.close()
    assert not list(tmp_path.glob("swegym-*"))
