"""Settings of the sandbox back ends."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from swegym.core.config import Section

__all__ = ["DEFAULT_BASE_IMAGE", "SandboxConfig"]

DEFAULT_BASE_IMAGE = "python:3.11"  # its -slim variant has no git


class SandboxConfig(Section):
    """Which back end, and how it behaves. The limits of a single sandbox are its spec's (`SandboxLimits`)."""

    backend: str = "auto"
    """auto | docker | local; auto is docker where an engine answers, else local."""
    base_image: str = Field(default_factory=lambda: os.environ.get("SWEGYM_BASE_IMAGE") or DEFAULT_BASE_IMAGE)
    """Docker: image that a task's workspace and dependencies are put on; must hold bash, coreutils, git, python. By
    default the environment variable SWEGYM_BASE_IMAGE, else python:3.11."""
    engine_url: str | None = None
    """Docker: address of the engine, such as unix:///run/podman/podman.sock; None is the environment variable
    DOCKER_HOST, else unix:///var/run/docker.sock."""
    runtime: str | None = None
    """Docker: name of an OCI runtime known to the engine, such as runsc; None is the engine's default."""
    user: str | None = None
    """User that commands run as, as USER[:GROUP] for docker (names that the image knows, or numbers) and UID[:GID] for
    local; None is the image's own user, in local root (who has no privilege there)."""
    max_starts: int = Field(default=8, ge=1)
    """Sandboxes started at the same time; further ones wait."""
    start_timeout_s: float = Field(default=60.0, gt=0)
    """Wall time from the start of a sandbox until its shell answers."""
    engine_timeout_s: float = Field(default=120.0, gt=0)
    """Docker: wall time of one call to the engine, an image build excepted."""
    build_timeout_s: float = Field(default=1800.0, gt=0)
    """Docker: wall time of an image build or a commit."""
    answer_timeout_s: float = Field(default=10.0, gt=0)
    """Wall time for an answer beyond a command's own limit, which is enforced inside. Then the command's shell is ended
    from outside, and as much later the sandbox is given up as lost."""
    file_timeout_s: float = Field(default=120.0, gt=0)
    """Wall time of reading or writing one file; writing gets a second more for each MB."""
    max_file_bytes: int = Field(default=256 * 1024**2, ge=1)
    """Largest file that is read out of a sandbox."""
    copy_timeout_s: float = Field(default=120.0, gt=0)
    """Wall time of one step of a fork or snapshot; of its transfers, one part of a few MB at a time."""
    prepare_timeout_s: float = Field(default=120.0, gt=0)
    """Wall time of the command that prepares a new sandbox."""
    health_timeout_s: float = Field(default=5.0, gt=0)
    """Wall time within which a sandbox answers when it is asked whether it works."""
    unsafe: bool = False
    """Local: go on where the kernel forbids user namespaces (root only; the other namespaces stay) or has no filter of
    system calls for this machine."""
    temp_folder: str | None = None
    """Local: absolute folder for what sandboxes write; None is swegym-UID in the system's temporary folder."""
    workdir_storage: Literal["overlay", "copy", "auto"] = "auto"
    """Local: overlay mounts the workspace copy-on-write, copy copies it; auto tries the overlay first."""
    warm: int = Field(default=0, ge=0)
    """Started sandboxes kept ready for each kind asked for lately (same image, folders, limits); 0 keeps none."""
    max_warm: int = Field(default=16, ge=1)
    """Sandboxes kept ready in all; those of the kinds asked for longest ago make way."""
    warm_idle_s: float = Field(default=300.0, gt=0)
    """A ready sandbox that nobody took for so long is removed."""
    max_sandboxes: int | None = Field(default=None, ge=1)
    """Sandboxes at a time, ready ones included; further requests wait in order. None is no bound."""
    max_wait_s: float = Field(default=600.0, gt=0)
    """Wall time that a request waits for room under max_sandboxes before it fails."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Put on every sandbox, beside those of its spec; a run puts its id here as `run`."""
