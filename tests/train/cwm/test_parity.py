"""Our model against transformers' `CwmForCausalLM` from the same weights: logits and gradients, fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from swegym.train.cwm.config import CwmConfig, RopeScaling
from swegym.train.cwm.model import CwmForCausalLM

FULL, SLIDING = "full_attention", "sliding_attention"
SHAPES: dict[str, dict[str, Any]] = {
    "multi-query": {"hidden_size": 12, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 4},
    "no grouping": {"hidden_size": 10, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6},
    "grouped, wide heads": {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
}
LAYERS = {"mixed": (FULL, SLIDING, SLIDING, FULL), "all sliding": (SLIDING, SLIDING), "all global": (FULL, FULL, FULL)}
SCALING = RopeScaling(factor=8.0, original_max_position_embeddings=24)


def make(shape: str, layers: str, window: int, scaling: RopeScaling | None) -> tuple[CwmForCausalLM, Any]:
    config = CwmConfig(
        vocab_size=31,
        intermediate_size=20,
        num_hidden_layers=len(LAYERS[layers]),
        layer_types=LAYERS[layers],
        sliding_window=window,
        max_position_embeddings=128,
        rope_theta=100.0,
        rope_scaling=scaling,
        initializer_range=0.3,  # large enough that attention is far from uniform
        bos_token_id=0,
        eos_token_ids=(1,),
        **SHAPES[shape],
    )
    ours = CwmForCausalLM(config).initialize(5)
    theirs = transformers.CwmForCausalLM(transformers.CwmConfig.from_dict(config.to_hf()))
    theirs.set_attn_implementation("eager")
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


@pytest.mark.parametrize("scaling", [None, SCALING], ids=["plain", "llama3"])
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("window", "length"), [(7, 1), (7, 6), (7, 7), (7, 8), (7, 14), (7, 15), (7, 40), (1, 9), (64, 40)]
)
def test_logits_and_gradients_equal_transformers(
    shape: str, layers: str, window: int, length: int, scaling: RopeScaling | None
) -> None:
    ours, theirs = make(shape, layers, window, scaling)
    generator = torch.Generator().manual_seed(length)
    tokens_BL = torch.randint(0, 31, (3, length), generator=generator)
    labels_BL = torch.randint(0, 31, (3, length), generator=generator)

    our_logits, their_logits = ours(tokens_BL), theirs(input_ids=tokens_BL).logits
    torch.testing.assert_close(our_logits, their_logits, rtol=1e-4, atol=1e-4)

    for logits in (our_logits, their_logits):
        torch.autograd.backward(cross_entropy(logits.flatten(0, 1), labels_BL.flatten()))
    their_gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        difference = (parameter.grad - their_gradients[name]).abs() - 1e-3 * their_gradients[name].abs()
        assert difference.max() < 1e-5, name


def test_the_window_matters_here() -> None:
    """Guards the tests above: past the window's edge a wrong window would be seen."""
    wide, _ = make("multi-query", "mixed", 64, None)
    narrow, _ = make("multi-query", "mixed", 7, None)
    tokens_BL = torch.arange(16).reshape(2, 8)
    difference_L = (wide(tokens_BL) - narrow(tokens_BL)).abs().amax(dim=(0, 2))
    assert difference_L[:7].max() == 0
    assert difference_L[7] > 1e-3
