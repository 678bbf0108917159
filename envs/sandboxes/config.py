"""Settings of the sandbox back ends."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field

from swegym.core.config import Section

__all__ = ["DEFAULT_BASE_IMAGE", "SandboxConfig"]

DEFAULT_BASE_IMAGE = "python:3.11-slim"


class SandboxConfig(Section):
    """Which back end, and how it behaves. The limits of a single sandbox are its spec's (`SandboxLimits`)."""

    backend: str = "auto"
    """auto | docker | local; auto is docker where an engine answers, else local."""
    base_image: str = Field(default_factory=lambda: os.environ.get("SWEGYM_BASE_IMAGE") or DEFAULT_BASE_IMAGE)
    """Docker: image that a task's workspace and dependencies are put on; must hold bash, coreutils, git, python. By
    default the environment variable SWEGYM_BASE_IMAGE, else python:3.11-slim."""
    runtime: str | None = None
    """Docker: name of an OCI runtime known to the engine, such as runsc; None is the engine's default."""
    user: str | None = None
    """Docker: user[:group] that commands run as; None is the image's."""
    max_starts: int = Field(default=8, ge=1)
    """Sandboxes started at the same time; further ones wait."""
    start_timeout_s: float = Field(default=60.0, gt=0)
    """Wall time from the start of a sandbox until its shell answers."""
    engine_timeout_s: float = Field(default=120.0, gt=0)
    """Docker: wall time of one call to the engine, an image build excepted."""
    build_timeout_s: float = Field(default=1800.0, gt=0)
    """Docker: wall time of an image build or a commit."""
    unsafe: bool = False
    """Local: go on without a user namespace where the kernel forbids one (root only; other namespaces stay)."""
    temp_folder: str | None = None
    """Local: absolute folder for what sandboxes write; None is swegym-UID in the system's temporary folder."""
    workdir_storage: Literal["overlay", "copy", "auto"] = "auto"
    """Local: overlay mounts the workspace copy-on-write, copy copies it; auto tries the overlay first."""
