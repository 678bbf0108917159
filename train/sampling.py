"""From logits to a sampled token and its log-probability: the distribution that is sampled from is the one reported.

Shape letters: B rows (each with its own sampling parameters), V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["processed_logprobs", "sample_tokens"]


def processed_logprobs(logits_BV: Tensor, temperature_B: Tensor, top_p_B: Tensor) -> Tensor:
    """Log-probabilities after temperature and nucleus truncation.

    Args:
        logits_BV: any float dtype.
        temperature_B: float32. 0 means greedy: there log-probabilities are those at temperature 1 without truncation,
            as vLLM's `processed_logprobs` reports them.
        top_p_B: float32 in (0, 1]: the fewest tokens that reach this probability are kept, at least one.

    Returns:
        float32 (B, V); -inf where a token was cut off.

    Source: nucleus sampling (arXiv 1904.09751).
    """
    greedy_B = temperature_B == 0
    scale_B = torch.where(greedy_B, torch.ones_like(temperature_B), temperature_B)
    logprobs_BV = (logits_BV.float() / scale_B[:, None]).log_softmax(-1)
    top_p_B = torch.where(greedy_B, torch.ones_like(top_p_B), top_p_B)
    if bool((top_p_B >= 1).all()):
        return logprobs_BV
    sorted_BV, order_BV = logprobs_BV.sort(dim=-1, descending=True, stable=True)
    probs_BV = sorted_BV.exp()
    before_BV = probs_BV.cumsum(-1) - probs_BV  # probability of everything likelier
    cut_sorted_BV = (before_BV >= top_p_B[:, None]) & (top_p_B < 1)[:, None]
    cut_sorted_BV[:, 0] = False
    cut_BV = torch.zeros_like(cut_sorted_BV).scatter_(1, order_BV, cut_sorted_BV)
    return logprobs_BV.masked_fill(cut_BV, -torch.inf).log_softmax(-1)


def sample_tokens(logprobs_BV: Tensor, temperature_B: Tensor, uniform_B: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution; greedy rows take the likeliest.

    A row's token depends on its own logits and its own uniform number only, never on the rows beside it.

    Args:
        logprobs_BV: float32, from `processed_logprobs`.
        temperature_B: float32; 0 is greedy.
        uniform_B: float64 in [0, 1).

    Returns:
        int64 (B,); never a token whose probability is 0.
    """
    cumulative_BV = logprobs_BV.double().exp().cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    # below the row's own total, so that rounding can never point past the last possible token
    threshold_B1 = torch.minimum(uniform_B.double()[:, None] * total_B1, total_B1.nextafter(torch.zeros_like(total_B1)))
    drawn_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True).squeeze(-1)
    return torch.where(temperature_B == 0, logprobs_BV.argmax(-1), drawn_B)
