"""Who may import whom, and how much an import may load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "vllm", "ray", "transformers", "docker", "openai", "libcst", "matplotlib"}


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a new interpreter after a statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "room", ["swegym", "swegym.core", "swegym.envs", "swegym.agents", "swegym.rewards", "swegym.run"]
)
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    assert not loaded_by(f"import {room}") & HEAVY


def test_importing_train_loads_neither_ray_nor_vllm() -> None:
    assert not loaded_by("import swegym.train") & {"ray", "vllm", "docker"}


def test_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("import swegym.cli") & HEAVY


def test_loaded_by_sees_what_is_loaded() -> None:
    assert "sqlite3" in loaded_by("import sqlite3")


def test_import_is_silent() -> None:
    done = subprocess.run([sys.executable, "-c", "import swegym"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("", "")


def test_import_direction() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("room", ["envs", "agents", "rewards", "train"])
def test_short_name_refuses_to_be_imported(room: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {room}"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.returncode != 0
    assert f"swegym.{room}" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("room", ["envs", "agents", "rewards", "train"])
def test_room_is_a_relative_link(room: str) -> None:
    link = ROOT / "swegym" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room
