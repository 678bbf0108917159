"""Gymnasium's contract, for every registered environment of ours: a new id is covered as soon as it is registered."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings

import gymnasium
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env, data_equivalence

import swegym
from swegym.core.action import AsyncEnv
from swegym.core.registration import SWE_ENV_ENTRY_POINT
from swegym.envs import SweEnv

assert swegym.__version__  # importing it is what registers the ids
ENV_IDS = sorted(
    env_id
    for env_id, spec in gymnasium.registry.items()
    if spec.entry_point == SWE_ENV_ENTRY_POINT and env_id.startswith("swegym/")
)
BACKENDS = ["local", pytest.param("docker", marks=pytest.mark.docker)]
BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


def make(env_id: str, sandbox: str = "local") -> SweEnv:
    env = gymnasium.make(env_id, sandbox=sandbox, sandbox_options={"base_image": BASE_IMAGE}).unwrapped
    assert isinstance(env, SweEnv)
    return env


def test_ids_exist() -> None:
    assert {"swegym/Swe-v0", "swegym/Tiny-v0"} <= set(ENV_IDS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("env_id", ENV_IDS)
def test_check_env(env_id: str, backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    env = make(env_id, sandbox=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_spec_survives_pickle_and_json(env_id: str) -> None:
    spec = gymnasium.spec(env_id)
    for copied in (pickle.loads(pickle.dumps(spec)), EnvSpec.from_json(spec.to_json())):
        env = gymnasium.make(copied, sandbox="local")
        assert env.spec is not None
        assert env.spec.id == env_id
        env.close()


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_order_is_enforced(env_id: str) -> None:
    wrapped = gymnasium.make(env_id, sandbox="local")
    with pytest.raises(ResetNeeded):
        wrapped.step({"tool": "bash", "body": "true"})
    env = make(env_id)
    with pytest.raises(ResetNeeded):
        env.step({"tool": "bash", "body": "true"})
    env.reset(seed=1)
    env.step({"tool": "submit", "body": ""})
    with pytest.raises(ResetNeeded):
        env.step({"tool": "bash", "body": "true"})
    env.reset()
    assert env.step({"tool": "bash", "body": "echo again"})[0]["text"] == "again\n"
    env.close()


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_equal_seeds_give_equal_episodes(env_id: str) -> None:
    actions = [
        {"tool": "bash", "body": "ls -A; git log --format=%H; echo $RANDOM >/dev/null"},
        {"tool": "pytest", "body": "-q"},
        {"tool": "bash", "body": "nonsense"},
        {"tool": "submit", "body": ""},
    ]
    episodes = []
    for _ in range(2):
        env = make(env_id)
        episode: list[object] = [env.reset(seed=11)]
        episode += [env.step(action) for action in actions]  # type: ignore[arg-type]
        env.close()
        episodes.append(episode)
    assert data_equivalence(episodes[0], episodes[1], exact=True)


@pytest.mark.parametrize("env_id", ENV_IDS)
def test_close_is_idempotent_and_an_env_can_be_used_again(env_id: str) -> None:
    env = make(env_id)
    env.close()
    env.reset(seed=3)
    env.close()
    env.close()
    assert env.reset(seed=3)[0]["text"]
    env.close()


def test_vector_env_over_two_episodes() -> None:
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda task=task: gymnasium.make("swegym/Tiny-v0", sandbox="local", task_ids=[task])  # type: ignore[misc]
         for task in ("tiny-lru", "tiny-wrap")]
    )  # fmt: skip
    observations, _ = envs.reset(seed=1)
    assert [("LruCache" in text, "wrap()" in text) for text in observations["text"]] == [(True, False), (False, True)]
    observations, *_ = envs.step(({"tool": "bash", "body": "echo one"}, {"tool": "bash", "body": "echo two; false"}))
    assert observations["text"] == ("one\n", "two\n[exit code 1]")
    assert observations["exit_code"].tolist() == [0, 1]
    envs.close()


def test_it_is_an_async_env() -> None:
    env: AsyncEnv = make("swegym/Tiny-v0")
    assert env.env_id == "swegym/Tiny-v0"


def test_import_is_light() -> None:
    heavy = ["torch", "ray", "vllm", "transformers", "docker", "swegym.envs.swe_env"]
    program = (
        "import sys, swegym, swegym.envs, gymnasium; gymnasium.spec('swegym/Tiny-v0');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")
