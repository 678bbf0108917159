"""AdamW and the warm-up schedule as CWM's stages use them."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BETAS", "WEIGHT_DECAY", "make_adamw", "warmup_lr"]

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1


def make_adamw(
    model: nn.Module, lr: float, *, betas: tuple[float, float] = BETAS, weight_decay: float = WEIGHT_DECAY
) -> torch.optim.AdamW:
    """AdamW in one fused kernel; norm weights (1-D) are not decayed.

    Source: CWM (arXiv 2510.02387) section 4.2 for the numbers; leaving norms out is common practice, not stated there.
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    kept = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def warmup_lr(step: int, peak_lr: float, warmup_steps: int) -> float:
    """Linear warm-up, then constant: peak / warmup_steps at step 0, the peak from step warmup_steps - 1 on."""
    return peak_lr * min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else peak_lr
