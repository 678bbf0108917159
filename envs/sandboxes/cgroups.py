"""Control groups for the local back end: limits of a whole sandbox, where this user may make them (root, mostly).

Without them a sandbox only has ulimits, which hold per process, and the one on processes does not hold for root.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from pathlib import Path

from swegym.core.sandbox import SandboxLimits

__all__ = ["ControlGroup"]

_ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("pids", "memory", "cpu")
_PERIOD_US = 100_000


class ControlGroup:
    """Limits on memory, processes and processors of everything that descends from one process."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._events: int | None = None
        """Descriptor of the file that counts kills: it is read after every command."""

    @classmethod
    def create(cls, name: str, limits: SandboxLimits) -> ControlGroup | None:
        """A new group, or None where this user or this kernel cannot make one."""
        group = cls(_folders(name))
        try:
            for folder in group._folders:
                folder.mkdir()
                _limit(folder, limits)
            group._events = group._open_events()
        except OSError:
            group.remove()
            return None  # not ours to make: the ulimits are what remains
        return group if group._folders else None

    def add(self, pid: int) -> None:
        """Put a process in, and with it what it will start. Raises OSError."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def num_oom_kills(self) -> int:
        """Processes of the group that the kernel killed for want of memory."""
        if self._events is None:
            return 0
        fields = dict(line.split() for line in os.pread(self._events, 4096, 0).splitlines())
        return int(fields.get(b"oom_kill", 0))

    def _open_events(self) -> int | None:
        for folder in self._folders:
            for name in ("memory.events", "memory.oom_control"):
                if (folder / name).exists():
                    return os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        return None

    def remove(self) -> None:
        """Delete the group; its processes must have been killed."""
        if self._events is not None:
            os.close(self._events)
            self._events = None
        for folder in self._folders:
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:  # the last process is still on its way out
                    time.sleep(0.01)
                else:
                    break

    @classmethod
    def remove_named(cls, name: str) -> None:
        """Delete the group that a dead owner left."""
        cls(_folders(name)).remove()

    @classmethod
    def remove_unused(cls, age_s: float) -> None:
        """Delete every group of ours that is older and holds no process: the kernel refuses to for the others."""
        for pattern in ("swegym.swegym-*", "*/swegym.swegym-*"):
            for folder in _ROOT.glob(pattern):
                with contextlib.suppress(OSError):  # in use, gone in the meantime, or another user's
                    if time.time() - folder.stat().st_mtime > age_s:
                        folder.rmdir()


def _folders(name: str) -> list[Path]:
    """One folder where there is one hierarchy (version 2), one per controller where there are several (version 1)."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT / f"swegym.{name}"]
    return [_ROOT / controller / f"swegym.{name}" for controller in _CONTROLLERS if (_ROOT / controller).is_dir()]


def _limit(folder: Path, limits: SandboxLimits) -> None:
    quota_us = max(1000, math.ceil(limits.cpus * _PERIOD_US))
    wanted = {
        "pids.max": limits.num_processes,
        "memory.max": limits.memory_bytes,
        "memory.swap.max": 0,
        "memory.limit_in_bytes": limits.memory_bytes,
        "cpu.max": f"{quota_us} {_PERIOD_US}",
        "cpu.cfs_period_us": _PERIOD_US,
        "cpu.cfs_quota_us": quota_us,
    }
    written = [name for name in wanted if (folder / name).exists()]
    for name in written:
        (folder / name).write_text(str(wanted[name]))
    if not written:
        raise OSError(f"{folder} has no controller of memory, processes or processors")
