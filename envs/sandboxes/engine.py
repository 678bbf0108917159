"""Connections to the container engine: Docker, or Podman through the same API."""

from __future__ import annotations

import os
import time
from typing import Any

from swegym.core.errors import DependencyMissing

__all__ = ["connect", "engine_address", "engine_name", "is_image_missing", "open_client", "remove_container"]

_REMOVAL_TIMEOUT_S = 10.0


def engine_address(engine_url: str | None = None) -> str:
    """Where the engine is looked for: the argument, else DOCKER_HOST, else the default socket."""
    return engine_url or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def open_client(engine_url: str | None, timeout_s: float) -> Any:
    """A docker.APIClient; DOCKER_TLS_VERIFY and DOCKER_CERT_PATH are heeded. Asks the engine for its version.

    Args:
        engine_url: such as unix:///run/podman/podman.sock or tcp://host:2376; None is DOCKER_HOST or the default.
        timeout_s: wall time of one call.

    Raises:
        docker.errors.DockerException, OSError, ValueError: nothing answers there, or it is no address.
    """
    import docker

    environment = {**os.environ, **({"DOCKER_HOST": engine_url} if engine_url else {})}
    return docker.APIClient(timeout=timeout_s, **docker.utils.kwargs_from_env(environment=environment))


def engine_name(version: dict[str, Any]) -> str:
    """Docker | podman, from an engine's answer to `version`."""
    components = [str(part.get("Name", "")).lower() for part in version.get("Components") or []]
    return "podman" if any("podman" in component for component in components) else "docker"


def connect(engine_url: str | None, timeout_s: float) -> Any:
    """As `open_client`, for those who cannot do without an engine. Raises DependencyMissing."""
    import docker

    try:
        return open_client(engine_url, timeout_s)
    except (docker.errors.DockerException, OSError, ValueError) as error:
        raise DependencyMissing(
            f"no container engine answers at {engine_address(engine_url)} ({' '.join(str(error).split())[:200]}); "
            "start Docker (docker/start_engine.sh, or the system's service), point DOCKER_HOST or sandbox.engine_url "
            "at an engine, or use --sandbox local"
        ) from None


def remove_container(client: Any, name: str) -> None:
    """Remove a container with its volumes, whatever it is doing; one that is gone already is fine.

    Raises:
        docker.errors.APIError: the engine does not manage to.
    """
    import docker

    deadline = time.monotonic() + _REMOVAL_TIMEOUT_S
    while True:
        try:
            client.remove_container(name, v=True, force=True)
        except docker.errors.NotFound:
            return  # it was never made, or removed itself
        except docker.errors.APIError as error:
            if error.status_code == 409:  # its removal is in progress
                return
            # Podman fails when the container ends by itself at this very moment.
            if "state improper" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def is_image_missing(error: BaseException) -> bool:
    """Whether an error came about because an image is not there."""
    import docker

    return isinstance(error.__cause__, docker.errors.ImageNotFound)
