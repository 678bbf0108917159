"""SFT: the loss by hand, invariance to packing, the schedule, and that it learns what it is shown and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import torch

from swegym.core.errors import ConfigError, TrainingError
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.optimizer import make_adamw, warmup_lr
from swegym.train.packing import Sample
from swegym.train.sft import SftExample, SftMetrics, nll_loss, run_sft

CONFIG = CwmConfig(
    vocab_size=19,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    sliding_window=4,
    max_position_embeddings=32,
    bos_token_id=0,
    eos_token_ids=(1,),
)


def make_model(seed: int = 1) -> CwmForCausalLM:
    return CwmForCausalLM(CONFIG).initialize(seed)


def bigram_model(scores: dict[int, dict[int, float]]) -> CwmForCausalLM:
    """A model whose next-token logits depend on the present token alone: p(next | token) is set by `scores`.

    Both blocks add nothing (zero output projections), so the hidden state is the normalised one-hot embedding.
    """
    model = CwmForCausalLM(CONFIG.model_copy(update={"vocab_size": 16})).initialize(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(16) * 1000)
        model.lm_head.weight.zero_()
        for token, following in scores.items():
            for label, score in following.items():
                model.lm_head.weight[label, token] = score / 4  # the norm of a one-hot vector of width 16 is 4
    return model


def test_loss_of_a_bigram_model_by_hand() -> None:
    # odds against 15 others at 1 each: 2 -> 3 has 15 (1/2), 3 -> 4 has 5 (1/4), 5 -> 6 has 45 (3/4)
    model = bigram_model({2: {3: math.log(15)}, 3: {4: math.log(5)}, 5: {6: math.log(45)}})
    samples = [Sample((2, 3, 4), (1, 1, 1)), Sample((5, 6, 2), (0, 1, 0))]
    loss, num_targets = nll_loss(model, samples, token_budget=100)
    assert num_targets == 3  # the first token of a document and masked ones are no targets
    assert loss == pytest.approx((math.log(2) + math.log(4) + math.log(4 / 3)) / 3, rel=1e-4)


def test_the_label_of_a_last_token_is_not_the_next_document() -> None:
    model = bigram_model({3: {5: 50.0}})  # 3 -> 5 would cost nothing if the boundary leaked
    loss, num_targets = nll_loss(model, [Sample((2, 3), (1, 1)), Sample((5, 6), (1, 1))], token_budget=100)
    assert num_targets == 2
    assert loss == pytest.approx(math.log(16), rel=1e-4)


def examples() -> Iterator[SftExample]:
    pairs = [
        ((2, 3, 4, 5, 6), (0, 0, 1, 1, 1)),
        ((7, 8), (0, 1)),
        ((9, 10, 11), (0, 1, 1)),
        ((12, 13, 14, 15), (0, 1, 0, 1)),
    ]
    return cycle([SftExample(*pair) for pair in pairs])


def test_the_token_budget_changes_nothing() -> None:
    results = []
    for token_budget in (100, 7, 1):
        model = make_model()
        history = run_sft(model, examples(), steps=3, batch_size=4, lr=1e-2, token_budget=token_budget)
        results.append(([step.loss for step in history], [step.grad_norm for step in history], model.state_dict()))
    for losses, norms, state in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-4)
        assert norms == pytest.approx(results[0][1], rel=1e-3)
        for name in state:
            torch.testing.assert_close(state[name], results[0][2][name], rtol=1e-3, atol=1e-3)


def test_first_step_by_hand() -> None:
    """From zero moments AdamW moves a weight by lr * sign(gradient), after decay, at the warm-up's first rate."""
    model, before = make_model(), make_model()
    (metrics,) = run_sft(model, examples(), steps=1, batch_size=2, lr=0.04, warmup_steps=4)
    assert metrics.lr == pytest.approx(0.01)
    assert (metrics.step, metrics.num_tokens, metrics.num_targets) == (1, 7, 4)
    loss, _ = nll_loss(before, [Sample((2, 3, 4, 5, 6), (0, 0, 1, 1, 1)), Sample((7, 8), (0, 1))], 100)
    assert metrics.loss == pytest.approx(loss, rel=1e-5)
    head, old_head = model.lm_head.weight, before.lm_head.weight
    moved = (head - old_head * (1 - 0.01 * 0.1)).abs()
    assert moved.max().item() == pytest.approx(0.01, rel=1e-2)
    norm, old_norm = model.model.norm.weight, before.model.norm.weight
    assert (norm - old_norm).abs().max().item() == pytest.approx(0.01, rel=1e-2)  # not decayed


