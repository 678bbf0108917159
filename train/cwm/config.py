"""Shape of a CWM: every number that the model code reads, with the published and the tiny preset.

Source: CWM (arXiv 2510.02387) section 4.1 and table 2; field names follow the `config.json` of its checkpoints.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from swegym.agents.tokenizer import STOP_TOKENS, special_token_ids
from swegym.core.errors import ConfigError, UnknownName
from swegym.core.records import Record

__all__ = ["PRESETS", "CwmConfig", "LayerType", "RopeScaling", "preset"]

LayerType = Literal["full_attention", "sliding_attention"]
GLOBAL_EVERY = 4


class RopeScaling(Record):
    """Llama-3 frequency scaling. CWM uses it from mid-training on."""

    factor: float = Field(default=16.0, ge=1.0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_max_position_embeddings: int = Field(default=8192, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> RopeScaling:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(f"high_freq_factor {self.high_freq_factor} must exceed low_freq_factor")
        return self


class CwmConfig(Record):
    """Architecture of one model."""

    vocab_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=2)
    sliding_window: int = Field(ge=1)
    """A query of a sliding layer sees itself and sliding_window - 1 tokens before it."""
    layer_types: tuple[LayerType, ...] = ()
    """One per layer. Left empty, it becomes the released pattern: layers 0, 4, 8, ... and the last are global."""
    rope_theta: float = Field(default=1_000_000.0, gt=1)
    rope_scaling: RopeScaling | None = None
    """None before mid-training."""
    rms_norm_eps: float = Field(default=1e-5, gt=0)
    max_position_embeddings: int = Field(ge=1)
    """Tokens of the longest document."""
    initializer_range: float = Field(default=0.02, gt=0)
    bos_token_id: int = Field(ge=0)
    eos_token_ids: tuple[int, ...] = Field(min_length=1)
    pad_token_id: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_layer_types(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("layer_types") and isinstance(data.get("num_hidden_layers"), int):
            return {**data, "layer_types": released_layer_types(data["num_hidden_layers"])}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> CwmConfig:
        heads = self.num_attention_heads
        if heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {heads} is not divisible by num_key_value_heads {self.num_key_value_heads}"
            )
        if self.hidden_size % heads:  # transformers refuses to load such a checkpoint
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: rotary embedding turns pairs")
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(self.layer_types)} entries for {self.num_hidden_layers} num_hidden_layers"
            )
        named = [("bos_token_id", self.bos_token_id), ("pad_token_id", self.pad_token_id)]
        named += [("eos_token_ids", token_id) for token_id in self.eos_token_ids]
        for name, token_id in named:
            if token_id is not None and not 0 <= token_id < self.vocab_size:
                raise ValueError(f"{name} {token_id} is outside the vocabulary of {self.vocab_size}")
        return self

    def window(self, layer: int) -> int | None:
        """Attention window of a layer in tokens; None where it is global."""
        return self.sliding_window if self.layer_types[layer] == "sliding_attention" else None

    @property
    def num_parameters(self) -> int:
        """Exact number of parameters."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        layer = self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size + 2)
        return 2 * self.vocab_size * self.hidden_size + self.num_hidden_layers * layer + self.hidden_size

    def to_hf(self, dtype: str = "float32") -> dict[str, Any]:
        """The `config.json` of a checkpoint, as transformers and vLLM read it."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            rope |= {"rope_type": "llama3", **self.rope_scaling.model_dump()}
        copied = self.model_dump(mode="json", exclude={"eos_token_ids", "rope_theta", "rope_scaling"})
        return copied | _FIXED | {"rope_parameters": rope, "eos_token_id": list(self.eos_token_ids), "dtype": dtype}

    @classmethod
    def from_hf(cls, data: dict[str, Any]) -> CwmConfig:
        """Read a checkpoint's `config.json`.

        Where it has no `layer_types`, layers are those of transformers' class default, not the released pattern.

        Raises:
            ConfigError: not a CWM, a feature that CWM does not have, or a value that is missing or wrong.
        """
        for key, expected in _FIXED.items():
            if key != "architectures" and data.get(key, expected) != expected:
                raise ConfigError(f"config.json: {key} is {data[key]!r}; a CWM has {expected!r}")
        if "model_type" not in data:
            raise ConfigError("config.json: model_type is missing; a CWM has 'cwm'")
        older = {"rope_theta": data.get("rope_theta"), **(data.get("rope_scaling") or {})}
        rope = dict(data.get("rope_parameters") or older)
        rope_type = rope.pop("rope_type", None) or "default"
        theta = rope.pop("rope_theta", None) or 1_000_000.0
        if rope_type not in ("default", "llama3"):
            raise ConfigError(f"config.json: rope_type is {rope_type!r}; known: default, llama3")
        fields = {name: data[name] for name in cls.model_fields if name in data}
        if "layer_types" not in data and "num_hidden_layers" in data:
            layers = range(data["num_hidden_layers"])
            fields["layer_types"] = ["sliding_attention" if i % GLOBAL_EVERY else "full_attention" for i in layers]
        eos = data.get("eos_token_id")
        fields["eos_token_ids"] = eos if isinstance(eos, list) else [eos]
        fields |= {"rope_theta": theta, "rope_scaling": rope if rope_type == "llama3" else None}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "value"
            raise ConfigError(f"config.json: {where}: {first['msg']}") from error


_FIXED: dict[str, Any] = {
    "model_type": "cwm",
    "architectures": ["CwmForCausalLM"],
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
"""Entries of `config.json` that are the same in every CWM."""


def released_layer_types(num_layers: int) -> tuple[LayerType, ...]:
    """Global at 0, 4, 8, ... and at the last layer: 17 of the released model's 64 (cwm.md 1.2)."""
    last = num_layers - 1
    return tuple(
        "full_attention" if layer % GLOBAL_EVERY == 0 or layer == last else "sliding_attention"
        for layer in range(num_layers)
    )


def _with_special_ids(vocab_size: int) -> dict[str, Any]:
    ids = special_token_ids(vocab_size)
    return {
        "vocab_size": vocab_size,
        "bos_token_id": ids["<|begin_of_text|>"],
        "eos_token_ids": tuple(ids[name] for name in STOP_TOKENS),
        "pad_token_id": ids["<|pad|>"],
    }


PRESETS: dict[str, CwmConfig] = {
    # 1.05 M parameters: trains on one CPU core; contexts of the `short` prompt profile
    "tiny": CwmConfig(
        **_with_special_ids(1024),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        sliding_window=64,
        max_position_embeddings=1024,
    ),
    # the released model from mid-training on: 32,581,097,472 parameters
    "32b": CwmConfig(
        **_with_special_ids(128_256),
        hidden_size=6144,
        intermediate_size=21_504,
        num_hidden_layers=64,
        num_attention_heads=48,
        num_key_value_heads=8,
        head_dim=128,
        sliding_window=8192,
        rope_scaling=RopeScaling(),
        max_position_embeddings=131_072,
    ),
}


def preset(name: str) -> CwmConfig:
    """Raises UnknownName: there is no such preset."""
    if name not in PRESETS:
        raise UnknownName("model preset", name, sorted(PRESETS))
    return PRESETS[name]
