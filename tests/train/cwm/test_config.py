"""The configuration: published numbers, checks that name the field, and config.json both ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from swegym.core.errors import ConfigError, UnknownName
from swegym.train.cwm.config import PRESETS, CwmConfig, RopeScaling, preset
from swegym.train.cwm.model import CwmForCausalLM

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 5,
    "max_position_embeddings": 64,
    "bos_token_id": 47,
    "eos_token_ids": (48, 49),
}


@pytest.mark.parametrize(("name", "num_parameters"), [("tiny", 1_049_728), ("32b", 32_581_097_472)])
def test_preset_has_exactly_its_number_of_parameters(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model = CwmForCausalLM(preset(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert preset(name).num_parameters == num_parameters


def test_released_pattern_has_17_global_layers_and_the_last_is_one() -> None:
    config = preset("32b")
    layers = [index for index, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert layers == [*range(0, 64, 4), 63]
    assert config.window(0) is None
    assert config.window(1) == 8192
    assert (config.bos_token_id, config.eos_token_ids) == (128000, (128001, 128008, 128009))


def test_tiny_preset_has_its_special_tokens_last() -> None:
    config = preset("tiny")
    assert config.bos_token_id == 1024 - 17
    assert config.eos_token_ids == (1008, 1012, 1013)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="32b"):
        preset("33b")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_key_value_heads": 4}, "num_key_value_heads"),
        ({"hidden_size": 25}, "hidden_size"),
        ({"head_dim": 7}, "head_dim"),
        ({"layer_types": ("full_attention",)}, "layer_types"),
        ({"layer_types": ("global",) * 6}, "layer_types"),
        ({"eos_token_ids": (50,)}, "eos_token_ids"),
        ({"eos_token_ids": ()}, "eos_token_ids"),
        ({"pad_token_id": 50}, "pad_token_id"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"rope_scaling": {"high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"hidden_sise": 24}, "hidden_sise"),
    ],
)
def test_bad_value_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        CwmConfig(**(SMALL | change))


@pytest.mark.parametrize("scaling", [None, RopeScaling(factor=4.0, original_max_position_embeddings=16)])
def test_transformers_reads_what_to_hf_writes(scaling: RopeScaling | None) -> None:
    config = CwmConfig(**SMALL, rope_theta=5000.0, rope_scaling=scaling)
    theirs = transformers.CwmConfig.from_dict(config.to_hf())
    assert theirs.layer_types == list(config.layer_types)
    assert theirs.rope_parameters["rope_theta"] == 5000.0
    assert CwmConfig.from_hf(theirs.to_dict()) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_config_json_round_trip(name: str) -> None:
    assert CwmConfig.from_hf(preset(name).to_hf()) == preset(name)


def test_older_rope_keys_are_read() -> None:
    data = CwmConfig(**SMALL).to_hf()
    del data["rope_parameters"]
    data |= {"rope_theta": 777.0, "rope_scaling": {"rope_type": "llama3", **RopeScaling(factor=2.0).model_dump()}}
    config = CwmConfig.from_hf(data)
    assert config.rope_theta == 777.0
    assert config.rope_scaling == RopeScaling(factor=2.0)


def test_absent_layer_types_follow_transformers_default() -> None:
    data = CwmConfig(**SMALL).to_hf()
    del data["layer_types"]
    assert list(CwmConfig.from_hf(data).layer_types) == transformers.CwmConfig.from_dict(data).layer_types


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "yarn"),
        ({"num_key_value_heads": 5}, "num_key_value_heads"),
        ({"eos_token_id": None}, "eos_token_ids"),
    ],
)
def test_config_json_of_something_else_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CwmConfig.from_hf(CwmConfig(**SMALL).to_hf() | change)
