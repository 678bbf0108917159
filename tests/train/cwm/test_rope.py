"""Rotary embedding against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from swegym.train.cwm.config import RopeScaling
from swegym.train.cwm.rope import apply_rope, inverse_frequencies, rope_table


def test_plain_frequencies() -> None:
    assert inverse_frequencies(6, 1000.0, None).tolist() == pytest.approx([1.0, 0.1, 0.01])


def test_llama3_scaling_keeps_blends_and_stretches() -> None:
    # original context 2*pi*10, so pair i makes 10 * frequency_i turns: 10 (kept), 2.5 (blended), 0.625 (stretched)
    scaling = RopeScaling(factor=5.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=63)
    frequencies = inverse_frequencies(6, 64.0, scaling).tolist()
    turns = 63 * 0.25 / (2 * math.pi)
    blend = (turns - 1.0) / 3.0
    assert frequencies == pytest.approx([1.0, 0.25 * (blend + (1 - blend) / 5.0), 0.0625 / 5.0])


def test_pairs_are_halves_and_turn_by_position() -> None:
    x_TNH = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]])
    cos, sin = rope_table(torch.tensor([0, 2]), torch.tensor([1.0, 0.5]))
    rotated = apply_rope(x_TNH, cos, sin)
    assert rotated[0, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
    c2, s2, c1, s1 = math.cos(2), math.sin(2), math.cos(1), math.sin(1)
    expected = [1 * c2 - 3 * s2, 2 * c1 - 4 * s1, 3 * c2 + 1 * s2, 4 * c1 + 2 * s1]
    assert rotated[1, 0].tolist() == pytest.approx(expected)
