"""The example package, used as its README says: on the path and by id; solved by its gold patch, and not without."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from swegym.envs import resolve_task_set

EXAMPLE = Path(__file__).parents[2] / "examples" / "register_env"
ENV_ID = "acme_envs:acme/Slugs-v0"
BACKENDS = ["local", pytest.param("docker", marks=pytest.mark.docker)]
BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the path, as an editable install puts it, and gone afterwards."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield
    sys.modules.pop("acme_envs", None)
    gymnasium.registry.pop("acme/Slugs-v0", None)


def test_registration_takes_less_than_twenty_lines_of_code() -> None:
    lines = (EXAMPLE / "acme_envs" / "__init__.py").read_text().splitlines()
    assert 0 < sum(1 for line in lines if line.strip()) < 20


def test_check_env() -> None:
    env = gymnasium.make(ENV_ID, sandbox="local").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gold_patch_solves_it_and_nothing_does_not(backend: str) -> None:
    gold = (EXAMPLE / "acme_envs" / "gold.patch").read_text()
    env = gymnasium.make(ENV_ID, sandbox=backend, sandbox_options={"base_image": BASE_IMAGE})
    ends = []
    for command in (f"git apply <<'EOF'\n{gold}EOF", "echo '# note' >> slugs/slug.py", "true"):
        env.reset(seed=1)
        observation, *_ = env.step({"tool": "bash", "body": command})
        assert (observation["text"], observation["exit_code"]) == ("", 0)
        _, reward, terminated, _, info = env.step({"tool": "submit", "body": ""})
        ends.append((reward, terminated, info["outcome"].resolved))
    env.close()
    assert ends == [(1.0, True, True), (-1.0, True, False), (-1.0, True, False)]


def test_stated_tests_are_as_stated() -> None:
    """FAIL_TO_PASS fails and PASS_TO_PASS passes at the start, so neither list is empty words."""
    secret = resolve_task_set("acme_envs:task_set").secret("acme-slugs")
    env = gymnasium.make(ENV_ID, sandbox="local")
    env.reset()
    tests = env.step({"tool": "pytest", "body": "-q tests"})[4]["tests"]
    env.close()
    assert {name for name, status in tests.items() if status == "failed"} == set(secret.FAIL_TO_PASS)
    assert {name for name, status in tests.items() if status == "passed"} == set(secret.PASS_TO_PASS)


def test_play_script_ends_with_reward_one() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(EXAMPLE), str(EXAMPLE.parents[1])])}
    program = (EXAMPLE / "play.py").read_text().replace('render_mode="ansi"', 'render_mode="ansi", sandbox="local"')
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert answer.stdout.splitlines()[-1] == "reward 1.0 {'outcome': 1.0}"
    assert "4 passed" in answer.stdout


def test_entry_point_and_package_data_name_what_exists() -> None:
    import tomllib

    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["swegym.tasksets"] == {"acme-slugs": "acme_envs:task_set"}
    for pattern in project["tool"]["setuptools"]["package-data"]["acme_envs"]:
        assert list((EXAMPLE / "acme_envs").glob(pattern))
    commands = re.findall(r"^(?:python|pip install -e) (\S+)$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert all((EXAMPLE.parents[1] / path).exists() for path in commands)
