"""A local Ray that is quiet, that finds this package, and of which nothing is left afterwards."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swegym.core.errors import ConfigError, DependencyMissing, TrainingError

__all__ = ["ray_runtime", "start_ray", "stop_ray"]

OBJECT_STORE_BYTES = 256 * 1024**2
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


def start_ray(num_cpus: int, *, num_gpus: int = 0, object_store_bytes: int = OBJECT_STORE_BYTES) -> None:
    """Start Ray on this machine, for this process alone.

    Args:
        num_cpus: CPUs that actors may ask for; need not be the machine's number.
        num_gpus: likewise.
        object_store_bytes: shared memory for what passes between actors; weights of a small model and episodes.

    Raises:
        ConfigError: a number is wrong, or Ray already runs in this process.
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
    package = importlib.import_module("swegym")
    root = str(Path(next(iter(package.__path__))).parent)
    search_path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,  # workers' lines stay in Ray's session folder
            logging_level=logging.ERROR,
            # One thread per worker: on few cores more threads are slower, not faster.
            runtime_env={"env_vars": {"PYTHONPATH": search_path, "OMP_NUM_THREADS": "1", **QUIET}},
        )
    except (OSError, RuntimeError, ValueError) as error:
        stop_ray()
        raise TrainingError(f"Ray does not start: {type(error).__name__}: {error}") from error
    except BaseException:  # Ctrl-C while it starts
        stop_ray()
        raise


def stop_ray() -> None:
    """End Ray with every actor in it. Harmless when it does not run."""
    import ray

    ray.shutdown()


@contextmanager
def ray_runtime(num_cpus: int, *, num_gpus: int = 0) -> Iterator[None]:
    """Ray inside a block; it is gone afterwards, whatever ended the block."""
    start_ray(num_cpus, num_gpus=num_gpus)
    try:
        yield
    finally:
        stop_ray()
