"""Key-value cache for generation: a batch of rows of different lengths, one new token per row and step.

Shape letters: T tokens, B rows, L cached tokens of the longest row, N query heads, K kv heads, G = N / K, H head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from swegym.train.cwm.attention import DocumentLayout, attend
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM

__all__ = ["KvCache"]


class KvCache:
    """Keys and values of every layer, row b filled up to its own length; grows as rows do."""

    def __init__(
        self, config: CwmConfig, num_rows: int, capacity: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (config.num_hidden_layers, num_rows, config.num_key_value_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)  # never uninitialised: masked NaN would still spread
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def capacity(self) -> int:
        """Most tokens of a row."""
        return self.keys.shape[3]

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (int64), which take places 0, 1, ..."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def reserve(self, num_tokens: int) -> None:
        """Make room for rows of `num_tokens`, at least doubling when it has to grow."""
        if num_tokens > self.capacity:
            extra = max(num_tokens, 2 * self.capacity) - self.capacity
            self.keys, self.values = (F.pad(cached, (0, 0, 0, extra)) for cached in (self.keys, self.values))

    def prefill(self, model: CwmForCausalLM, prompts: list[list[int]]) -> Tensor:
        """Run whole prompts, one per row, and remember them.

        Returns:
            (B, D): hidden state of each prompt's last token.
        """
        device = self.keys.device
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        offsets = torch.cat([lengths_B.new_zeros(1), lengths_B.cumsum(0)])
        rows_T = torch.repeat_interleave(torch.arange(len(prompts), device=device), lengths_B)
        tokens_T = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions_T = torch.arange(len(tokens_T), device=device) - offsets[rows_T]
        layout = DocumentLayout.of(offsets)
        positions_T = layout.sort(positions_T)
        context = _Prefill(self, layout, layout.sort(rows_T), positions_T)
        hidden_TD = layout.unsort(model.run(layout.sort(tokens_T), positions_T, context))
        return hidden_TD[offsets[1:] - 1]

    def step(self, model: CwmForCausalLM, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """Run one new token per row.

        Args:
            model: the model that filled this cache.
            tokens_B: int64.
            positions_B: int64, place of that token: the number of tokens its row holds already.

        Returns:
            (B, D): hidden states of the new tokens.
        """
        longest = int(positions_B.max()) + 1
        self.reserve(longest)
        return model.run(tokens_B, positions_B, _Step(self, positions_B, longest))


class _Prefill:
    """Attention of prompts to themselves; stores their keys and values."""

    def __init__(self, cache: KvCache, layout: DocumentLayout, rows_T: Tensor, positions_T: Tensor) -> None:
        self.cache, self.layout, self.rows_T, self.positions_T = cache, layout, rows_T, positions_T

    def attend(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None) -> Tensor:
        self.cache.keys[layer][self.rows_T, :, self.positions_T] = k_TKH
        self.cache.values[layer][self.rows_T, :, self.positions_T] = v_TKH
        return attend(q_TNH, k_TKH, v_TKH, self.layout, window)


class _Step:
    """Attention of one new token per row to its row: T is B here."""

    def __init__(self, cache: KvCache, positions_B: Tensor, longest: int) -> None:
        self.cache, self.positions_B, self.longest = cache, positions_B, longest
        self.rows_B = torch.arange(len(positions_B), device=positions_B.device)
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None) -> Tensor:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows_B, :, self.positions_B] = k_TKH
        values[self.rows_B, :, self.positions_B] = v_TKH
        # the query heads of one kv head become the queries of one batched product: keys need no repetition
        q_BKGH = q_TNH.view(len(self.rows_B), keys.shape[1], -1, keys.shape[3])
        out_BKGH = F.scaled_dot_product_attention(
            q_BKGH, keys[:, :, : self.longest], values[:, :, : self.longest], attn_mask=self._mask(window)
        )
        return out_BKGH.flatten(1, 2)

    def _mask(self, window: int | None) -> Tensor:
        if window not in self.masks:
            key_L = torch.arange(self.longest, device=self.positions_B.device)
            last_B1 = self.positions_B[:, None]
            seen_BL = key_L <= last_B1
            if window is not None:
                seen_BL &= key_L > last_B1 - window
            self.masks[window] = seen_BL[:, None, None]
        return self.masks[window]
