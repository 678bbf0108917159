"""Sampling: the processed distribution by hand, and draws that follow it."""

from __future__ import annotations

import math

import pytest
import torch

from swegym.train.sampling import processed_logprobs, sample_tokens


def test_temperature_and_nucleus_by_hand() -> None:
    probs = [0.5, 0.125, 0.3, 0.075]
    logits_BV = torch.tensor([probs] * 5).log() + 3.0
    temperature_B = torch.tensor([1.0, 1.0, 0.5, 1.0, 0.0])
    top_p_B = torch.tensor([1.0, 0.6, 1.0, 0.01, 0.6])
    result = processed_logprobs(logits_BV, temperature_B, top_p_B).exp()
    squares = sum(p * p for p in probs)
    expected = [
        probs,
        [0.5 / 0.8, 0.0, 0.3 / 0.8, 0.0],  # 0.5 does not reach 0.6, 0.5 + 0.3 does
        [p * p / squares for p in probs],
        [1.0, 0.0, 0.0, 0.0],  # never fewer than one
        probs,  # greedy: temperature 1, nothing cut off
    ]
    for row, wanted in zip(result.tolist(), expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)


def test_equal_probabilities_keep_the_fewest_tokens() -> None:
    kept = processed_logprobs(torch.zeros(1, 4), torch.ones(1), torch.tensor([0.5])).exp()
    assert sorted(kept[0].tolist()) == pytest.approx([0.0, 0.0, 0.5, 0.5])


def test_the_uniform_number_picks_by_cumulative_probability() -> None:
    logprobs_BV = torch.tensor([[0.25, 0.5, 0.0, 0.25]] * 6).log()
    uniform_B = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logprobs_BV, torch.ones(6), uniform_B).tolist() == [0, 0, 1, 1, 3, 3]


def test_impossible_tokens_are_never_drawn_at_the_edges() -> None:
    logprobs_BV = torch.tensor([[-math.inf, 0.0, -math.inf]] * 2)
    uniform_B = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert sample_tokens(logprobs_BV, torch.ones(2), uniform_B).tolist() == [1, 1]


def test_zero_temperature_takes_the_likeliest() -> None:
    logprobs_BV = torch.tensor([[0.2, 0.5, 0.3]] * 2).log()
    temperature_B = torch.tensor([0.0, 1.0])
    assert sample_tokens(logprobs_BV, temperature_B, torch.full((2,), 0.9, dtype=torch.float64)).tolist() == [1, 2]


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.1, 0.6, 0.05, 0.25])
    uniform_B = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn_B = sample_tokens(probs.log().expand(40_000, 4), torch.ones(40_000), uniform_B)
    assert (drawn_B.bincount(minlength=4) / 40_000).tolist() == pytest.approx(probs.tolist(), abs=0.01)
