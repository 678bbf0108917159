"""The command line as a user runs it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Swegym = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def swegym(tmp_path: Path) -> Swegym:
    """`swegym("eval", "--env", ...)` in an empty folder; `env` adds variables, `stdin` is what is typed."""

    def run(
        *arguments: str | Path, env: dict[str, str] | None = None, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "swegym", *map(str, arguments)],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "160", **(env or {})},
            timeout=240,
        )

    return run


@pytest.fixture
def no_engine() -> dict[str, str]:
    """Variables with which no container engine can be found."""
    return {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
