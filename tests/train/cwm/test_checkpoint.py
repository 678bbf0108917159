"""Checkpoints: transformers reads ours and we read transformers'; mismatches name the tensor; saving is atomic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from swegym.core.errors import CheckpointError, ConfigError
from swegym.train.cwm import checkpoint
from swegym.train.cwm.checkpoint import load_checkpoint, load_weights, save_checkpoint
from swegym.train.cwm.config import CwmConfig, RopeScaling
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.tokenizer import train_tokenizer

CONFIG = CwmConfig(
    vocab_size=300,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    sliding_window=4,
    layer_types=("sliding_attention", "full_attention"),
    max_position_embeddings=64,
    rope_scaling=RopeScaling(original_max_position_embeddings=16),
    initializer_range=0.3,
    bos_token_id=283,
    eos_token_ids=(284, 288),
)


@pytest.fixture
def model() -> CwmForCausalLM:
    return CwmForCausalLM(CONFIG).initialize(4)


def edit(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in change.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, file)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("shard_bytes", "num_files"), [(10**9, 1), (16_000, 3)])
def test_round_trip_and_transformers(tmp_path: Path, model: CwmForCausalLM, shard_bytes: int, num_files: int) -> None:
    folder = save_checkpoint(tmp_path / "out" / "step-1", model, shard_bytes=shard_bytes)
    assert len(list(folder.glob("*.safetensors"))) == num_files
    loaded = load_checkpoint(folder)
    assert loaded.config == CONFIG
    assert same(loaded, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert same(theirs, model)
    tokens_BL = torch.randint(0, 300, (2, 11))
    torch.testing.assert_close(loaded(tokens_BL), theirs(tokens_BL).logits, rtol=1e-4, atol=1e-5)
    assert [path.name for path in folder.parent.iterdir()] == ["step-1"]


def test_a_checkpoint_of_transformers_loads(tmp_path: Path, model: CwmForCausalLM) -> None:
    theirs = transformers.CwmForCausalLM(transformers.CwmConfig.from_dict(CONFIG.to_hf()))
    theirs.save_pretrained(tmp_path)
    assert same(load_checkpoint(tmp_path), theirs)
    load_weights(model, tmp_path)
    assert same(model, theirs)


def test_bfloat16_is_written_as_such_and_read_as_asked(tmp_path: Path, model: CwmForCausalLM) -> None:
    folder = save_checkpoint(tmp_path / "bf16", model.to(torch.bfloat16))
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_checkpoint(folder).lm_head.weight.dtype == torch.float32
    assert load_checkpoint(folder, dtype=torch.bfloat16).lm_head.weight.dtype == torch.bfloat16


def test_tokenizer_travels_with_it(tmp_path: Path, model: CwmForCausalLM) -> None:
    tokenizer = train_tokenizer(["to be or not to be"], vocab_size=300)
    folder = save_checkpoint(tmp_path / "full", model, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.encode("not to be", add_special_tokens=False) == tokenizer.encode("not to be")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lm_head.weight": None}, "lm_head.weight is missing"),
        ({"model.layers.7.mlp.up_proj.weight": torch.zeros(2)}, "model.layers.7.mlp.up_proj.weight is unexpected"),
        ({"model.norm.weight": torch.zeros(13)}, r"model.norm.weight has shape \(13,\), the model needs \(12,\)"),
    ],
)
def test_mismatch_names_the_tensor(
    tmp_path: Path, model: CwmForCausalLM, change: dict[str, torch.Tensor | None], words: str
) -> None:
    folder = save_checkpoint(tmp_path / "one", model)
    edit(folder, change)
    target = CwmForCausalLM(CONFIG).initialize(9)
    with pytest.raises(CheckpointError, match=words):
        load_weights(target, folder)
    assert same(target, CwmForCausalLM(CONFIG).initialize(9))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


def test_missing_and_broken_files_are_named(tmp_path: Path, model: CwmForCausalLM) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_checkpoint(tmp_path / "absent")
    folder = save_checkpoint(tmp_path / "one", model)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        load_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_checkpoint(folder)


def test_existing_folder_is_kept_unless_told(tmp_path: Path, model: CwmForCausalLM) -> None:
    folder = save_checkpoint(tmp_path / "one", model)
    other = CwmForCausalLM(CONFIG).initialize(8)
    with pytest.raises(CheckpointError, match="exists"):
        save_checkpoint(folder, other)
    assert same(load_checkpoint(folder), model)
    save_checkpoint(folder, other, overwrite=True)
    assert same(load_checkpoint(folder), other)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_save_that_fails_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, model: CwmForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(tmp_path / "one", model)

    def full_disk(path: Path, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_json", full_disk)  # comes after the weights have been written
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(folder, CwmForCausalLM(CONFIG).initialize(8), overwrite=True)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path / "two", model)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert same(load_checkpoint(folder), model)
