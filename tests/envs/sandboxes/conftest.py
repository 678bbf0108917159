"""One set of fixtures for both back ends; without an engine, tests/conftest.py leaves docker out."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import docker
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider

BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")
START_PODMAN = Path(__file__).parents[3] / "docker" / "start_podman.sh"
BACKENDS = [pytest.param("local"), pytest.param("docker", marks=pytest.mark.docker)]


PODMAN_TESTS = {
    "test_awkward_content",
    "test_cancelled_command_gives_the_sandbox_up",
    "test_close_during_a_command",
    "test_close_is_idempotent_and_final",
    "test_close_leaves_nothing",
    "test_dead_owner",
    "test_fork_is_an_independent_copy",
    "test_full_disk",
    "test_killed_from_outside_is_lost_and_the_others_live",
    "test_many_at_once",
    "test_missing_folders_and_images",
    "test_network_is_off",
    "test_no_capability_beyond_the_listed",
    "test_round_trip",
    "test_snapshot_starts_new_sandboxes",
    "test_state_persists",
    "test_the_latest_state_wins_whatever_the_times_of_files",
}
"""What Podman could do otherwise than Docker: streams, starts, ends, commits, limits. SWEGYM_PODMAN=all runs all."""


@pytest.fixture(params=[*BACKENDS, pytest.param("podman", marks=pytest.mark.podman)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Podman is the docker back end with another engine, for the test's own processes too."""
    name: str = request.param
    if name == "podman":
        monkeypatch.setenv("DOCKER_HOST", request.getfixturevalue("podman_url"))
        return "docker"
    return name


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what Podman need not repeat."""
    if os.environ.get("SWEGYM_PODMAN") == "all":
        return

    def repeats(item: pytest.Item) -> bool:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        name = getattr(item, "originalname", item.name)
        return parameters.get("backend") == "podman" and name not in PODMAN_TESTS

    config.hook.pytest_deselected(items=[item for item in items if repeats(item)])
    items[:] = [item for item in items if not repeats(item)]


@pytest.fixture(scope="session")
def podman_url() -> Iterator[str]:
    """Address of a Podman that holds the base image: SWEGYM_PODMAN_SOCKET's, else one with a storage of its own."""
    if socket := os.environ.get("SWEGYM_PODMAN_SOCKET"):
        yield f"unix://{socket}"
        return
    folder = Path(tempfile.mkdtemp(prefix="swegym-podman-"))  # short, since a socket's path may not be long
    try:
        done = subprocess.run([START_PODMAN, folder], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        with docker.APIClient() as source, docker.APIClient(done.stdout.strip(), timeout=120) as target:
            target.load_image(source.get_image(BASE_IMAGE))
        yield done.stdout.strip()
    finally:
        subprocess.run([START_PODMAN, folder, "--stop"], check=True, timeout=120)
        shutil.rmtree(folder)


@pytest.fixture
def base_image() -> str:
    return BASE_IMAGE


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "package").mkdir()
    (folder / "package" / "module.py").write_text("def double(x):\n    return 2 * x\n")
    (folder / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("package/module.py")
    return folder


@pytest.fixture
async def provider(backend: str, tmp_path: Path) -> AsyncIterator[SandboxProvider]:
    made = make_provider(backend, base_image=BASE_IMAGE, temp_folder=str(tmp_path / "sandboxes"))
    yield made
    await made.close()


@pytest.fixture
def spec(workspace: Path) -> SandboxSpec:
    return SandboxSpec(image="contract-suite", workspace=str(workspace))


@pytest.fixture
async def sandbox(provider: SandboxProvider, spec: SandboxSpec) -> Sandbox:
    return await provider.create(spec)


# What the escape suites attack: one sandbox for a whole module, since no attack should be able to change anything.


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def jailer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    folder = tmp_path_factory.mktemp("jail")
    made = make_provider(request.param, base_image=BASE_IMAGE, temp_folder=str(folder))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def jail_spec(workspace: Path) -> SandboxSpec:
    return SandboxSpec(image="contract-suite", workspace=str(workspace))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def jail(jailer: SandboxProvider, jail_spec: SandboxSpec) -> Sandbox:
    return await jailer.create(jail_spec)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def neighbour(jailer: SandboxProvider, jail_spec: SandboxSpec) -> Sandbox:
    """A second sandbox, alive while the first is attacked from."""
    return await jailer.create(jail_spec)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"
