"""Which tests can run here: a marker whose facility is absent skips its tests.

`SWEGYM_REQUIRE=docker,podman,vllm,ray` (set by .ci/run) turns such a skip into a failure, so that CI cannot pass by
skipping.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from functools import cache
from importlib.util import find_spec

import pytest

FACILITIES = ("docker", "podman", "vllm", "ray", "gpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy threads on two shared cores are several times slower than one
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:  # by `nohup ... &`: all that we start would ignore it too
        signal.signal(_number, _handler)


def _missing_docker() -> str:
    import docker

    image = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")
    try:
        client = docker.from_env(timeout=5)
        try:
            client.images.get(image)
        finally:
            client.close()
    except docker.errors.ImageNotFound:
        return f"the engine has no image {image}; run `swegym images base`, or set SWEGYM_TEST_IMAGE"
    except (docker.errors.DockerException, OSError) as error:
        return f"no container engine answers ({str(error)[:80]}); run docker/start_engine.sh"
    return ""


def _missing_podman() -> str:
    if os.environ.get("SWEGYM_PODMAN_SOCKET"):
        return ""
    if shutil.which("podman") is None:
        return "no podman on this machine"
    return "" if os.geteuid() == 0 else "starting a Podman for the tests needs root; or set SWEGYM_PODMAN_SOCKET"


def _missing_gpu() -> str:
    if shutil.which("nvidia-smi") is None or subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode != 0:
        return "no NVIDIA GPU"
    return ""


@cache
def missing(facility: str) -> str:
    """Why a facility cannot be used here; empty when it can."""
    if facility == "docker":
        return _missing_docker()
    if facility == "podman":
        return _missing_podman() or missing("docker")  # whose base image it is given
    if facility == "gpu":
        return _missing_gpu()
    return "" if find_spec(facility) else f"the package {facility} is not installed; run make setup"


def required() -> set[str]:
    """Facilities named by SWEGYM_REQUIRE."""
    names = {name for name in os.environ.get("SWEGYM_REQUIRE", "").replace(" ", "").split(",") if name}
    if unknown := names - set(FACILITIES):
        raise pytest.UsageError(f"SWEGYM_REQUIRE names {sorted(unknown)}; known: {list(FACILITIES)}")
    return names


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a misspelt SWEGYM_REQUIRE before anything runs."""
    required()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail where the facility is required."""
    for facility in FACILITIES:
        if item.get_closest_marker(facility) is None or not (reason := missing(facility)):
            continue
        if facility in required():
            pytest.fail(f"SWEGYM_REQUIRE={facility}, but {reason}", pytrace=False)
        pytest.skip(reason)
