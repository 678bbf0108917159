import asyncio
from typing import Any

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.errors import PolicyError, PromptTooLong, SandboxLost, TaskError
from swegym.core.outcome import Validity
from swegym.core.policy import PolicyRequest
from swegym.run import episode as episode_module
from swegym.run.episode import run_episode


def bash(body: str) -> str:
    return f"<tool: bash>\n{body}\n</tool>"


def submit(body: str = "") -> str:
    return f"<tool: submit>\n{body}\n</tool>"


def agent(*texts: str) -> ForagerAgent:
    return ForagerAgent(ScriptedPolicy(texts))


async def test_a_submitted_episode(echo_env: Any, make_task: Any) -> None:
    task = make_task()
    trajectory = await run_episode(task, echo_env(), agent(bash("ls"), "talk", submit("good")), seed=3, group_id="g")
    assert (trajectory.terminated, trajectory.truncated, trajectory.end_reason) == (True, False, "submitted")
    assert (trajectory.submission, trajectory.seed, trajectory.group_id) == ("good", 3, "g")
    assert (trajectory.task_fingerprint, trajectory.sandbox) == (task.fingerprint, "none")
    assert (trajectory.policy, trajectory.agent, trajectory.env_id) == ("scripted", "forager", "test/Echo-v0")
    assert [turn.index for turn in trajectory.turns] == [0, 1, 2]
    assert trajectory.turns[0].env_duration_s == 0.25
    assert trajectory.turns[1].action is None
    assert trajectory.turns[1].observation is not None
    assert trajectory.turns[1].observation.text == trajectory.turns[1].format_error != ""
    assert trajectory.first_observation.text == "statement of t-0"
    assert trajectory.outcome is None
    assert trajectory.validity is Validity.VALID


async def test_the_turn_limit_truncates(echo_env: Any, make_task: Any) -> None:
    trajectory = await run_episode(make_task(max_turns=2), echo_env(), agent(bash("a"), bash("b"), bash("c")))
    assert (trajectory.terminated, trajectory.truncated, trajectory.end_reason) == (False, True, "turn_limit")
    assert len(trajectory.turns) == 2


async def test_an_action_that_never_ends_is_cut_at_the_episodes_limit(echo_env: Any, make_task: Any) -> None:
    """Row 25."""
    task = make_task(episode_timeout_s=0.2)
    trajectory = await run_episode(task, echo_env(), agent(bash("a"), bash("sleep")))
    assert (trajectory.truncated, trajectory.end_reason, len(trajectory.turns)) == (True, "episode_timeout", 1)
    assert trajectory.validity is Validity.VALID


@pytest.mark.parametrize(
    ("error", "validity"),
    [
        (SandboxLost("gone"), Validity.INFRASTRUCTURE),
        (PolicyError("engine died"), Validity.INFRASTRUCTURE),
        (TaskError("broken"), Validity.TASK),
    ],
)
@pytest.mark.parametrize("where", ["t-0", "boom"])
async def test_failures_are_recorded_and_never_rewarded(
    echo_env: Any, faults: Any, make_task: Any, error: Exception, validity: Validity, where: str
) -> None:
    """Row 26. `t-0` fails at the reset, `boom` at the second action."""
    faults[where] = error
    trajectory = await run_episode(make_task(), echo_env(), agent(bash("a"), bash("boom"), submit()))
    assert trajectory.validity is validity
    assert trajectory.validity_reason == str(error)
    assert trajectory.end_reason == f"error:{type(error).__name__}"
    assert (trajectory.submission, trajectory.reward) == (None, None)
    assert len(trajectory.turns) == (0 if where == "t-0" else 1)


async def test_an_overlong_prompt_is_a_truncation(echo_env: Any, make_task: Any) -> None:
    """Row 34."""

    def script(request: PolicyRequest) -> str:
        if request.turn == 1:
            raise PromptTooLong("4097 > 4096")
        return bash("a")

    trajectory = await run_episode(make_task(), echo_env(), ForagerAgent(ScriptedPolicy(script)))
    assert (trajectory.truncated, trajectory.end_reason) == (True, "context_limit")
    assert (trajectory.validity, trajectory.submission) == (Validity.VALID, "")


async def test_a_fault_of_the_code_propagates(echo_env: Any, faults: Any, make_task: Any) -> None:
    faults["boom"] = TimeoutError("not ours")
    with pytest.raises(TimeoutError, match="not ours"):
        await run_episode(make_task(), echo_env(), agent(bash("boom")))


async def test_a_failed_reset_does_not_carry_the_last_episodes_tokens(
    echo_env: Any, faults: Any, make_task: Any
) -> None:
    from swegym.agents.profiles.short import example_texts
    from swegym.train.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(example_texts(), 300)
    reused = ForagerAgent(ScriptedPolicy([submit()], tokenizer=tokenizer), tokenizer=tokenizer, profile="short")
    env = echo_env()
    assert (await run_episode(make_task(), env, reused)).num_agent_tokens > 0
    faults["t-1"] = SandboxLost("gone")
    assert (await run_episode(make_task("t-1"), env, reused)).contexts == ()


async def test_a_reset_that_hangs_is_an_infrastructure_failure(
    echo_env: Any, make_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(echo_env):  # type: ignore[misc]
        async def start(self, *arguments: Any, **options: Any) -> Any:
            await asyncio.sleep(3600)

    monkeypatch.setattr(episode_module, "START_TIMEOUT_S", 0.05)
    trajectory = await run_episode(make_task(), Hanging(), agent())
    assert (trajectory.validity, trajectory.end_reason) == (Validity.INFRASTRUCTURE, "error:SandboxError")
    assert trajectory.validity_reason == "the reset took longer than 0.05 s"
