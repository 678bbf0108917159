"""The checkpoint that a run starts from."""

from __future__ import annotations

from pathlib import Path

from swegym.core.errors import ConfigError

__all__ = ["BASE_CHECKPOINT", "starting_checkpoint"]

BASE_CHECKPOINT = Path(__file__).parent / "checkpoints" / "base"
"""Ships with the package; `swegym train base` reproduces it."""


def starting_checkpoint(name: str) -> Path:
    """Folder of `base` or of a path.

    Raises:
        ConfigError: there is no checkpoint there.
    """
    folder = BASE_CHECKPOINT if name == "base" else Path(name)
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ConfigError(f"model.checkpoint {name!r}: no {file} in {folder}; give `base` or a CWM's folder")
    return folder
