"""Rotary position embedding in the halves layout of Hugging Face checkpoints, with Llama-3 frequency scaling.

Shape letters: T tokens, N heads (of whatever kind), H head width, P = H / 2 rotated pairs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from swegym.train.cwm.config import RopeScaling

__all__ = ["apply_rope", "inverse_frequencies", "rope_table"]


def inverse_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """Angle per position of each pair, in radians.

    Returns:
        float32 (P,).

    Source: RoPE (arXiv 2104.09864); the scaling is Llama 3.1's: wavelengths longer than original/low are stretched by
    `factor`, shorter than original/high are kept, those between are interpolated.
    """
    frequencies_P = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is None:
        return frequencies_P
    turns_P = scaling.original_max_position_embeddings * frequencies_P / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept_P = ((turns_P - scaling.low_freq_factor) / span).clamp(0.0, 1.0)
    return frequencies_P * (kept_P + (1.0 - kept_P) / scaling.factor)


def rope_table(positions_T: Tensor, frequencies_P: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position.

    Args:
        positions_T: int64 (T,).
        frequencies_P: float32 (P,).

    Returns:
        Two float32 (T, 1, P): they broadcast over heads.
    """
    angles_TP = positions_T[:, None].float() * frequencies_P
    return angles_TP.cos()[:, None], angles_TP.sin()[:, None]


def apply_rope(x_TNH: Tensor, cos_T1P: Tensor, sin_T1P: Tensor) -> Tensor:
    """Rotate pair (i, i + P) of every head by its position's angle; keeps shape and dtype."""
    first, second = x_TNH.chunk(2, dim=-1)
    cos, sin = cos_T1P.to(x_TNH.dtype), sin_T1P.to(x_TNH.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