def test_it_learns_the_trained_tokens_and_only_those() -> None:
    seen: list[SftMetrics] = []
    model = make_model()
    history = run_sft(model, examples(), steps=60, batch_size=4, lr=1e-2, warmup_steps=5, on_step=seen.append)
    assert seen == history
    assert history[0].loss == pytest.approx(math.log(19), rel=0.05)
    assert history[-1].loss < 0.05
    masked_only, _ = nll_loss(model, [Sample((12, 13, 14, 15), (0, 0, 1, 0))], 100)
    assert masked_only > 1.0
    assert not model.training


def test_masked_ids_are_never_trained() -> None:
    model = make_model()
    history = run_sft(model, examples(), steps=1, batch_size=4, lr=1e-2, masked_token_ids=[8, 4])
    assert history[0].num_targets == 8 - 2
    only_masked = cycle([SftExample((7, 8), (0, 1))])
    with pytest.raises(ConfigError, match="no token of step 1"):
        run_sft(model, only_masked, steps=1, batch_size=4, lr=1e-2, masked_token_ids=[8])


def test_gradient_is_clipped_to_the_norm() -> None:
    """SGD-like check through AdamW is not possible; so compare the gradients left on the parameters."""
    model = make_model()
    (metrics,) = run_sft(model, examples(), steps=1, batch_size=4, lr=0.0, max_grad_norm=0.01)
    left = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))
    assert metrics.grad_norm > 0.05
    assert left == pytest.approx(0.01, rel=1e-2)


def test_learning_rate_zero_changes_nothing() -> None:
    model = make_model()
    run_sft(model, examples(), steps=2, batch_size=4, lr=0.0)
    for name, tensor in make_model().state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_warmup_is_linear_then_constant() -> None:
    assert [warmup_lr(step, 0.8, 4) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert warmup_lr(0, 0.8, 0) == 0.8


def test_optimizer_has_cwms_numbers() -> None:
    model = make_model()
    optimizer = make_adamw(model, 1e-3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert all(parameter.ndim == 1 for parameter in optimizer.param_groups[1]["params"])


def test_non_finite_loss_stops_before_the_weights_change() -> None:
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[3, 0] = float("nan")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingError, match="step 1: loss nan"):
        run_sft(model, examples(), steps=1, batch_size=4, lr=1e-2)
    assert all(
        torch.equal(tensor.nan_to_num(), model.state_dict()[name].nan_to_num()) for name, tensor in before.items()
    )


@pytest.mark.parametrize(
    ("stream", "settings", "words"),
    [
        (iter([SftExample((1, 2), (0, 1))]), {"batch_size": 2}, "ended at step 1 of 1"),
        (iter([SftExample((1, 2), (1,))]), {}, "2 tokens and a loss_mask of 1"),
        (iter([SftExample((), ())]), {}, "step 1: sample 0 has no tokens"),
        (iter([SftExample((1, 2), (0, 0))]), {}, "no token of step 1"),
        (iter([]), {"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_input_is_one_clear_line(stream: Iterator[SftExample], settings: dict[str, Any], words: str) -> None:
    arguments: dict[str, Any] = {"steps": 1, "batch_size": 1, "lr": 1e-3} | settings
    with pytest.raises(ConfigError, match=words):
        run_sft(make_model(), stream, **arguments)
