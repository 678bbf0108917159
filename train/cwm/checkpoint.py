"""Hugging Face checkpoints of a CWM: `config.json` plus safetensors, whole folders at a time.

Tensor names are those of transformers' `CwmForCausalLM`, so transformers and vLLM load what is saved here, and the
other way round.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import CheckpointError, ConfigError
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint"]

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
SHARD_BYTES = 5 * 1024**3


def save_checkpoint(
    folder: str | Path,
    model: CwmForCausalLM,
    tokenizer: BpeTokenizer | None = None,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write a checkpoint folder; it appears under its name only when it is whole.

    Args:
        folder: does not exist yet, unless `overwrite`.
        model: weights are written in their own dtype.
        tokenizer: saved beside the weights.
        overwrite: replace what is there.
        shard_bytes: most bytes of tensors per file.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder exists, or cannot be written.
    """
    target = Path(folder)
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists: choose another folder or overwrite it explicitly")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _appearing_whole(target) as part:
            _write(part, model, tokenizer, shard_bytes)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write checkpoint {target}: {error}") from error
    return target


def load_checkpoint(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> CwmForCausalLM:
    """Read a checkpoint folder.

    Works for any CWM in Hugging Face form, `facebook/cwm` included: Meta licenses those weights for non-commercial
    research only, and this project neither ships nor downloads them.

    Args:
        folder: `config.json` and one or more safetensors files.
        dtype: of the parameters, whatever the file's.
        device: where they are put.

    Raises:
        CheckpointError: a file is missing or broken, or a tensor is missing, unexpected or of another shape.
        ConfigError: `config.json` does not describe a CWM.
    """
    path = Path(folder)
    config = CwmConfig.from_hf(_read_json(path / "config.json"))
    with torch.device("meta"):
        model = CwmForCausalLM(config)
    model = model.to(dtype).to_empty(device=device)
    load_weights(model, path)
    return model


def load_weights(model: CwmForCausalLM, folder: str | Path) -> None:
    """Copy a checkpoint's tensors into a model of the same shape, in place.

    Raises:
        CheckpointError: as `load_checkpoint`; nothing has been copied then, unless a file broke while it was read.
    """
    files = _weight_files(Path(folder))
    expected = model.state_dict()
    _check_shapes(expected, {name: shape for file in files for name, shape in _shapes(file)}, folder)
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    with torch.no_grad():
                        expected[name].copy_(tensors.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file}: {error}") from error


def _write(folder: Path, model: CwmForCausalLM, tokenizer: BpeTokenizer | None, shard_bytes: int) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    shards = _shard(state, shard_bytes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        name = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({key: state[key] for key in names}, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, name)
    if len(shards) > 1:
        total_bytes = sum(tensor.nbytes for tensor in state.values())
        _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    _write_json(folder / "config.json", model.config.to_hf(dtype))
    if tokenizer is not None:
        tokenizer.save(folder)


def _shard(state: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in state.items():
        if shards[-1] and used + tensor.nbytes > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += tensor.nbytes
    return shards


@contextmanager
def _appearing_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name when the block ends well, and is removed when it does not."""
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.part-", dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        for file in [*part.iterdir(), part]:
            _sync(file)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
            target.rename(old / "checkpoint")
            part.rename(target)
            shutil.rmtree(old)
        else:
            part.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if index.is_file():
        files = sorted({folder / name for name in _read_json(index)["weight_map"].values()})
    else:
        files = [folder / SINGLE_FILE]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"checkpoint {folder} has no {file.name}")
    return files


def _shapes(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return [(name, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {error}") from error


def _check_shapes(expected: Mapping[str, Tensor], found: Mapping[str, tuple[int, ...]], folder: str | Path) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in expected]
    problems += [
        f"{name} has shape {found[name]}, the model needs {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name] != tuple(tensor.shape)
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise CheckpointError(f"checkpoint {folder} does not fit: {'; '.join(problems[:3])}{more}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} does not hold a JSON object")
    return data


def _write_json(file: Path, data: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
