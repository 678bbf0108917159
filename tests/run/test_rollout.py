import asyncio
from pathlib import Path
from typing import Any

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.errors import ConfigError, SandboxError, SandboxLost, TaskError, UnknownName
from swegym.core.outcome import Validity
from swegym.core.store import EpisodeStore
from swegym.core.task import Task
from swegym.core.trajectory import Trajectory
from swegym.run.regrade import regrade
from swegym.run.rollout import rollout
from swegym.run.statistics import trajectory_statistics

TESTS = {"tests": 1.0}


def agent_for(script: dict[str, list[str]] | None = None) -> Any:
    """An agent by task id; the default says one thing and submits the good patch."""

    def make(task: Task) -> ForagerAgent:
        bodies = (script or {}).get(task.task_id, ["hello"])
        texts = [f"<tool: bash>\n{body}\n</tool>" for body in bodies]
        return ForagerAgent(ScriptedPolicy([*texts, "<tool: submit>\ngood\n</tool>"]))

    return make


async def test_groups_order_and_bounds(echo_env: Any, grader: Any, make_task: Any, tmp_path: Path) -> None:
    tasks = [make_task(f"t-{index}") for index in range(5)]
    store = EpisodeStore(tmp_path)
    seen: list[Trajectory] = []
    found = await rollout(
        iter(tasks), echo_env, agent_for(), grader, TESTS, group_size=3, concurrency=4, store=store,
        on_trajectory=seen.append, seed=7,
    )  # fmt: skip
    assert [item.task_id for item in found] == [task.task_id for task in tasks for _ in range(3)]
    assert {item.reward for item in found} == {1.0}
    groups = {item.group_id: item.task_id for item in found}
    assert len(groups) == 5
    assert len({item.seed for item in found}) == 15
    assert (echo_env.made, echo_env.closed, echo_env.running) == (4, 4, 0)  # one env per slot, used again
    assert echo_env.peak == 4
    assert grader.peak <= 4
    assert sorted(item.episode_id for item in seen) == sorted(store.ids()) == sorted(item.episode_id for item in found)


async def test_seeds_and_groups_follow_from_the_seed(echo_env: Any, grader: Any, make_task: Any) -> None:
    tasks = [make_task("a"), make_task("b"), make_task("a")]

    async def ids(seed: int, concurrency: int) -> list[tuple[str, int | None]]:
        found = await rollout(
            tasks, echo_env, agent_for(), grader, TESTS, group_size=2, concurrency=concurrency, seed=seed
        )
        return [(item.group_id, item.seed) for item in found]

    assert await ids(1, 1) == await ids(1, 5)
    assert await ids(1, 1) != await ids(2, 1)
    assert len({group for group, _ in await ids(1, 2)}) == 3  # a task given twice makes two groups
    whole = await ids(1, 2)
    tasks = tasks[1:]  # a share of the tasks gives what it gives among all of them
    assert await ids(1, 2) == [*whole[2:4], *whole[:2]]


