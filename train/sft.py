"""Supervised fine-tuning: next-token loss on masked tokens of packed examples.

Kept from CWM (arXiv 2510.02387, section 5.1): AdamW (0.9, 0.95), weight decay 0.1, gradient clip 1.0, linear warm-up
then a constant rate, and no loss on `<|reasoning_thinking_start|>`, so that thinking starts only where it is injected.
Left out here: rehearsal of mid-training data, and everything distributed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from swegym.core.errors import ConfigError, TrainingError
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.logprobs import token_logprobs
from swegym.train.optimizer import make_adamw, warmup_lr
from swegym.train.packing import Sample, pack

__all__ = ["SftExample", "SftMetrics", "nll_loss", "run_sft"]


@dataclass(frozen=True, slots=True)
class SftExample:
    """One document; both sequences have one length."""

    tokens: Sequence[int]
    loss_mask: Sequence[int]
    """1 on tokens to learn."""


@dataclass(frozen=True, slots=True)
class SftMetrics:
    """What one optimizer step did."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean negative log-likelihood per trained token, in nats, before the step."""
    lr: float
    grad_norm: float
    """L2 norm before clipping."""
    num_tokens: int
    num_targets: int
    duration_s: float


def run_sft(
    model: CwmForCausalLM,
    examples: Iterator[SftExample],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    warmup_steps: int = 0,
    token_budget: int = 4096,
    max_grad_norm: float = 1.0,
    masked_token_ids: Collection[int] = (),
    on_step: Callable[[SftMetrics], None] | None = None,
) -> list[SftMetrics]:
    """Train the model in place.

    Args:
        model: its parameters are updated; left in eval mode.
        examples: an endless or long enough stream, in training order.
        steps: optimizer steps.
        batch_size: examples per step.
        lr: peak learning rate.
        warmup_steps: of linear warm-up.
        token_budget: most tokens of one forward pass; does not change the result.
        max_grad_norm: the gradient's L2 norm is clipped to this.
        masked_token_ids: tokens that are never trained, such as `<|reasoning_thinking_start|>`.
        on_step: called after every step.

    Returns:
        One entry per step.

    Raises:
        ConfigError: an argument is wrong, the stream ended early, an example is malformed, or a batch trains nothing.
        TrainingError: the loss or the gradient is not finite; the weights are those before that step.
    """
    if min(steps, batch_size, token_budget) < 1 or lr < 0 or warmup_steps < 0 or max_grad_norm <= 0:
        raise ConfigError(
            "sft: steps, batch_size, token_budget and max_grad_norm must be positive, lr and warmup_steps not negative"
        )
    optimizer = make_adamw(model, lr)
    history: list[SftMetrics] = []
    model.train()
    try:
        for step in range(steps):
            batch = list(islice(examples, batch_size))
            if len(batch) < batch_size:
                raise ConfigError(f"sft: the examples ended at step {step + 1} of {steps} (batch_size {batch_size})")
            for group in optimizer.param_groups:
                group["lr"] = warmup_lr(step, lr, warmup_steps)
            samples = _samples(batch, frozenset(masked_token_ids))
            metrics = _step(model, optimizer, samples, step + 1, token_budget, max_grad_norm)
            history.append(metrics)
            if on_step is not None:
                on_step(metrics)
    finally:
        model.eval()
    return history


def nll_loss(model: CwmForCausalLM, samples: Sequence[Sample], token_budget: int) -> tuple[float, int]:
    """Mean negative log-likelihood (nats) per trained token, without gradient, and the number of those tokens.

    Raises:
        ConfigError: no token is trained.
    """
    total, num_targets = 0.0, 0
    with torch.no_grad():
        for batch in pack(samples, token_budget):
            total -= float(token_logprobs(model, batch.to(model.lm_head.weight.device)).sum())
            num_targets += batch.num_targets
    if num_targets == 0:
        raise ConfigError("no token of these samples is trained: every loss_mask is 0")
    return total / num_targets, num_targets


def _samples(batch: Sequence[SftExample], masked: frozenset[int]) -> list[Sample]:
    samples = []
    for example in batch:
        if len(example.tokens) != len(example.loss_mask):
            lengths = f"{len(example.tokens)} tokens and a loss_mask of {len(example.loss_mask)}"
            raise ConfigError(f"sft: an example has {lengths}; they must be aligned")
        flags = zip(example.tokens, example.loss_mask, strict=True)
        samples.append(Sample(example.tokens, [int(bool(flag) and token not in masked) for token, flag in flags]))
    return samples


def _step(
    model: CwmForCausalLM,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[Sample],
    step: int,
    token_budget: int,
    max_grad_norm: float,
) -> SftMetrics:
    started = time.perf_counter()
    try:
        packs = pack(samples, token_budget)
    except ValueError as error:
        raise ConfigError(f"sft: step {step}: {error}") from error
    num_targets = sum(batch.num_targets for batch in packs)
    if num_targets == 0:
        raise ConfigError(f"sft: no token of step {step}'s examples is trained: every loss_mask is 0")
    optimizer.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in packs:
        # divided by the whole step's targets, so that the split into packs does not matter
        pack_loss = -token_logprobs(model, batch.to(model.lm_head.weight.device)).sum() / num_targets
        torch.autograd.backward(pack_loss)
        loss += pack_loss.item()
    grad_norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm))
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise TrainingError(f"sft: step {step}: loss {loss}, gradient norm {grad_norm}: lower lr or check the data")
    optimizer.step()
    return SftMetrics(
        step=step,
        loss=loss,
        lr=float(optimizer.param_groups[0]["lr"]),
        grad_norm=grad_norm,
        num_tokens=sum(batch.num_tokens for batch in packs),
        num_targets=num_targets,
        duration_s=time.perf_counter() - started,
    )
