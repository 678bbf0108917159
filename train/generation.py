"""Batched generation with a torch CWM: prompts of different lengths, sampling parameters per request.

Shape letters: B rows that still generate, V vocabulary, D width.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from swegym.core.errors import PolicyError, PromptTooLong
from swegym.core.policy import FinishReason, SamplingParams
from swegym.train.cwm.cache import KvCache
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.sampling import processed_logprobs, sample_tokens

__all__ = ["Generation", "check_prompt", "generate"]

CACHE_HEADROOM_TOKENS = 64


@dataclass(slots=True)
class Generation:
    """What was generated for one prompt."""

    token_ids: list[int] = field(default_factory=list)
    """Includes the stop token when one was sampled."""
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "abort"


def check_prompt(prompt: Sequence[int], config: CwmConfig) -> None:
    """Refuse what the model cannot continue.

    Raises:
        PromptTooLong: there is no room for one more token.
        PolicyError: the prompt is empty or holds an id outside the vocabulary.
    """
    if not prompt:
        raise PolicyError("the prompt has no tokens: a token policy reads prompt_token_ids")
    if len(prompt) + 1 > config.max_position_embeddings:
        limit = config.max_position_embeddings
        raise PromptTooLong(
            f"prompt of {len(prompt)} tokens leaves no room: the model's limit is {limit} with the answer"
        )
    for token in prompt:
        if not 0 <= token < config.vocab_size:
            raise PolicyError(f"prompt holds token {token}; the vocabulary has {config.vocab_size}: wrong tokenizer?")


@torch.inference_mode()
def generate(
    model: CwmForCausalLM,
    prompts: Sequence[Sequence[int]],
    sampling: Sequence[SamplingParams],
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Generation]:
    """Continue every prompt until a stop token, its `max_tokens` or the model's last position.

    A request with a seed draws the same random numbers whatever else is in the batch; the logits they are compared with
    agree between batches up to float rounding.

    Args:
        model: weights must not change meanwhile.
        prompts: token ids, each accepted by `check_prompt`.
        sampling: one per prompt.
        should_stop: asked before every step; True ends all that is unfinished with finish reason "abort".

    Returns:
        One Generation per prompt.
    """
    if not prompts:
        return []
    rows = _Rows(model.config, prompts, sampling, model.lm_head.weight.device)
    weight = model.lm_head.weight
    capacity = min(max(map(len, prompts)) + CACHE_HEADROOM_TOKENS, model.config.max_position_embeddings)
    cache = KvCache(model.config, len(prompts), capacity, dtype=weight.dtype, device=weight.device)
    hidden_BD = cache.prefill(model, [list(prompt) for prompt in prompts])
    while not should_stop():
        tokens_B = rows.advance(model.lm_head(hidden_BD))
        going = rows.going()
        if not len(going):
            break
        if len(going) < rows.num_rows:
            cache.keep(going)
            rows.keep(going)
            tokens_B = tokens_B[going]
        hidden_BD = cache.step(model, tokens_B, rows.positions_B)
    return rows.generations


class _Rows:
    """State of the rows that still generate, as tensors, and the generations of all."""

    def __init__(
        self,
        config: CwmConfig,
        prompts: Sequence[Sequence[int]],
        sampling: Sequence[SamplingParams],
        device: torch.device,
    ) -> None:
        self.generations = [Generation() for _ in prompts]
        self.members = list(range(len(prompts)))
        self.stop_ids = [frozenset(params.stop_token_ids) for params in sampling]
        room = [config.max_position_embeddings - len(prompt) for prompt in prompts]
        self.max_tokens = [min(params.max_tokens, left) for params, left in zip(sampling, room, strict=True)]
        self.random = [_generator(params.seed) for params in sampling]
        self.temperature_B = torch.tensor([params.temperature for params in sampling], device=device)
        self.top_p_B = torch.tensor([params.top_p for params in sampling], device=device)
        self.positions_B = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)

    @property
    def num_rows(self) -> int:
        return len(self.members)

    def advance(self, logits_BV: Tensor) -> Tensor:
        """Sample one token per row and record it."""
        draws = [torch.rand(1, generator=self.random[member], dtype=torch.float64) for member in self.members]
        logprobs_BV = processed_logprobs(logits_BV, self.temperature_B, self.top_p_B)
        tokens_B = sample_tokens(logprobs_BV, self.temperature_B, torch.cat(draws).to(logits_BV.device))
        logprobs_B = logprobs_BV.gather(1, tokens_B[:, None]).squeeze(1)
        for member, token, logprob in zip(self.members, tokens_B.tolist(), logprobs_B.tolist(), strict=True):
            generation = self.generations[member]
            generation.token_ids.append(token)
            generation.logprobs.append(logprob)
            if token in self.stop_ids[member]:
                generation.finish_reason = "stop"
            elif len(generation.token_ids) >= self.max_tokens[member]:
                generation.finish_reason = "length"
        self.positions_B = self.positions_B + 1
        return tokens_B

    def going(self) -> Tensor:
        """int64: places of the rows that are not finished."""
        places = [i for i, member in enumerate(self.members) if self.generations[member].finish_reason == "abort"]
        return torch.tensor(places, dtype=torch.int64, device=self.positions_B.device)

    def keep(self, places: Tensor) -> None:
        self.members = [self.members[place] for place in places.tolist()]
        self.temperature_B, self.top_p_B = self.temperature_B[places], self.top_p_B[places]
        self.positions_B = self.positions_B[places]


def _generator(seed: int | None) -> torch.Generator:
    return torch.Generator().manual_seed(secrets.randbits(63) if seed is None else seed % 2**63)
