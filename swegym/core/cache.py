"""The user's cache folder, and file locks so that two processes never make the same thing at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swegym.core.errors import ConfigError

__all__ = ["cache_folder", "locked"]


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache ($XDG_CACHE_HOME/swegym or ~/.cache/swegym), created if absent.

    Raises:
        ConfigError: it cannot be created.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base, "swegym", *parts)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot create the cache folder {path}: {error.strerror}; set XDG_CACHE_HOME") from None
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file beside `path`; it is free again when its holder dies."""
    with path.with_name(path.name + ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
