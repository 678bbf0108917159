"""Learner: one process that turns groups of trajectories into optimizer steps.

Every decision is a pure function elsewhere (advantages, filters, batch, packing, loss); this class holds what has
state: the parameters, AdamW's moments and the number of steps done, which is also the version of the policy.

Micro-batches are sums under one normaliser, so their size and order decide memory and nothing else.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import CheckpointError, TrainingError
from swegym.core.outcome import Validity
from swegym.core.trajectory import Trajectory
from swegym.train.batch import TrainingBatch, build_batch
from swegym.train.config import ADVANTAGES, RlConfig
from swegym.train.cwm.checkpoint import save_checkpoint
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.filters import FilterRules, is_overlong, staleness
from swegym.train.logprobs import token_logprobs
from swegym.train.loss import LossInput, LossStats, policy_loss
from swegym.train.optimizer import make_adamw, warmup_lr
from swegym.train.packing import PackedBatch, Sample, pack
from swegym.train.sft import SftExample

__all__ = ["Learner", "rollout_metrics"]

SCHEMA_VERSION = 1


class Learner:
    """GRPO with CWM's objective on one device."""

    def __init__(self, model: CwmForCausalLM, config: RlConfig) -> None:
        """Take over a model.

        Args:
            model: on its device; its weights are changed in place by `step`.
            config: `algo` and `optim` are read.

        Raises:
            UnknownName: there is no advantage rule of that name.
        """
        self.model = model.train()
        self.algo = config.algo
        self.optim = config.optim
        self.policy_version = 0
        """Optimizer steps done."""
        self.advantage_fn = ADVANTAGES.get(config.algo.advantage)
        self.rules = FilterRules(
            max_staleness=config.algo.max_staleness,
            overlong=config.algo.overlong,
            gibberish_token_id=config.algo.gibberish_token_id,
            vocab_size=model.config.vocab_size,
        )
        self.optimizer = make_adamw(
            model, config.optim.lr, betas=config.optim.betas, weight_decay=config.optim.weight_decay
        )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def step(self, groups: Sequence[Sequence[Trajectory]], rehearsal: Sequence[SftExample] = ()) -> dict[str, float]:
        """At most one optimizer step on these groups.

        When the filters leave no token, nothing changes: neither parameters, nor optimizer, learning rate or version.

        Args:
            groups: the graded trajectories of one task each.
            rehearsal: supervised examples whose NLL is added with weight `algo.rehearsal_weight`.

        Returns:
            Metrics by name; `optim/steps` is 1 or 0, the number of optimizer steps taken.

        Raises:
            ConfigError: a group of fewer than two.
            TrainingError: a trajectory cannot be trained on, or loss or gradient are not finite; nothing has changed.
        """
        started = time.perf_counter()
        batch = build_batch(groups, self.advantage_fn, self.rules, self.policy_version)
        metrics = rollout_metrics([item for group in groups for item in group], self.policy_version)
        metrics |= _batch_metrics(batch)
        if batch.num_trained_tokens:
            metrics |= self._update(batch, rehearsal)
        metrics["optim/steps"] = float(bool(batch.num_trained_tokens))
        metrics["policy_version"] = float(self.policy_version)
        metrics["time/learner_s"] = time.perf_counter() - started
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next step, in types that `torch.load(weights_only=True)` accepts.

        The tensors are the live ones: write or copy them before the next step.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "policy_version": self.policy_version,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Rates, betas and decay stay those of this learner's own config.

        Raises:
            CheckpointError: the state is of another format or of a model of another shape.
        """
        if state.get("schema_version") != SCHEMA_VERSION:
            raise CheckpointError(
                f"learner state has format {state.get('schema_version')}, this reads {SCHEMA_VERSION}"
            )
        own_settings = [
            {"betas": group["betas"], "weight_decay": group["weight_decay"]} for group in self.optimizer.param_groups
        ]
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"learner state does not fit this model: {str(error).splitlines()[0]}") from error
        for group, own in zip(self.optimizer.param_groups, own_settings, strict=True):
            group.update(own)
        self.policy_version = int(state["policy_version"])
        torch.set_rng_state(state["rng"])

    def save_weights(self, folder: Path | str, tokenizer: BpeTokenizer | None = None) -> Path:
        """Write the weights as a Hugging Face folder, replacing what is there. Raises CheckpointError."""
        return save_checkpoint(folder, self.model, tokenizer, overwrite=True)

    def _update(self, batch: TrainingBatch, rehearsal: Sequence[SftExample]) -> dict[str, float]:
        self.optimizer.zero_grad(set_to_none=True)
        is_constant = not isinstance(self.algo.normalizer, str)
        normalizer = float(self.algo.normalizer) if is_constant else float(batch.num_trained_tokens)
        loss, stats = self._accumulate_policy(batch, normalizer)
        metrics = {"loss/policy": loss} | {f"loss/{name}": value for name, value in stats.metrics().items()}
        num_rehearsal_tokens = sum(sum(example.loss_mask[1:]) for example in rehearsal)
        if num_rehearsal_tokens and self.algo.rehearsal_weight:
            nll = self._accumulate_rehearsal(rehearsal, normalizer if is_constant else float(num_rehearsal_tokens))
            metrics["loss/rehearsal"] = nll
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optim.grad_clip)
        # both: the minimum in the objective swallows a NaN of the loss on the way back
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            found = f"loss {loss}, gradient norm {float(norm)}"
            raise TrainingError(f"step {self.policy_version + 1} is not finite ({found}); no step was taken")
        rate = warmup_lr(self.policy_version, self.optim.lr, self.optim.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy_version += 1
        return metrics | {"optim/grad_norm": float(norm), "optim/lr": rate}

    def _accumulate_policy(self, batch: TrainingBatch, normalizer: float) -> tuple[float, LossStats]:
        loss_sum, stats = 0.0, LossStats()
        for temperature, samples in batch.samples.items():
            for packed in self._packs(samples):
                inputs = LossInput(
                    policy_logprobs_T=token_logprobs(self.model, packed, temperature),
                    rollout_logprobs_T=packed.values_T["rollout_logprobs"],
                    advantages_T=packed.values_T["advantages"],
                    loss_mask_T=packed.target_mask_T,
                )
                loss, part = policy_loss(
                    inputs, normalizer=normalizer, clip_low=self.algo.clip_low, clip_high=self.algo.clip_high
                )
                _backward(loss)
                loss_sum, stats = loss_sum + loss.item(), stats + part
        return loss_sum, stats

    def _accumulate_rehearsal(self, examples: Sequence[SftExample], normalizer: float) -> float:
        """Returns the unweighted NLL."""
        nll_sum = 0.0
        for packed in self._packs([Sample(example.tokens, example.loss_mask) for example in examples]):
            nll = -token_logprobs(self.model, packed).sum() / normalizer
            _backward(self.algo.rehearsal_weight * nll)
            nll_sum += nll.item()
        return nll_sum

    def _packs(self, samples: Iterable[Sample]) -> list[PackedBatch]:
        # long ones first: first fit then wastes least, and documents of one pack are of like length
        ordered = sorted(samples, key=lambda sample: -len(sample.tokens))
        return [packed.to(self.device) for packed in pack(ordered, self.optim.token_budget)]


def rollout_metrics(trajectories: Sequence[Trajectory], policy_version: int) -> dict[str, float]:
    """What the trajectories of one step look like, before any filter. Means are over the valid ones."""
    valid = [item for item in trajectories if item.validity is Validity.VALID and item.reward is not None]
    metrics = {
        "rollout/trajectories": float(len(trajectories)),
        "rollout/invalid_share": 1.0 - len(valid) / len(trajectories) if trajectories else 0.0,
    }
    if not valid:
        return metrics
    metrics["reward/mean"] = _mean([item.reward or 0.0 for item in valid])
    for term in sorted({name for item in valid for name in item.rewards}):
        metrics[f"reward/{term}"] = _mean([item.rewards[term] for item in valid if term in item.rewards])
    graded = [item.outcome for item in valid if item.outcome is not None]
    if graded:
        metrics["rollout/pass_rate"] = _mean([outcome.resolved for outcome in graded])
    metrics["rollout/turns"] = _mean([len(item.turns) for item in valid])
    metrics["rollout/agent_tokens"] = _mean([item.num_agent_tokens for item in valid])
    metrics["rollout/truncated_share"] = _mean([is_overlong(item) for item in valid])
    acted = [item for item in valid if item.num_agent_tokens]
    if acted:
        ages = [staleness(item, policy_version) for item in acted]
        metrics |= {"rollout/staleness": _mean(ages), "rollout/staleness_max": float(max(ages))}
        # the mean surprise of sampled tokens is an unbiased estimate of the policy's entropy, in nats per token
        total = sum(sum(context.rollout_logprobs) for item in acted for context in item.contexts)
        metrics["rollout/entropy"] = -total / sum(item.num_agent_tokens for item in acted)
    return metrics


def _batch_metrics(batch: TrainingBatch) -> dict[str, float]:
    num_trained = batch.num_trajectories - batch.num_dropped
    metrics = {f"filter/{cause.value}": float(count) for cause, count in batch.drops.items()}
    metrics["batch/trajectories"] = float(num_trained)
    metrics["batch/trained_tokens"] = float(batch.num_trained_tokens)
    metrics["batch/mixed_group_share"] = batch.num_mixed_groups / batch.num_groups if batch.num_groups else 0.0
    if num_trained:
        metrics["batch/mean_abs_advantage"] = batch.sum_abs_advantage / num_trained
    return metrics


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
