"""Providers by name, resolved on first use."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from swegym.core.errors import ConfigError
from swegym.core.registries import sandboxes
from swegym.core.sandbox import SandboxProvider
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.detect import resolve_backend
from swegym.envs.sandboxes.pool import SandboxPool

__all__ = ["make_provider"]

_OWN = {
    "docker": "swegym.envs.sandboxes.docker:DockerProvider",
    "local": "swegym.envs.sandboxes.local:LocalProvider",
}


def make_provider(name: str = "auto", **options: Any) -> SandboxProvider:
    """A back end by name: auto, docker, local, or one that another package registered; pooled if the options say so.

    Args:
        name: what `SandboxConfig.backend` means.
        options: fields of SandboxConfig.

    Raises:
        UnknownName, ConfigError, DependencyMissing.
    """
    for key, path in _OWN.items():
        if key not in sandboxes:
            sandboxes.register(key, path)
    try:
        config = SandboxConfig(**(options | {"backend": name}))
    except ValidationError as error:
        problems = "; ".join(f"sandbox.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(problems) from None
    provider: SandboxProvider = sandboxes.get(resolve_backend(name, config.engine_url))(config)
    if config.warm == 0 and config.max_sandboxes is None:
        return provider
    return SandboxPool(
        provider,
        warm=config.warm,
        max_warm=config.max_warm,
        warm_idle_s=config.warm_idle_s,
        max_sandboxes=config.max_sandboxes,
        max_wait_s=config.max_wait_s,
        num_refills=max(1, config.max_starts // 2),  # the other starts are for those who wait
    )
