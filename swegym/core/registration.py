"""Registering environments: one call makes a task set a Gymnasium id."""

from __future__ import annotations

from typing import Any

import gymnasium

from swegym.core.errors import ConfigError

__all__ = ["SWE_ENV_ENTRY_POINT", "register"]

SWE_ENV_ENTRY_POINT = "swegym.envs.swe_env:SweEnv"


def register(env_id: str, *, taskset: str, replace: bool = False, **options: Any) -> None:
    """Make `gymnasium.make(env_id)` an environment over a task set.

    Args:
        env_id: Gymnasium id such as `acme/Fix-v0`.
        taskset: name of a registered task set, a task set's folder, or "module:attr" of a TaskSet or of a function
            that returns one.
        replace: allow an id that is registered already.
        **options: keyword arguments of `swegym.envs.SweEnv`, for example `tools`, `sandbox`, `grade`.

    Raises:
        ConfigError: the id is malformed or taken.
    """
    if env_id in gymnasium.registry and not replace:
        raise ConfigError(f"environment {env_id!r} is registered already; pass replace=True to replace it")
    if replace:
        gymnasium.registry.pop(env_id, None)  # registering over an id would warn
    try:
        gymnasium.register(
            env_id, entry_point=SWE_ENV_ENTRY_POINT, kwargs={"env_id": env_id, "taskset": taskset, **options}
        )
    except gymnasium.error.Error as error:
        raise ConfigError(f"cannot register {env_id!r}: {error}; an id looks like `name/Env-v0`") from None


# `gymnasium.make("swegym/Swe-v0", taskset=...)` is any task set without registering it first.
for _env_id in ("swegym/Swe-v0", "swegym/Tiny-v0"):
    if _env_id not in gymnasium.registry:
        register(_env_id, taskset="tiny")
