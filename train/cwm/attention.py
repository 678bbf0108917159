"""Document-causal attention over packed tokens, behind one function.

Documents of one length lie side by side (see `DocumentLayout`), so each length is one batched SDPA call without any
padding or mask. A window shorter than a document is computed block by block: cost and memory grow with the window.

Shape letters: T tokens, B documents of one length, L their length, N query heads, K kv heads, H head width,
W window, C blocks of W tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["DocumentLayout", "attend"]


@dataclass(frozen=True, slots=True)
class DocumentLayout:
    """Order of tokens inside the model: documents stably sorted by length."""

    order_T: Tensor | None
    """int64: packed index of each token inside the model; None when the order is the packed one."""
    inverse_T: Tensor | None
    """int64: index inside the model of each packed token."""
    groups: tuple[tuple[int, int], ...]
    """(B, L) of each run of equally long documents, in the model's order; the sum of B * L is T."""

    @classmethod
    def of(cls, cu_seqlens_D1: Tensor) -> DocumentLayout:
        """Plan a pack. Args: cu_seqlens_D1: int64, D + 1 rising offsets from 0 to T."""
        lengths_D = cu_seqlens_D1.diff()
        sorted_lengths_D, documents_D = lengths_D.sort(stable=True)
        unique, counts = torch.unique_consecutive(sorted_lengths_D, return_counts=True)
        groups = tuple(zip(counts.tolist(), unique.tolist(), strict=True))
        if bool((documents_D.diff() == 1).all()):
            return cls(None, None, groups)
        starts_D = cu_seqlens_D1[:-1][documents_D]
        within_T = torch.arange(int(cu_seqlens_D1[-1]), device=cu_seqlens_D1.device)
        new_starts_D = sorted_lengths_D.cumsum(0) - sorted_lengths_D
        order_T = within_T + torch.repeat_interleave(starts_D - new_starts_D, sorted_lengths_D)
        return cls(order_T, torch.empty_like(order_T).scatter_(0, order_T, within_T), groups)

    def sort(self, array_T: Tensor) -> Tensor:
        """From packed order to the model's."""
        return array_T if self.order_T is None else array_T[self.order_T]

    def unsort(self, array_TD: Tensor) -> Tensor:
        """From the model's order back to the packed one."""
        return array_TD if self.inverse_T is None else array_TD.index_select(0, self.inverse_T)


def attend(q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, layout: DocumentLayout, window: int | None) -> Tensor:
    """Causal attention inside each document, scaled by 1 / sqrt(H).

    Args:
        q_TNH: queries in the layout's order; rotary embedding already applied.
        k_TKH: keys; each serves N / K query heads.
        v_TKH: values.
        layout: where documents lie.
        window: a token sees itself and window - 1 before it; None sees its whole document.

    Returns:
        (T, N, H), the dtype of the queries.
    """
    sizes = [batch * length for batch, length in layout.groups]
    outputs = []
    # split, not slices: its backward is one concatenation instead of a zero-filled (T, N, H) for every group
    splits = (torch.split(x, sizes) for x in (q_TNH, k_TKH, v_TKH))
    for (batch, length), *group in zip(layout.groups, *splits, strict=True):
        q, k, v = (x.unflatten(0, (batch, length)).transpose(1, 2) for x in group)
        out = _causal(q, k, v) if window is None or window >= length else _windowed(q, k, v, window)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _causal(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q_BNLH, k_BKLH, v_BKLH, is_causal=True, enable_gqa=True)


def _windowed(q_BNLH: Tensor, k_BKLH: Tensor, v_BKLH: Tensor, window: int) -> Tensor:
    """Block c of W queries sees keys of blocks c - 1 and c, cut to the band; block 0 is plainly causal."""
    length = q_BNLH.shape[2]
    first = _causal(q_BNLH[:, :, :window], k_BKLH[:, :, :window], v_BKLH[:, :, :window])
    num_full = length // window - 1
    parts = [first]
    if num_full > 0:
        stop = (num_full + 1) * window
        q = _blocks(q_BNLH[:, :, window:stop], window, window)
        k = _blocks(k_BKLH[:, :, :stop], 2 * window, window)
        v = _blocks(v_BKLH[:, :, :stop], 2 * window, window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=_band(window, window, q.device), enable_gqa=True)
        parts.append(out.view(-1, num_full, *out.shape[1:]).transpose(1, 2).flatten(2, 3))
    rest = length % window
    if rest:
        q, k, v = q_BNLH[:, :, -rest:], k_BKLH[:, :, -(rest + window) :], v_BKLH[:, :, -(rest + window) :]
        parts.append(F.scaled_dot_product_attention(q, k, v, attn_mask=_band(rest, window, q.device), enable_gqa=True))
    return torch.cat(parts, dim=2)


def _blocks(x_BNLH: Tensor, size: int, stride: int) -> Tensor:
    """Overlapping blocks of `size` tokens every `stride`, as (B * C, N, size, H)."""
    return x_BNLH.unfold(2, size, stride).permute(0, 2, 1, 4, 3).flatten(0, 1)


def _band(num_queries: int, window: int, device: torch.device) -> Tensor:
    """Mask (queries, window + queries): key j stands j - window before query 0; query i sees (i, i + window]."""
    query = torch.arange(num_queries, device=device)[:, None]
    key = torch.arange(window + num_queries, device=device)
    return (key > query) & (key <= query + window)