async def test_one_failing_episode_stops_nothing_and_its_cause_is_logged(
    echo_env: Any, faults: Any, grader: Any, make_task: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 24."""
    faults |= {"t-1": SandboxLost("gone"), "bug": ZeroDivisionError("a bug"), "t-3": TaskError("no tests")}
    tasks = [make_task(f"t-{index}") for index in range(6)]
    found = await rollout(
        tasks, echo_env, agent_for({"t-2": ["bug"]}), grader, TESTS, group_size=2, concurrency=3, num_retries=0
    )
    validity = [item.validity.value for item in found[::2]]
    assert validity == ["valid", "infrastructure", "infrastructure", "task", "valid", "valid"]
    assert found[4].end_reason == "error:ZeroDivisionError"
    assert found[4].validity_reason == "ZeroDivisionError: a bug"
    assert found[4].group_id == found[5].group_id != ""
    assert {item.reward for item in found if item.validity is Validity.VALID} == {1.0}
    assert {item.reward for item in found if item.validity is not Validity.VALID} == {None}
    assert [record.exc_info is not None for record in caplog.records if "t-2 failed" in record.message] == [True]
    assert (echo_env.made, echo_env.running) == (echo_env.closed, 0)
    statistics = trajectory_statistics(found)
    assert (statistics.num_valid, statistics.invalid_share) == (6, 0.5)
    assert statistics.validity == {"valid": 6, "infrastructure": 4, "task": 2}
    assert statistics.end_reasons == {
        "submitted": 6, "error:SandboxLost": 2, "error:ZeroDivisionError": 2, "error:TaskError": 2,
    }  # fmt: skip
    assert (statistics.mean_turns, statistics.mean_reward, statistics.resolved_share) == (2.0, 1.0, 1.0)


async def test_infrastructure_failures_are_tried_again_in_a_new_env(
    echo_env: Any, faults: Any, grader: Any, make_task: Any
) -> None:
    class Flaky(echo_env):  # type: ignore[misc]
        async def start(self, task: Task, **options: Any) -> Any:
            if type(self).made == 1:
                raise SandboxLost("the first sandbox dies")
            return await super().start(task, **options)

    found = await rollout([make_task()], Flaky, agent_for(), grader, TESTS, num_retries=1)
    assert [item.validity for item in found] == [Validity.VALID]
    assert (Flaky.made, Flaky.closed) == (2, 2)
    faults["t-0"] = TaskError("broken for ever")
    again = await rollout([make_task()], Flaky, agent_for(), grader, TESTS, num_retries=3)
    assert again[0].validity is Validity.TASK
    assert Flaky.made == 3  # a broken task is not tried again


async def test_an_episode_that_hangs_gives_its_slot_back(echo_env: Any, grader: Any, make_task: Any) -> None:
    """Row 25."""
    tasks = [make_task(f"t-{index}", episode_timeout_s=0.3) for index in range(4)]
    found = await rollout(
        tasks, echo_env, agent_for({"t-0": ["sleep"], "t-1": ["sleep"]}), grader, TESTS, concurrency=1
    )
    assert [item.end_reason for item in found] == ["episode_timeout"] * 2 + ["submitted"] * 2


@pytest.mark.parametrize("error", [ConfigError("your key is wrong"), UnknownName("task", "x", [])])
async def test_the_users_mistake_stops_everything_as_one_error(
    echo_env: Any, faults: Any, grader: Any, make_task: Any, error: Exception
) -> None:
    faults["t-2"] = error
    with pytest.raises(type(error), match=str(error)[:12]):
        await rollout([make_task(f"t-{index}") for index in range(9)], echo_env, agent_for(), grader, TESTS)
    assert (echo_env.made, echo_env.running) == (echo_env.closed, 0)


async def test_a_full_disk_stops_the_run_and_closes_the_envs(
    echo_env: Any, grader: Any, make_task: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        await rollout([make_task()], echo_env, agent_for(), grader, TESTS, store=EpisodeStore(tmp_path / "file" / "x"))
    assert (echo_env.made, echo_env.running) == (echo_env.closed, 0)


async def test_cancelling_closes_every_env_and_keeps_what_was_finished(
    echo_env: Any, grader: Any, make_task: Any, tmp_path: Path
) -> None:
    """Row 32."""
    store, first = EpisodeStore(tmp_path), asyncio.Event()
    tasks = [make_task(f"t-{index}") for index in range(4)]
    script = {f"t-{index}": ["sleep"] for index in range(1, 4)}
    running = asyncio.create_task(
        rollout(
            tasks,
            echo_env,
            agent_for(script),
            grader,
            TESTS,
            concurrency=3,
            store=store,
            on_trajectory=lambda _: first.set(),
        )
    )
    await asyncio.wait_for(first.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (echo_env.made, echo_env.closed, echo_env.running) == (3, 3, 0)
    assert [item.task_id for item in store] == ["t-0"]


async def test_episodes_go_on_while_a_grade_is_awaited_but_not_without_bound(
    echo_env: Any, grader: Any, make_task: Any
) -> None:
    grader.gate = asyncio.Event()
    tasks = [make_task(f"t-{index}") for index in range(9)]
    running = asyncio.create_task(rollout(tasks, echo_env, agent_for(), grader, TESTS, concurrency=2))
    for _ in range(200):
        await asyncio.sleep(0)
    assert grader.num_running == 2  # both slots went on, and now wait for the grader
    assert echo_env.peak == 2
    grader.gate.set()
    assert len(await running) == 9


async def test_a_grader_that_fails_makes_the_trajectory_invalid_and_a_regrade_mends_it(
    echo_env: Any, faults: Any, grader: Any, make_task: Any
) -> None:
    task = make_task()
    faults["good"] = SandboxError("no space for the grading sandbox")
    (failed,) = await rollout([task], echo_env, agent_for(), grader, TESTS)
    assert (failed.validity, failed.reward) == (Validity.INFRASTRUCTURE, None)
    assert "no space" in failed.validity_reason
    faults.clear()
    mended = await regrade(failed, task, grader, {"cwm": 2.0})
    assert (mended.validity, mended.reward, mended.rewards) == (Validity.VALID, 2.0, {"cwm.outcome": 1.0})


async def test_without_a_grader_there_is_no_outcome(echo_env: Any, make_task: Any) -> None:
    (found,) = await rollout([make_task()], echo_env, agent_for())
    assert (found.outcome, found.reward, found.submission) == (None, None, "good")


async def test_arguments_are_checked(echo_env: Any, grader: Any, make_task: Any) -> None:
    wrong: tuple[dict[str, Any], ...] = ({"group_size": 0}, {"concurrency": 0}, {"num_retries": -1})
    for options in wrong:
        with pytest.raises(ConfigError, match="at least"):
            await rollout([make_task()], echo_env, agent_for(), grader, TESTS, **options)
    with pytest.raises(ConfigError, match="needs rewards"):
        await rollout([make_task()], echo_env, agent_for(), grader)
    with pytest.raises(UnknownName, match="no reward named 'test'"):
        await rollout([make_task()], echo_env, agent_for(), grader, {"test": 1.0})
    assert await rollout([], echo_env, agent_for(), grader, TESTS) == []


def test_statistics_of_nothing() -> None:
    statistics = trajectory_statistics([])
    assert (statistics.num_trajectories, statistics.invalid_share, statistics.mean_turns) == (0, 0.0, None)


def test_statistics_count_tokens_of_all(make_task: Any) -> None:
    from swegym.core.action import Observation
    from swegym.core.trajectory import TokenContext

    context = TokenContext(
        tokens=(1, 2, 3), source=(0, 1, 1), rollout_logprobs=(0.0, -1.0, -1.0), loss_mask=(0, 1, 1),
        policy_version=(-1, 0, 0),
    )  # fmt: skip
    valid = Trajectory(
        episode_id="a", task_id="t", env_id="v", first_observation=Observation(text=""), contexts=(context,) * 2
    )
    invalid = valid.model_copy(update={"validity": Validity.TASK})
    statistics = trajectory_statistics([valid, invalid])
    assert (statistics.num_agent_tokens, statistics.mean_agent_tokens) == (8, 4.0)
