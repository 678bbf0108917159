"""Token log-probabilities: the label shift, the temperature, the chunks, by values computed another way."""

from __future__ import annotations

import pytest
import torch

from swegym.train import logprobs
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.packing import Sample, pack

CONFIG = CwmConfig(
    vocab_size=23,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=4,
    sliding_window=3,
    max_position_embeddings=32,
    initializer_range=0.4,
    bos_token_id=0,
    eos_token_ids=(1,),
)
SAMPLES = [Sample((3, 4, 5, 6), (0, 0, 1, 1)), Sample((7, 8), (1, 1)), Sample((9, 10, 11), (1, 0, 1))]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_the_log_softmax_of_each_document_alone(temperature: float) -> None:
    model = CwmForCausalLM(CONFIG).initialize(2)
    (batch,) = pack(SAMPLES, 100)
    result_T = logprobs.token_logprobs(model, batch, temperature)

    def expected(tokens: tuple[int, ...], place: int) -> float:
        logits_V = model(torch.tensor([tokens]))[0, place - 1]
        return float((logits_V / temperature).log_softmax(-1)[tokens[place]].item())

    by_hand = [
        0.0,
        expected((3, 4, 5, 6), 2),
        expected((3, 4, 5, 6), 3),
        0.0,
        expected((7, 8), 1),
        0.0,
        0.0,
        expected((9, 10, 11), 2),
        0.0,
    ]
    assert result_T.dtype == torch.float32
    assert result_T.tolist() == pytest.approx(by_hand, abs=1e-5)


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = CwmForCausalLM(CONFIG).initialize(2)
    (batch,) = pack(SAMPLES, 100)
    results = []
    for logits_per_chunk in (1 << 22, 2 * 23):  # all at once; two tokens at a time
        monkeypatch.setattr(logprobs, "LOGITS_PER_CHUNK", logits_per_chunk)
        model.zero_grad()
        values_T = logprobs.token_logprobs(model, batch, 0.9)
        torch.autograd.backward((values_T * torch.arange(9)).sum())
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        results.append((values_T.detach(), gradients))
    assert len(results[0][1]) == len(list(model.parameters()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_bfloat16_weights_give_float32_logprobs() -> None:
    model = CwmForCausalLM(CONFIG).initialize(2).to(torch.bfloat16)
    (batch,) = pack(SAMPLES, 100)
    assert logprobs.token_logprobs(model, batch).dtype == torch.float32


def test_no_target_gives_zeros_with_a_gradient_of_zero() -> None:
    model = CwmForCausalLM(CONFIG).initialize(2)
    (batch,) = pack([Sample((1, 2, 3), (0, 0, 0))], 100)
    values_T = logprobs.token_logprobs(model, batch)
    assert values_T.tolist() == [0.0, 0.0, 0.0]
    torch.autograd.backward(values_T.sum())
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_temperature_zero_is_refused() -> None:
    (batch,) = pack(SAMPLES, 100)
    with pytest.raises(ValueError, match="temperature"):
        logprobs.token_logprobs(CwmForCausalLM(CONFIG), batch, 0.0)
