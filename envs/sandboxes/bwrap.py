"""The bubblewrap command line of a local sandbox: what of the host is visible, and nothing else."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from swegym.core.errors import ConfigError
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes.base import DEPENDENCIES_PATH, base_environment

__all__ = ["HIDDEN_PROC", "HOME_PATH", "READ_ONLY_PROC", "Mounts", "User", "bwrap_arguments", "write_etc"]

HOME_PATH = "/home/sandbox"
_HOST_ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "mime.types", "protocols", "services")
# The host's root keeps its user id in the sandbox (without any capability), and the kernel lets that id write
# /proc/sys and read more of /proc than others may. bubblewrap covers these only where the folder itself is writable.
READ_ONLY_PROC = ("bus", "fs", "irq", "sys", "sysrq-trigger")
HIDDEN_PROC = (
    *("acpi", "asound", "cmdline", "driver", "interrupts", "kcore", "key-users", "keys", "kmsg", "kpagecgroup"),
    *("kpagecount", "kpageflags", "latency_stats", "mtrr", "pagetypeinfo", "pressure", "sched_debug", "scsi"),
    *("slabinfo", "timer_list", "timer_stats", "vmallocinfo"),
)
"""Of the whole machine: its boot line, keys, devices, memory layout, and what it does at this moment."""
_OWN_ETC = {
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}
_OWN_FILES = ("passwd", "group", *_OWN_ETC)


@dataclass(frozen=True, slots=True)
class User:
    """Who commands run as, inside."""

    uid: int = 0
    gid: int = 0

    @property
    def name(self) -> str:
        return "sandbox" if self.uid else "root"

    @classmethod
    def parse(cls, text: str | None) -> User:
        """UID or UID:GID. Raises ConfigError: names mean nothing without an image that knows them."""
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", text)
        if match is None:
            raise ConfigError(
                f"sandbox.user is {text!r}: the local back end takes numbers, UID or UID:GID, such as 1000:1000"
            )
        return cls(int(match[1]), int(match[2] or match[1]))


@dataclass(frozen=True, slots=True)
class Mounts:
    """Host folders of one sandbox."""

    workdir: str
    """Upper layer of the workspace's overlay, or the whole of the work tree when `work` is None."""
    work: str | None
    """Overlay's work folder."""
    tmp: str
    home: str
    etc: str
    """Holds the files that `write_etc` wrote."""


def write_etc(folder: Path, user: User) -> None:
    """The few files of /etc that must not be the host's."""
    folder.mkdir(parents=True, exist_ok=True)
    passwd = f"root:x:0:0:root:{HOME_PATH}:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    group = "root:x:0:\nnogroup:x:65534:\n"
    if user.uid:
        passwd += f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{HOME_PATH}:/bin/bash\n"
    if user.gid:
        group += f"sandbox:x:{user.gid}:\n"
    for name, text in (_OWN_ETC | {"passwd": passwd, "group": group}).items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)  # running sandboxes have these very files mounted


def bwrap_arguments(
    bwrap_path: str, spec: SandboxSpec, mounts: Mounts, *, user: User, user_namespace: bool, filter_fd: int | None
) -> list[str]:
    """Argument vector up to and including `--`.

    Args:
        bwrap_path: the program.
        spec: of the sandbox.
        mounts: its folders on the host.
        user: who commands run as; with a user namespace only.
        user_namespace: False leaves that one out; the others are always made.
        filter_fd: descriptor from which bubblewrap reads the system call filter (see `seccomp`), None for no filter.
    """
    arguments = [bwrap_path, "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    arguments += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
    if user_namespace:
        arguments += ["--unshare-user", "--uid", str(user.uid), "--gid", str(user.gid), "--disable-userns"]
    if filter_fd is not None:
        arguments += ["--seccomp", str(filter_fd)]
    if not spec.network:
        arguments += ["--unshare-net"]
    arguments += [*_system(spec.network), *_proc(), *_dev(spec.limits.memory_bytes // 2)]
    arguments += ["--bind", mounts.tmp, "/tmp", "--symlink", "/tmp", "/var/tmp", "--bind", mounts.home, HOME_PATH]
    for name in _OWN_FILES:
        arguments += ["--ro-bind", f"{mounts.etc}/{name}", f"/etc/{name}"]
    path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    if not sys.base_prefix.startswith("/usr"):
        arguments += ["--ro-bind", sys.base_prefix, sys.base_prefix]
        path.insert(0, f"{sys.base_prefix}/bin")
    arguments += _hidden_packages()
    if spec.workspace is not None and mounts.work is not None:
        arguments += ["--overlay-src", spec.workspace, "--overlay", mounts.workdir, mounts.work, spec.workdir]
    else:
        arguments += ["--bind", mounts.workdir, spec.workdir]
    if spec.dependencies is not None:
        arguments += ["--ro-bind", spec.dependencies, DEPENDENCIES_PATH]
    arguments += ["--remount-ro", "/", "--clearenv"]
    environment = {"PATH": ":".join(path), "HOME": HOME_PATH, "USER": user.name} | base_environment(spec)
    for key, value in environment.items():
        arguments += ["--setenv", key, value]
    return [*arguments, "--chdir", spec.workdir, "--"]


def _hidden_packages() -> list[str]:
    """Empty folders over the host's installed packages: a task sees the dependencies it names and no others.

    Else its tests would pass here and fail elsewhere, and the host's pytest plugins would run inside every task.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [f"{sys.base_prefix}/lib/{version}/site-packages"]
    folders += ["/usr/lib/python3/dist-packages", f"/usr/local/lib/{version}/dist-packages"]
    present = [folder for folder in folders if Path(folder).is_dir()]
    return [word for folder in present for word in (*_small_tmpfs(folder), "--remount-ro", folder)]


def _small_tmpfs(path: str) -> list[str]:
    """An empty folder that could not hold anything even if it were writable."""
    return ["--size", "4096", "--tmpfs", path]


def _dev(shm_bytes: int) -> list[str]:
    """The usual few devices, and shared memory of a bounded size; nothing else can be put there."""
    return ["--dev", "/dev", "--perms", "1777", "--size", str(shm_bytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]


def _proc() -> list[str]:
    arguments = ["--proc", "/proc"]
    for name in READ_ONLY_PROC:
        arguments += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    for name in HIDDEN_PROC:
        path = Path("/proc", name)
        if path.is_dir():
            arguments += [*_small_tmpfs(str(path)), "--remount-ro", str(path)]
        elif path.exists():
            arguments += ["--ro-bind", "/dev/null", str(path)]
    return arguments


def _system(network: bool) -> list[str]:
    """Programs and libraries, read-only; /bin and its like are links or folders as on the host."""
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    for name in _HOST_ETC:
        arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    if network:
        resolver = os.path.realpath("/etc/resolv.conf")
        arguments += ["--ro-bind-try", resolver, "/etc/resolv.conf"]
        arguments += ["--ro-bind-try", "/etc/ssl/certs", "/etc/ssl/certs"]
    return arguments
