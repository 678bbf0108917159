"""SweEnv's own rules: turns, limits, grading, faults. On the shipped tiny tasks in real local sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from swegym.core.action import ToolCall
from swegym.core.errors import ConfigError, SandboxError, SandboxLost, TaskError, UnknownName
from swegym.core.outcome import Grader, Outcome, Validity
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import Task, TaskLimits
from swegym.envs import SweEnv, make_provider, resolve_task_set
from swegym.envs.tasksets import sandbox_spec

TINY = resolve_task_set("tiny")
CURE = "sed -i '20s/>= width/> width/' tinykit/text.py"


def limited(task_id: str, **limits: float) -> Task:
    task = TINY.get(task_id)
    return task.model_copy(update={"limits": TaskLimits.model_validate(task.limits.model_dump() | limits)})


def bash(command: str) -> ToolCall:
    return ToolCall(tool="bash", body=command)


SUBMIT = ToolCall(tool="submit")


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


# --- beginning --------------------------------------------------------------------------------------------------------


async def test_first_observation_tells_the_public_half_only(env: SweEnv) -> None:
    task = TINY.get("tiny-wrap")
    observation, info = await env.start(task)
    assert observation.text == task.statement
    assert [spec.name for spec in observation.tools] == ["bash", "edit", "create", "pytest", "submit"]
    assert observation.hints == task.payload.hints
    assert observation.remaining_turns == 32
    assert info["sandbox"] == "local"
    secret = TINY.secret("tiny-wrap")
    cured_line = next(line[1:] for line in secret.patch.splitlines() if line.startswith("+ "))
    assert cured_line not in str((observation, info))


async def test_start_removes_the_last_sandbox(env: SweEnv, provider: SandboxProvider, tmp_path: Path) -> None:
    for _ in range(3):
        await env.start(TINY.get("tiny-lru"))
        assert len(list(tmp_path.glob("swegym-*"))) == 1
    await env.aclose()
    await env.aclose()
    assert list(tmp_path.glob("swegym-*")) == []
    await (
        await provider.create(sandbox_spec(TINY.get("tiny-lru"), TINY))
    ).close()  # a provider that was given stays open


async def test_a_broken_task_leaves_no_sandbox(env: SweEnv, tmp_path: Path) -> None:
    task = TINY.get("tiny-lru")
    broken = task.model_copy(update={"payload": task.payload.model_copy(update={"setup_commands": ("exit 3",)})})
    with pytest.raises(TaskError, match="set-up command"):
        await env.start(broken)
    assert list(tmp_path.glob("swegym-*")) == []
    assert await env.submission() is None


def test_drawn_tasks_follow_the_seed_and_the_selection() -> None:
    env = SweEnv(sandbox="local")
    drawn = [[env.reset(seed=seed)[1]["task_id"] for seed in (4, *[None] * 9)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"tiny-lru", "tiny-merge", "tiny-wrap"}
    assert env.reset(options={"task_id": "tiny-wrap"})[1]["task_id"] == "tiny-wrap"
    env.close()
    heldout = SweEnv(sandbox="local", split="heldout")
    assert {heldout.reset(seed=seed)[1]["task_id"] for seed in range(4)} == {"tiny-lru"}
    heldout.close()


# --- turns ------------------------------------------------------------------------------------------------------------


async def test_malformed_actions_and_bad_calls_spend_turns(env: SweEnv) -> None:
    await env.start(limited("tiny-lru", max_turns=9))
    answers = [
        await env.act(None, error="no tool call found"),
        await env.act(ToolCall(tool="shell", body="ls")),
        await env.act(ToolCall(tool="bash", body=" \n")),
        await env.act(ToolCall(tool="pytest")),
        await env.act(bash("echo \ud800")),
        await env.act(bash("echo fine")),
    ]
    assert answers[0].observation.text == "no tool call found"
    assert answers[1].observation.text == "There is no tool 'shell'. The tools are: bash, edit, create, pytest, submit."
    assert answers[2].observation.text.startswith("bash: the body is empty. It must be: The commands")
    assert answers[3].observation.text.startswith("pytest: the body is empty")
    assert "lone surrogate" in answers[4].observation.text
    assert answers[5].observation.text == "fine\n"
    assert [answer.observation.remaining_turns for answer in answers] == [8, 7, 6, 5, 4, 3]
    assert not any(answer.terminated or answer.truncated for answer in answers)


async def test_turn_limit_truncates_and_the_work_is_still_taken(provider: SandboxProvider) -> None:
    """swe-failures A22: no patch was produced when the limit was hit."""
    env = SweEnv(sandbox=provider, grade="deferred")
    await env.start(limited("tiny-wrap", max_turns=2))
    first = await env.act(bash(CURE))
    second = await env.act(None, error="?")
    assert (first.truncated, second.truncated, second.terminated) == (False, True, False)
    assert second.info["end_reason"] == "turn_limit"
    assert second.observation.remaining_turns == 0
    patch = await env.submission()
    assert patch is not None
    assert "+        if line and len(line) + 1 + len(word) > width:\n" in patch
    await env.aclose()


async def test_submit_in_the_last_turn_terminates(env: SweEnv) -> None:
    await env.start(limited("tiny-wrap", max_turns=1))
    result = await env.act(SUBMIT)
    assert (result.terminated, result.truncated, result.info["end_reason"]) == (True, False, "submitted")


async def test_no_command_outlives_the_episode(provider: SandboxProvider) -> None:
    env = SweEnv(sandbox=provider, grade="deferred")
    await env.start(limited("tiny-lru", episode_timeout_s=1.5))
    result = await env.act(bash("echo begun; sleep 100"))
    assert (result.truncated, result.info["end_reason"]) == (True, "episode_timeout")
    assert result.observation.text.startswith("begun\n[killed: time limit")
    assert await env.submission() == ""
    await env.aclose()


# --- grading ----------------------------------------------------------------------------------------------------------


async def test_inline_reward_of_the_gold_patch_and_of_nothing(env: SweEnv) -> None:
    for task_id in TINY.ids():
        await env.start(TINY.get(task_id))
        gold = TINY.secret(task_id).patch
        applied = await env.act(bash(f"git apply <<'EOF'\n{gold}EOF"))
        assert applied.observation.exit_code == 0
        result = await env.act(SUBMIT)
        assert (result.reward, result.terminated) == (1.0, True)
        assert result.info["outcome"].resolved
        assert result.info["patch"] == await env.submission() != ""
        await env.start(TINY.get(task_id))
        result = await env.act(SUBMIT)
        assert (result.reward, result.terminated, result.info["patch"]) == (0.0, True, "")
        assert result.info["outcome"].reason == "empty_patch"


async def test_inline_grading_of_a_patch_file_and_of_a_truncated_episode(env: SweEnv) -> None:
    await env.start(TINY.get("tiny-wrap"))
    await env.act(bash(f"{CURE}; git diff > /tmp/out.patch; git checkout -q ."))
    result = await env.act(ToolCall(tool="submit", body="/tmp/out.patch"))
    assert result.reward == 1.0
    await env.start(limited("tiny-wrap", max_turns=1))
    result = await env.act(bash(CURE))
    assert (result.truncated, result.info["outcome"].resolved) == (True, True)


async def test_the_agents_own_commits_and_moved_refs_do_not_hide_its_work(env: SweEnv) -> None:
    await env.start(TINY.get("tiny-wrap"))
    await env.act(bash(f"{CURE}; git add -A; git commit -qm mine; git update-ref refs/swegym/start HEAD"))
    assert (await env.act(SUBMIT)).reward == 1.0


async def test_reward_by_name(provider: SandboxProvider) -> None:
    env = SweEnv(sandbox=provider, reward="cwm")
    await env.start(TINY.get("tiny-wrap"))
    result = await env.act(SUBMIT)
    assert (result.reward, result.info["rewards"]) == (-1.0, {"outcome": -1.0})
    await env.aclose()


async def test_deferred_grading_gives_no_reward_and_hands_the_patch_over(provider: SandboxProvider) -> None:
    env = SweEnv(sandbox=provider, grade="deferred")
    await env.start(TINY.get("tiny-wrap"))
    assert await env.submission() == ""
    await env.act(bash(CURE))
    result = await env.act(SUBMIT)
    assert (result.reward, "outcome" in result.info) == (0.0, False)
    assert result.info["patch"] == await env.submission()
    await env.aclose()
    assert await env.submission() is None


class BrokenGrader:
    """A grader whose own sandboxes never start."""

    name = "broken"

    def __init__(self, validity: Validity) -> None:
        self.validity = validity
        self.is_closed = False

    async def grade(self, task: Task, patch: str) -> Outcome:
        return Outcome(task_id=task.task_id, resolved=False, validity=self.validity, reason="sandbox_failed")

    async def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("validity", "error"),
    [(Validity.INFRASTRUCTURE, SandboxError), (Validity.GRADER, SandboxError), (Validity.TASK, TaskError)],
)
async def test_a_failed_grading_is_never_a_reward(
    provider: SandboxProvider, validity: Validity, error: type[Exception]
) -> None:
    grader = BrokenGrader(validity)
    checked: Grader = grader
    env = SweEnv(sandbox=provider, grader=checked)
    await env.start(TINY.get("tiny-lru"))
    with pytest.raises(error, match="could not be graded"):
        await env.act(SUBMIT)
    await env.aclose()
    assert not grader.is_closed  # one that was given stays the caller's


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.chaos
async def test_a_dead_sandbox_is_lost_and_no_result(env: SweEnv, provider: SandboxProvider) -> None:
    """rl-failures 137: an episode went on in a dead sandbox and counted as a failure of the agent."""
    await env.start(TINY.get("tiny-lru"))
    await provider.close()
    with pytest.raises(SandboxLost):
        await env.act(bash("true"))
    with pytest.raises(SandboxLost):
        await env.submission()


async def test_killing_the_shell_is_survived(env: SweEnv) -> None:
    await env.start(TINY.get("tiny-lru"))
    result = await env.act(bash("kill -9 $$"))
    assert "[the shell ended and was started again]" in result.observation.text
    assert (await env.act(bash("basename $PWD"))).observation.text == "testbed\n"


async def test_many_episodes_share_one_loop(provider: SandboxProvider) -> None:
    envs = [SweEnv(sandbox=provider, grade="deferred") for _ in range(12)]

    async def episode(number: int, env: SweEnv) -> str:
        await env.start(TINY.get(TINY.ids()[number % 3]))
        await env.act(bash(f"echo {number} > new.txt"))
        await env.act(SUBMIT)
        patch = await env.submission()
        await env.aclose()
        return patch or ""

    patches = await asyncio.gather(*(episode(number, env) for number, env in enumerate(envs)))
    assert [f"+{number}\n" in patch for number, patch in enumerate(patches)] == [True] * 12


# --- the synchronous facade -------------------------------------------------------------------------------------------


@pytest.fixture
def wrapped() -> Iterator[Any]:
    made = gymnasium.make("swegym/Tiny-v0", sandbox="local", render_mode="ansi")
    yield made
    made.close()


def test_observation_fields_and_transcript(wrapped: Any) -> None:
    wrapped.reset(options={"task_id": "tiny-wrap"})
    observation, *_, info = wrapped.step({"tool": "bash", "body": "head -c 40000 /dev/zero | tr '\\0' x; exit 7"})
    assert observation["exit_code"] == 7
    assert observation["truncated_bytes"] == 40_000 - 32_768
    assert observation["remaining_turns"] == 31
    assert observation in wrapped.observation_space
    assert "duration_s" not in info
    result = wrapped.unwrapped.last_result
    assert result.info["duration_s"] > 0
    wrapped.step(ToolCall(tool="submit"))
    transcript = wrapped.render()
    assert isinstance(transcript, str)
    for part in (
        "task tiny-wrap",
        "wrap() in tinykit/text.py",
        "[1] bash: head",
        "[2] submit:",
        "terminated: submitted",
    ):
        assert part in transcript


@pytest.mark.parametrize(
    "action", [None, "ls", {"tool": "bash"} | {"extra": ""}, {"tool": 1, "body": ""}, {"body": ""}]
)
def test_what_is_no_tool_call_is_refused(action: object) -> None:
    env = SweEnv(sandbox="local")
    with pytest.raises(ConfigError, match="an action is"):
        env.step(action)  # type: ignore[arg-type]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UnknownName, match="no tool named 'bsh'; did you mean bash"):
        SweEnv(tools=("bsh",))
    with pytest.raises(UnknownName, match="no task set named 'tinny'; did you mean tiny"):
        SweEnv(taskset="tinny")
    with pytest.raises(UnknownName, match="no reward named 'test'"):
        SweEnv(reward="test")
    with pytest.raises(UnknownName, match="no-such"):
        SweEnv(task_ids=["no-such"])
    with pytest.raises(ConfigError, match="no tasks in split 'test'"):
        SweEnv(split="test")
    with pytest.raises(ConfigError, match="grade must be"):
        SweEnv(grade="later")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"sandbox\.base_imag: Extra inputs"):
        SweEnv(sandbox="local", sandbox_options={"base_imag": "x"}).reset()
    with pytest.raises(ConfigError, match="render_mode"):
        SweEnv(render_mode="human")
    with pytest.raises(ConfigError, match=r"unknown reset options \['task'\]"):
        SweEnv(sandbox="local").reset(options={"task": "tiny-lru"})
    with pytest.raises(UnknownName):
        SweEnv(sandbox="podmann").reset()
