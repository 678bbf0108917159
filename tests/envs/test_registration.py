"""swegym.register, and the three ways to name a task set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

import swegym
from swegym.core.errors import ConfigError
from swegym.envs import SweEnv

TINY_FOLDER = Path(swegym.__file__).parent / "envs" / "data" / "tiny"


@pytest.fixture
def env_id() -> Iterator[str]:
    yield "test/Registered-v0"
    gymnasium.registry.pop("test/Registered-v0", None)


@pytest.mark.parametrize("taskset", ["tiny", str(TINY_FOLDER), "swegym.envs.tasksets.folder:tiny_task_set"])
def test_a_task_set_by_name_folder_or_attribute(env_id: str, taskset: str) -> None:
    swegym.register(env_id, taskset=taskset, tools=("bash", "submit"), reward="cwm", sandbox="local")
    env = gymnasium.make(env_id).unwrapped
    assert isinstance(env, SweEnv)
    assert (env.env_id, env.taskset.name, list(env.tools)) == (env_id, "tiny", ["bash", "submit"])
    assert env.reset(seed=1)[0] in env.observation_space
    env.close()


def test_registering_reads_nothing_and_making_does(env_id: str) -> None:
    swegym.register(env_id, taskset="acme_no_such_module:task_set")
    with pytest.raises(ConfigError, match="no module named 'acme_no_such_module'"):
        gymnasium.make(env_id)


def test_ids_are_checked(env_id: str) -> None:
    swegym.register(env_id, taskset="tiny")
    with pytest.raises(ConfigError, match="registered already"):
        swegym.register(env_id, taskset="tiny")
    swegym.register(env_id, taskset="tiny", split="heldout", replace=True)
    assert gymnasium.spec(env_id).kwargs["split"] == "heldout"
    with pytest.raises(ConfigError, match="cannot register 'not an id'"):
        swegym.register("not an id", taskset="tiny")


def test_swe_env_is_any_task_set_without_registering() -> None:
    env = gymnasium.make("swegym/Swe-v0", taskset=str(TINY_FOLDER), task_ids=["tiny-lru"], sandbox="local")
    assert env.reset()[1]["task_id"] == "tiny-lru"
    env.close()
