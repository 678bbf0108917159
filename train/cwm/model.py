"""The CWM transformer: pre-norm RMSNorm, grouped-query attention with rotary embedding, SwiGLU, untied head, no biases.

Parameters carry the names of transformers' `CwmForCausalLM`, so a state dict is a checkpoint. Tokens run through the
model flat, as (T, D), whatever documents they belong to; only attention looks at the boundaries.

Shape letters: T tokens, B sequences, L their length, V vocabulary, D width, F feed-forward width, N query heads,
K kv heads, H head width, P = H / 2.

Source: CWM (arXiv 2510.02387) section 4.1.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swegym.train.cwm.attention import DocumentLayout, attend
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.rope import apply_rope, inverse_frequencies, rope_table

__all__ = ["AttentionContext", "CwmForCausalLM"]


class AttentionContext(Protocol):
    """Where a layer's keys and values go, and what its queries see: a pack of documents, or a cache of the past."""

    def attend(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None) -> Tensor:
        """Attention output (T, N, H)."""
        ...


class _Pack:
    """Documents that only see themselves."""

    def __init__(self, layout: DocumentLayout) -> None:
        self.layout = layout

    def attend(self, layer: int, q_TNH: Tensor, k_TKH: Tensor, v_TKH: Tensor, window: int | None) -> Tensor:
        return attend(q_TNH, k_TKH, v_TKH, self.layout, window)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        """In float32 inside, the input's dtype outside."""
        return self.weight * F.rms_norm(x_TD.float(), self.weight.shape, eps=self.eps).to(x_TD.dtype)


class Attention(nn.Module):
    """Grouped-query attention of one layer."""

    def __init__(self, config: CwmConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim, self.window = layer, config.head_dim, config.window(layer)
        query_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.o_proj = nn.Linear(query_width, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor, rope: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        heads = (-1, self.head_dim)
        q_TNH = apply_rope(self.q_proj(x_TD).unflatten(-1, heads), *rope)
        k_TKH = apply_rope(self.k_proj(x_TD).unflatten(-1, heads), *rope)
        v_TKH = self.v_proj(x_TD).unflatten(-1, heads)
        out: Tensor = self.o_proj(context.attend(self.layer, q_TNH, k_TKH, v_TKH, self.window).flatten(-2))
        return out


class Mlp(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: CwmConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))
        return out


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: CwmConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = Mlp(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, rope: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        x_TD = x_TD + self.self_attn(self.input_layernorm(x_TD), rope, context)
        out: Tensor = x_TD + self.mlp(self.post_attention_layernorm(x_TD))
        return out


class Backbone(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: CwmConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, tokens_T: Tensor, rope: tuple[Tensor, Tensor], context: AttentionContext) -> Tensor:
        x_TD = self.embed_tokens(tokens_T)
        for layer in self.layers:
            x_TD = layer(x_TD, rope, context)
        out: Tensor = self.norm(x_TD)
        return out


class CwmForCausalLM(nn.Module):
    """The whole model, on the current default device and dtype; weights are random until `initialize` or a load."""

    def __init__(self, config: CwmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def initialize(self, seed: int) -> CwmForCausalLM:
        """Normal weights with the config's standard deviation, norms at one; the same for one seed everywhere."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.ndim == 1:
                    parameter.fill_(1.0)
                else:
                    random = torch.randn(parameter.shape, generator=generator) * self.config.initializer_range
                    parameter.copy_(random)
        return self

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Logits of plain sequences of one length, each its own document.

        Args:
            tokens_BL: int64 (B, L).

        Returns:
            (B, L, V): entry l is about token l + 1.
        """
        batch, length = tokens_BL.shape
        positions_T = torch.arange(length, device=tokens_BL.device).repeat(batch)
        offsets = torch.arange(batch + 1, device=tokens_BL.device) * length
        hidden_TD = self.hidden_states(tokens_BL.flatten(), positions_T, offsets)
        logits_TV: Tensor = self.lm_head(hidden_TD)
        return logits_TV.view(batch, length, -1)

    def hidden_states(self, tokens_T: Tensor, positions_T: Tensor, cu_seqlens_D1: Tensor) -> Tensor:
        """Last hidden states of packed documents; the head has not been applied.

        Args:
            tokens_T: int64, documents one after the other.
            positions_T: int64, restarting at 0 in every document.
            cu_seqlens_D1: int64, D + 1: document d is tokens [cu_seqlens[d], cu_seqlens[d + 1]).

        Returns:
            (T, D) in packed order.
        """
        layout = DocumentLayout.of(cu_seqlens_D1)
        hidden_TD = self.run(layout.sort(tokens_T), layout.sort(positions_T), _Pack(layout))
        return layout.unsort(hidden_TD)

    def run(self, tokens_T: Tensor, positions_T: Tensor, context: AttentionContext) -> Tensor:
        """Hidden states (T, D) of tokens whose attention `context` decides."""
        frequencies_P = inverse_frequencies(self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)
        rope = rope_table(positions_T, frequencies_P.to(positions_T.device))
        hidden_TD: Tensor = self.model(tokens_T, rope, context)
        return hidden_TD
