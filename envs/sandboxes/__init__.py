"""Sandboxes: back ends `docker` and `local` behind one Protocol (`swegym.core.sandbox`)."""

from swegym.envs.sandboxes.config import SandboxConfig
from swegym.envs.sandboxes.detect import resolve_backend
from swegym.envs.sandboxes.providers import make_provider
from swegym.envs.sandboxes.reaper import SandboxRecord, list_sandboxes, reap

__all__ = ["SandboxConfig", "SandboxRecord", "list_sandboxes", "make_provider", "reap", "resolve_backend"]
