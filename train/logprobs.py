"""Log-probabilities of packed targets under the model: the one place where SFT and the RL learner compute them.

The head and the log-softmax run in float32 and in chunks of tokens, so a (T, V) matrix never exists for a large
vocabulary. Shape letters: T tokens of a pack, M targets among them, V vocabulary, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.packing import PackedBatch

__all__ = ["token_logprobs"]

LOGITS_PER_CHUNK = 1 << 22
"""Most logits alive at a time (16 MiB in float32)."""


def token_logprobs(model: CwmForCausalLM, batch: PackedBatch, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target token given its document's tokens before it.

    Args:
        model: any dtype; logits are taken to float32 before they are divided by the temperature.
        batch: one pack; documents do not see each other.
        temperature: of the distribution, as used when sampling; > 0.

    Returns:
        float32 (T,), differentiable: entry t is log p(labels_T[t]); exactly 0 where target_mask_T is False
        (those are not computed).

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}; greedy decoding has no log-probabilities")
    hidden_TD = model.hidden_states(batch.tokens_T, batch.positions_T, batch.cu_seqlens_D1)
    target_M = batch.target_mask_T.nonzero().squeeze(-1)
    logprobs_M = _label_logprobs(hidden_TD[target_M], model.lm_head.weight, batch.labels_T[target_M], temperature)
    return torch.zeros(batch.num_tokens, device=logprobs_M.device).index_copy(0, target_M, logprobs_M)


def _label_logprobs(hidden_MD: Tensor, head_VD: Tensor, labels_M: Tensor, temperature: float) -> Tensor:
    tokens_per_chunk = max(1, LOGITS_PER_CHUNK // head_VD.shape[0])
    chunks = list(zip(torch.split(hidden_MD, tokens_per_chunk), torch.split(labels_M, tokens_per_chunk), strict=True))
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([_chunk_logprobs(hidden, head_VD, labels, temperature) for hidden, labels in chunks])
    # recompute each chunk's logits in the backward pass instead of keeping them all
    parts = [
        checkpoint(_chunk_logprobs, hidden, head_VD, labels, temperature, use_reentrant=False)
        for hidden, labels in chunks
    ]
    return torch.cat(parts)


def _chunk_logprobs(hidden_MD: Tensor, head_VD: Tensor, labels_M: Tensor, temperature: float) -> Tensor:
    logits_MV = F.linear(hidden_MD, head_VD).float()
    if temperature != 1.0:
        logits_MV = logits_MV / temperature
    return -F.cross_entropy(logits_MV, labels_M, reduction="none")
