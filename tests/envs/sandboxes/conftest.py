"""One set of fixtures for both back ends; without an engine, tests/conftest.py leaves docker out."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider

BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")
BACKENDS = [pytest.param("local"), pytest.param("docker", marks=pytest.mark.docker)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


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
