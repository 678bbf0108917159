"""Safetensors folders as the unit of weight publication: list, compare, write. No vllm in here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swegym.core.errors import WeightSyncError

__all__ = ["WeightSource", "as_folder", "check_same_tensors", "tensor_shapes", "weight_files"]

WeightSource = Path | str | Mapping[str, Tensor]
"""A Hugging Face checkpoint folder, or a state dict with the same names."""


def weight_files(folder: Path) -> list[Path]:
    """Safetensors files of a Hugging Face folder, in order.

    Raises:
        WeightSyncError: there are none, or the index cannot be read.
    """
    index = folder / "model.safetensors.index.json"
    try:
        if index.is_file():
            names = json.loads(index.read_text())["weight_map"].values()
            return [folder / name for name in sorted(set(names))]
    except (OSError, ValueError, KeyError) as error:
        raise WeightSyncError(f"cannot read {index}: {error}") from error
    single = folder / "model.safetensors"
    if not single.is_file():
        raise WeightSyncError(f"{folder} holds no model.safetensors")
    return [single]


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, from the files' headers.

    Raises:
        WeightSyncError: a file is missing or broken, or a tensor is in two files.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    if name in shapes:
                        raise WeightSyncError(f"{file}: {name} is in another file, too")
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise WeightSyncError(f"cannot read {file}: {error}") from error
    return shapes


def check_same_tensors(served: Mapping[str, tuple[int, ...]], offered: Mapping[str, tuple[int, ...]]) -> None:
    """Raises WeightSyncError naming the first tensors that are missing, unexpected or of another shape."""
    problems = [f"{name} is missing" for name in sorted(served.keys() - offered.keys())]
    problems += [f"{name} is unexpected" for name in sorted(offered.keys() - served.keys())]
    problems += [
        f"{name} has shape {offered[name]}, expected {served[name]}"
        for name in sorted(served.keys() & offered.keys())
        if offered[name] != served[name]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightSyncError(f"these weights are not of the served model: {'; '.join(problems[:3])}{more}")


def as_folder(source: WeightSource, scratch: Path) -> Path:
    """The folder itself; a state dict is written into `scratch` first."""
    if not isinstance(source, Mapping):
        return Path(source)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in source.items()}
    save_file(tensors, scratch / "model.safetensors")
    return scratch
