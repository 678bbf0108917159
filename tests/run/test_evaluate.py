from itertools import combinations
from math import isclose
from typing import Any

import numpy as np
import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.errors import ConfigError, SandboxLost
from swegym.core.policy import PolicyRequest
from swegym.run.evaluate import bootstrap_mean, evaluate, paired_bootstrap, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(1, 1, 1, 1.0), (1, 0, 1, 0.0), (4, 1, 1, 0.25), (4, 1, 2, 0.5), (5, 2, 3, 0.9), (8, 3, 8, 1.0), (3, 3, 2, 1.0)],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, expected: float) -> None:
    assert isclose(pass_at_k(n, c, k), expected)


def test_pass_at_k_is_the_share_of_draws_with_a_success() -> None:
    n, c = 7, 3
    for k in range(1, n + 1):
        draws = list(combinations(range(n), k))
        assert isclose(pass_at_k(n, c, k), sum(min(draw) < c for draw in draws) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_estimated(n: int, c: int, k: int) -> None:
    with pytest.raises(ConfigError, match="cannot be estimated"):
        pass_at_k(n, c, k)


def test_bootstrap_agrees_with_the_normal_interval_and_its_seed() -> None:
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    interval = bootstrap_mean(list(values), seed=1)
    half = 1.96 * values.std() / 20
    assert isclose(interval.mean, values.mean())
    assert isclose(interval.low, values.mean() - half, abs_tol=0.03)
    assert isclose(interval.high, values.mean() + half, abs_tol=0.03)
    assert interval == bootstrap_mean(list(values), seed=1)
    assert interval != bootstrap_mean(list(values), seed=2)
    flat = bootstrap_mean([0.25] * 3)
    assert (flat.low, flat.mean, flat.high) == (0.25, 0.25, 0.25)
    with pytest.raises(ConfigError, match="no values"):
        bootstrap_mean([])


def test_the_paired_bootstrap_takes_out_what_tasks_have_in_common() -> None:
    rng = np.random.default_rng(3)
    before = {f"t{index}": float(rng.uniform()) for index in range(50)}
    after = {task: value + 0.1 for task, value in before.items()} | {"other": 1.0}
    paired = paired_bootstrap(before, after)
    assert isclose(paired.mean, 0.1)
    assert paired.high - paired.low < 1e-9
    with pytest.raises(ConfigError, match="no task in common"):
        paired_bootstrap({"a": 1.0}, {"b": 1.0})


async def test_evaluate_counts_by_task_and_leaves_invalid_samples_out(
    echo_env: Any, faults: Any, grader: Any, make_task: Any
) -> None:
    """Task t-k is solved in k of its 4 samples; t-9 never starts."""
    count: dict[str, int] = {}

    def make_agent(task: Any) -> ForagerAgent:
        number = count[task.task_id] = count.get(task.task_id, 0) + 1
        is_good = number <= int(task.task_id[2:])

        def script(request: PolicyRequest) -> str:
            return f"<tool: submit>\n{'good' if is_good else 'bad'}\n</tool>"

        return ForagerAgent(ScriptedPolicy(script))

    faults["t-9"] = SandboxLost("gone")
    tasks = [make_task(f"t-{index}") for index in (0, 1, 4, 9)]
    report = await evaluate(tasks, echo_env, make_agent, grader, samples_per_task=4, k=(4, 1, 2), concurrency=3, seed=2)
    assert report.task_pass_rates == {"t-0": 0.0, "t-1": 0.25, "t-4": 1.0}
    assert (report.num_tasks, report.num_tasks_without_result) == (3, 1)
    assert report.pass_rate is not None
    assert isclose(report.pass_rate.mean, 1.25 / 3)
    assert list(report.pass_at_k) == [1, 2, 4]
    assert isclose(report.pass_at_k[1], 1.25 / 3)
    assert isclose(report.pass_at_k[2], 1.5 / 3)
    assert isclose(report.pass_at_k[4], 2 / 3)
    assert (report.statistics.num_trajectories, report.statistics.invalid_share) == (16, 0.25)
    assert report == type(report).model_validate_json(report.model_dump_json())


async def test_evaluate_refuses_k_it_cannot_estimate(echo_env: Any, grader: Any, make_task: Any) -> None:
    for k in ((), (0,), (1, 3)):
        with pytest.raises(ConfigError, match=r"within 1\.\.2"):
            await evaluate([make_task()], echo_env, lambda _: None, grader, samples_per_task=2, k=k)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="no tasks"):
        await evaluate([], echo_env, lambda _: None, grader)  # type: ignore[arg-type, return-value]
