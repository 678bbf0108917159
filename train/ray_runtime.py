"""Ray that is quiet and finds this package: one of our own, of which nothing is left afterwards, or one that runs."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swegym.core.errors import ConfigError, DependencyMissing, SwegymError, TrainingError
from swegym.train.capacity import SANDBOX_RESOURCE

__all__ = ["ActorLost", "OWN_RAY", "ray_answer", "ray_runtime", "start_ray", "stop_ray"]

OWN_RAY = "local"
"""The address that means: start one for this run alone."""
OBJECT_STORE_BYTES = 256 * 1024**2
CONNECT_TIMEOUT_S = 10.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}
_PASSED_ON = ("SWEGYM_BASE_IMAGE",)
"""Variables of the driver that workers on other nodes need as well."""


class ActorLost(TrainingError):
    """Raised when an actor's process or node is gone."""


def start_ray(
    num_cpus: int,
    *,
    num_gpus: int = 0,
    num_sandboxes: int = 0,
    address: str = OWN_RAY,
    object_store_bytes: int = OBJECT_STORE_BYTES,
) -> None:
    """Start Ray on this machine for this process alone, or join a cluster.

    Args:
        num_cpus: CPUs that actors may ask for; need not be the machine's number. Like the other numbers it is for a Ray
            of our own: a cluster that is joined has declared its resources already.
        num_gpus: likewise.
        num_sandboxes: units of the resource "sandbox".
        address: "local" starts Ray; "auto", HOST:PORT or ray://HOST:PORT joins the cluster there.
        object_store_bytes: shared memory for what passes between actors; weights of a small model and episodes.

    Raises:
        ConfigError: a number is wrong, Ray already runs in this process, or no cluster answers at the address.
        DependencyMissing: Ray is not installed.
        TrainingError: Ray does not start.
    """
    if num_cpus < 1:
        raise ConfigError(f"num_cpus is {num_cpus}; Ray needs at least 1")
    try:
        import ray
    except ImportError as error:
        raise DependencyMissing(f"Ray cannot be imported ({error}): pip install 'swegym[train]'") from error
    if ray.is_initialized():
        raise ConfigError("Ray already runs in this process: call stop_ray() first")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {}
    if address == OWN_RAY:
        options = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "resources": {SANDBOX_RESOURCE: num_sandboxes} if num_sandboxes else None,
            "object_store_memory": object_store_bytes,
            "include_dashboard": False,
        }
    try:
        _require_listener(address)
        ray.init(
            address=address,
            log_to_driver=False,  # workers' lines stay in Ray's session folder
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _worker_variables()},
            **options,
        )
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        stop_ray()
        raise ConfigError(
            f"ray.address is {address!r}, and no Ray cluster answers there ({str(error).splitlines()[0]}); start one "
            "with `ray start --head`, or leave ray.address at its default to have one started"
        ) from None
    except (OSError, RuntimeError, ValueError) as error:
        stop_ray()
        raise TrainingError(f"Ray does not start: {type(error).__name__}: {error}") from error
    except BaseException:  # Ctrl-C while it starts
        stop_ray()
        raise


def _require_listener(address: str) -> None:
    """Raises ConnectionError: nothing listens there. Ray itself would end this process after most of a minute."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        with socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S):
            pass


def _worker_variables() -> dict[str, str]:
    package = importlib.import_module("swegym")
    root = str(Path(next(iter(package.__path__))).parent)
    search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    # One thread per worker: on few cores more threads are slower, not faster.
    return {"PYTHONPATH": search_path, "OMP_NUM_THREADS": "1", **QUIET, **passed_on}


def stop_ray() -> None:
    """End our own Ray with every actor in it, or leave the cluster, where this run's actors end. Harmless otherwise."""
    import ray

    ray.shutdown()


@contextmanager
def ray_runtime(num_cpus: int, *, num_gpus: int = 0, num_sandboxes: int = 0, address: str = OWN_RAY) -> Iterator[None]:
    """Ray inside a block; it is gone afterwards, whatever ended the block. Arguments as for `start_ray`."""
    start_ray(num_cpus, num_gpus=num_gpus, num_sandboxes=num_sandboxes, address=address)
    try:
        yield
    finally:
        stop_ray()


def ray_answer(calls: Any, timeout_s: float | None = None) -> Any:
    """`ray.get` with our own errors as they were raised and not as Ray wraps them.

    Raises:
        ActorLost: the actor died, or its node.
        TrainingError: it raised something else; the actor's own errors of ours come through.
    """
    import ray

    try:
        return ray.get(calls, timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SwegymError):
            raise error.cause from None
        raise TrainingError(f"{type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.RayActorError as error:
        lines = str(error).strip().splitlines()
        raise ActorLost(f"an actor of the run died: {lines[0]} {lines[-1] if len(lines) > 1 else ''}") from error
    except ray.exceptions.GetTimeoutError as error:
        raise TrainingError(f"an actor of the run did not answer within {timeout_s:g} s") from error
    except ray.exceptions.RayError as error:
        raise TrainingError(f"Ray: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
