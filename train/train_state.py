"""Training checkpoints: one file per step, whole or absent, read back without unpickling code.

Format, version 1: FOLDER/step-00000012.pt is a `torch.save` archive of `{"schema_version", "step", "state"}`, where
`state` holds tensors, numbers, strings and containers of these only. It is written under a temporary name, flushed to
the disk, and renamed; a process killed in between leaves a temporary file that nobody reads and the next save removes.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from swegym.core.errors import CheckpointError, boundary

__all__ = ["latest", "load_train_state", "save_train_state", "step_of"]

SCHEMA_VERSION = 1
_NAME = re.compile(r"step-(\d{8,})\.pt")


def save_train_state(folder: Path | str, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write a checkpoint and remove all but the newest `keep`.

    Args:
        folder: made if absent.
        step: optimizer steps done; replaces a checkpoint of the same step.
        state: see the module docstring for what it may hold.
        keep: at least 1.

    Raises:
        CheckpointError: the disk refuses, or `state` holds an object that could not be read back safely. The
            checkpoints that were there before are unharmed.
    """
    folder = Path(folder)
    path = folder / f"step-{step:08d}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with boundary(CheckpointError, f"cannot write checkpoint {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            with temporary.open("wb") as file:
                torch.save({"schema_version": SCHEMA_VERSION, "step": step, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            _read(temporary)  # an unsafe type must fail now, not at the resume that needs this file
            temporary.replace(path)
            _sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)
    for old in _complete(folder)[: -max(keep, 1)]:
        old.unlink(missing_ok=True)
    return path


def latest(folder: Path | str) -> Path | None:
    """The newest whole checkpoint; None when there is none. Temporary, torn and foreign files are passed over."""
    complete = _complete(Path(folder))
    return complete[-1] if complete else None


def load_train_state(path: Path | str) -> tuple[int, dict[str, Any]]:
    """Step and state of a checkpoint, tensors on the CPU.

    Raises:
        CheckpointError: absent, damaged, of another format version, or holding anything but plain data.
    """
    content = _read(Path(path))
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        found = content.get("schema_version") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path} is no training checkpoint of format {SCHEMA_VERSION} (found {found})")
    return int(content["step"]), content["state"]


def step_of(path: Path) -> int:
    """Step in a checkpoint's file name. Raises CheckpointError."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint (step-00000012.pt)")
    return int(match[1])


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint {path}") from None
    except Exception as error:  # torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError ... on damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}") from error


def _complete(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first. A torn file lacks the archive's end record."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted((path for path in named if zipfile.is_zipfile(path)), key=step_of)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step-*.pt.*.tmp"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
