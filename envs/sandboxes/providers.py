"""Providers by name, resolved on first use."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from swegym.core.errors import ConfigError
from swegym.core.registries import sandboxes
from swegym.core.sandbox import SandboxProvider
from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.detect import resolve_backend

__all__ = ["make_provider"]

_OWN = {
    "docker": "swegym.envs.sandboxes.docker:DockerProvider",
    "local": "swegym.envs.sandboxes.local:LocalProvider",
}


def make_provider(name: str = "auto", **options: Any) -> SandboxProvider:
    """A back end by name: auto, docker, local, or one that another package registered.

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
    provider: SandboxProvider = sandboxes.get(resolve_backend(name))(config)
    return provider
