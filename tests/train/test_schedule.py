"""Which tasks a step trains on."""

import pytest

from swegym.core.errors import ConfigError
from swegym.train.schedule import tasks_for_step

IDS = [f"task-{number}" for number in range(7)]


def test_an_epoch_holds_no_task_twice() -> None:
    steps = [tasks_for_step(IDS, 3, step, seed=4) for step in range(2)]  # 7 // 3 steps an epoch
    seen = [task_id for step in steps for task_id in step]
    assert len(seen) == 6 == len(set(seen))
    assert set(seen) <= set(IDS)


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    first = [tasks_for_step(IDS, 3, step, seed=4) for step in range(6)]
    assert first == [tasks_for_step(IDS, 3, step, seed=4) for step in range(6)]
    assert first[0:2] != first[2:4]
    assert first != [tasks_for_step(IDS, 3, step, seed=5) for step in range(6)]


def test_the_step_after_an_epoch_trains_on() -> None:
    assert len(tasks_for_step(IDS, 7, 1, seed=0)) == 7


def test_too_few_tasks_names_the_setting() -> None:
    with pytest.raises(ConfigError, match=r"tasks_per_step is 8 .* 7 tasks"):
        tasks_for_step(IDS, 8, 0, seed=0)
