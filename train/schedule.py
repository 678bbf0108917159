"""Which tasks a step trains on: a pure function of the seed and the step, so a resumed run goes on where it stopped."""

from __future__ import annotations

import random
from collections.abc import Sequence

from swegym.core.errors import ConfigError
from swegym.core.seeding import derive_seed

__all__ = ["tasks_for_step"]


def tasks_for_step(task_ids: Sequence[str], tasks_per_step: int, step: int, seed: int) -> list[str]:
    """Ids for step `step` (the first is 0).

    Each epoch is a new permutation, cut into whole steps; what is left over at its end waits for the next epoch, so no
    step holds a task twice.

    Raises:
        ConfigError: there are fewer tasks than a step needs.
    """
    if len(task_ids) < tasks_per_step:
        raise ConfigError(
            f"algo.tasks_per_step is {tasks_per_step} but the training split has {len(task_ids)} tasks; "
            "lower it or build more tasks"
        )
    epoch, index = divmod(step, len(task_ids) // tasks_per_step)
    order = list(task_ids)
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return order[index * tasks_per_step : (index + 1) * tasks_per_step]
