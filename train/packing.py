"""Packing: variable-length samples -> flat batches under a token budget, with explicit document boundaries.

Labels and every aligned value are shifted inside their own sample before samples are joined, so nothing ever crosses
a boundary. Used by SFT and by the RL learner.

Shape letters: T tokens of one pack (all documents in a row), D documents of one pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["PackedBatch", "Sample", "pack", "plan_packs"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One document to train on. All sequences are aligned with `tokens`."""

    tokens: Sequence[int]
    loss_mask: Sequence[int]
    """1 on tokens that are trained, as targets. The first token can never be one: nothing predicts it."""
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Further aligned arrays, such as `rollout_logprobs` and `advantages`: the value at i belongs to token i."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Documents joined in one row. Position t of every `*_T` target array speaks of the token that follows token t."""

    tokens_T: Tensor
    """int64: input ids."""
    positions_T: Tensor
    """int64: 0, 1, 2, ... restarting in every document."""
    document_ids_T: Tensor
    """int64: 0 .. D-1."""
    cu_seqlens_D1: Tensor
    """int64, D + 1 entries: document d is tokens [cu_seqlens[d], cu_seqlens[d + 1])."""
    labels_T: Tensor
    """int64: the next token of the same document; 0 at a document's last position (where target_mask is False)."""
    target_mask_T: Tensor
    """bool: the label exists and its loss_mask is 1."""
    values_T: dict[str, Tensor]
    """float32: values of the label token (shifted like labels); 0 at a document's last position."""
    sample_indices: tuple[int, ...]
    """Index of each document in the list that was packed."""

    @property
    def num_tokens(self) -> int:
        return int(self.tokens_T.numel())

    @property
    def num_documents(self) -> int:
        return len(self.sample_indices)

    @property
    def num_targets(self) -> int:
        """Number of trained tokens."""
        return int(self.target_mask_T.sum())

    @property
    def lengths(self) -> list[int]:
        """Tokens per document."""
        return [int(length) for length in self.cu_seqlens_D1.diff()]

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch with its tensors on another device."""
        return PackedBatch(
            tokens_T=self.tokens_T.to(device),
            positions_T=self.positions_T.to(device),
            document_ids_T=self.document_ids_T.to(device),
            cu_seqlens_D1=self.cu_seqlens_D1.to(device),
            labels_T=self.labels_T.to(device),
            target_mask_T=self.target_mask_T.to(device),
            values_T={name: value_T.to(device) for name, value_T in self.values_T.items()},
            sample_indices=self.sample_indices,
        )


def plan_packs(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Deal sample indices to packs: first fit, in the given order, every index exactly once.

    Args:
        lengths: tokens of each sample.
        token_budget: most tokens of a pack; a longer sample gets a pack of its own.

    Raises:
        ValueError: the budget is not positive.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    packs: list[list[int]] = []
    room: list[int] = []
    open_from = 0  # packs before this one are full, so a long list stays cheap to place
    for index, length in enumerate(lengths):
        for number in range(open_from, len(packs)):
            if length <= room[number]:
                packs[number].append(index)
                room[number] -= length
                break
        else:
            packs.append([index])
            room.append(token_budget - length)
        while open_from < len(packs) and room[open_from] <= 0:
            open_from += 1
    return packs


def pack(samples: Sequence[Sample], token_budget: int) -> list[PackedBatch]:
    """Join samples into as few flat batches as first fit finds.

    Args:
        samples: at least one token each; all carry the same names in `values`.
        token_budget: most tokens of a batch; a longer sample is alone in its batch, whole.

    Returns:
        Batches that together hold every sample exactly once.

    Raises:
        ValueError: a sample is empty, its arrays are not aligned, or samples differ in the names of their values.
    """
    for index, sample in enumerate(samples):
        _check(index, sample, set(samples[0].values))
    plan = plan_packs([len(sample.tokens) for sample in samples], token_budget)
    return [_join(samples, indices) for indices in plan]


def _check(index: int, sample: Sample, names: set[str]) -> None:
    num_tokens = len(sample.tokens)
    if num_tokens == 0:
        raise ValueError(f"sample {index} has no tokens")
    if set(sample.values) != names:
        raise ValueError(f"sample {index} has values {sorted(sample.values)}, sample 0 has {sorted(names)}")
    for name, array in {"loss_mask": sample.loss_mask, **sample.values}.items():
        if len(array) != num_tokens:
            raise ValueError(f"sample {index}: {name} has {len(array)} entries for {num_tokens} tokens")


def _join(samples: Sequence[Sample], indices: list[int]) -> PackedBatch:
    chosen = [samples[index] for index in indices]
    lengths_D = torch.tensor([len(sample.tokens) for sample in chosen])
    cu_seqlens_D1 = torch.cat([lengths_D.new_zeros(1), lengths_D.cumsum(0)])
    document_ids_T = torch.repeat_interleave(torch.arange(len(chosen)), lengths_D)
    tokens_T = torch.tensor([token for sample in chosen for token in sample.tokens], dtype=torch.int64)
    loss_mask_T = torch.tensor([bool(flag) for sample in chosen for flag in sample.loss_mask])
    last_T = torch.zeros_like(loss_mask_T)
    last_T[cu_seqlens_D1[1:] - 1] = True
    values_T = {
        name: torch.tensor([value for sample in chosen for value in sample.values[name]], dtype=torch.float32)
        for name in chosen[0].values
    }
    return PackedBatch(
        tokens_T=tokens_T,
        positions_T=torch.arange(len(tokens_T)) - cu_seqlens_D1[document_ids_T],
        document_ids_T=document_ids_T,
        cu_seqlens_D1=cu_seqlens_D1,
        labels_T=_shift(tokens_T, last_T),
        target_mask_T=_shift(loss_mask_T, last_T),
        values_T={name: _shift(value_T, last_T) for name, value_T in values_T.items()},
        sample_indices=tuple(indices),
    )


def _shift(array_T: Tensor, last_T: Tensor) -> Tensor:
    """Entry t becomes entry t + 1 of the same document; zero (False) at each document's last position."""
    return torch.where(last_T, torch.zeros_like(array_T), array_T.roll(-1))
