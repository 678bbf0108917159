"""Packed documents: equal to one by one, blind to each other, and windowed by blocks as by a full mask."""

from __future__ import annotations

import pytest
import torch

from swegym.train.cwm.attention import DocumentLayout, attend
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.packing import Sample, pack

CONFIG = CwmConfig(
    vocab_size=37,
    hidden_size=12,
    intermediate_size=20,
    num_hidden_layers=3,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    sliding_window=4,
    layer_types=("sliding_attention", "full_attention", "sliding_attention"),
    max_position_embeddings=64,
    rope_theta=50.0,
    initializer_range=0.3,
    bos_token_id=0,
    eos_token_ids=(1,),
)
LENGTHS = [5, 1, 9, 4, 5, 13, 2]


def documents() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 37, (length,), generator=generator).tolist() for length in LENGTHS]


def packed_logits(model: CwmForCausalLM, tokens: list[list[int]]) -> list[torch.Tensor]:
    (batch,) = pack([Sample(document, [1] * len(document)) for document in tokens], token_budget=1000)
    hidden_TD = model.hidden_states(batch.tokens_T, batch.positions_T, batch.cu_seqlens_D1)
    return list(model.lm_head(hidden_TD).split(batch.lengths))


def test_packed_equals_one_by_one() -> None:
    model = CwmForCausalLM(CONFIG).initialize(1)
    for document, logits_LV in zip(documents(), packed_logits(model, documents()), strict=True):
        torch.testing.assert_close(logits_LV, model(torch.tensor([document]))[0], rtol=1e-4, atol=1e-5)


def test_gradients_packed_equal_the_sum_of_one_by_one() -> None:
    model = CwmForCausalLM(CONFIG).initialize(1)
    torch.autograd.backward(torch.cat(packed_logits(model, documents())).pow(2).sum())
    packed = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    for document in documents():
        model(torch.tensor([document])).pow(2).sum().backward()
    assert len(packed) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=1e-3)


def test_a_document_does_not_depend_on_its_neighbours() -> None:
    model = CwmForCausalLM(CONFIG).initialize(1)
    before = packed_logits(model, documents())
    changed = documents()
    changed[2] = [(token + 1) % 37 for token in changed[2]]
    after = packed_logits(model, changed)
    for index in range(len(LENGTHS)):
        same = torch.equal(before[index], after[index])
        assert same is (index != 2)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 100, None])
def test_attention_equals_a_dense_mask(length: int, window: int | None) -> None:
    generator = torch.Generator().manual_seed(length)
    batch, num_heads, num_kv_heads, head_dim = 3, 4, 2, 6
    q, k, v = (
        torch.randn(batch * length, heads, head_dim, generator=generator)
        for heads in (num_heads, num_kv_heads, num_kv_heads)
    )
    layout = DocumentLayout.of(torch.arange(batch + 1) * length)
    out_BLNH = attend(q, k, v, layout, window).view(batch, length, num_heads, head_dim)
    for document in range(batch):
        rows = slice(document * length, (document + 1) * length)
        for head in range(num_heads):
            q_LH, k_LH, v_LH = q[rows, head], k[rows, head // 2], v[rows, head // 2]
            scores_LL = q_LH @ k_LH.T / head_dim**0.5
            for query in range(length):
                for key in range(length):
                    if key > query or (window is not None and query - key >= window):
                        scores_LL[query, key] = -torch.inf
            torch.testing.assert_close(out_BLNH[document, :, head], scores_LL.softmax(-1) @ v_LH, rtol=1e-4, atol=1e-5)


def test_layout_groups_equal_lengths_and_comes_back() -> None:
    offsets = torch.tensor([0, 3, 4, 7, 9])  # lengths 3, 1, 3, 2
    layout = DocumentLayout.of(offsets)
    assert layout.groups == ((1, 1), (1, 2), (2, 3))
    array_T = torch.arange(9)
    assert layout.sort(array_T).tolist() == [3, 7, 8, 0, 1, 2, 4, 5, 6]
    assert layout.unsort(layout.sort(array_T)).tolist() == array_T.tolist()


def test_layout_keeps_an_order_that_is_already_sorted() -> None:
    layout = DocumentLayout.of(torch.tensor([0, 2, 4, 7]))
    assert layout.order_T is None
    assert layout.groups == ((2, 2), (1, 3))


def test_initialisation_is_the_same_for_one_seed() -> None:
    first, again, other = (CwmForCausalLM(CONFIG).initialize(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert first["lm_head.weight"].std().item() == pytest.approx(0.3, rel=0.1)
