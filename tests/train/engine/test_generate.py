"""What one engine returns: exact tokens, exact log-probabilities, clean ends."""

from __future__ import annotations

import asyncio
import math
import shutil
from pathlib import Path

import pytest
import torch

from swegym.core.errors import ConfigError, PolicyError, PromptTooLong
from swegym.core.policy import Completion, SamplingParams
from swegym.train.engine.vllm_engine import VllmEngine

from .conftest import WINDOW, Weights, random_prompt

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


def expected_logprobs(
    weights: Weights, prompt: list[int], completion: Completion, *, temperature: float, top_p: float = 1.0
) -> torch.Tensor:
    """Of the sampled tokens, float32 (T,), by the textbook: divide by the temperature, cut the tail, normalize."""
    logits = weights.logits([*prompt, *completion.token_ids])[len(prompt) - 1 : -1] / temperature
    if top_p < 1:
        probabilities, order = logits.softmax(-1).sort(descending=True)
        is_tail = probabilities.cumsum(-1) - probabilities >= top_p
        logits = logits.masked_fill(torch.zeros_like(is_tail).scatter(-1, order, is_tail), -math.inf)
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("prompt_length", [WINDOW - 10, 3 * WINDOW + 5])
async def test_logprobs_equal_the_torch_models_past_the_windows_edge(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights], temperature: float, prompt_length: int
) -> None:
    prompt = random_prompt(prompt_length, "parity")
    sampling = SamplingParams(temperature=temperature, max_tokens=2 * WINDOW, seed=5)
    for _ in range(2):  # the second time the prompt comes from the prefix cache
        completion = await engine.generate(prompt, sampling)
        assert len(completion.token_ids) == 2 * WINDOW
        expected = expected_logprobs(checkpoints[0], prompt, completion, temperature=temperature)
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


async def test_the_window_matters_for_these_prompts(checkpoints: tuple[Weights, Weights]) -> None:
    """Else the parity test could not tell whether vLLM honours layer_types."""
    prompt = random_prompt(3 * WINDOW + 5, "parity")
    config = checkpoints[0].model.config
    without_window = type(checkpoints[0].model)(config.model_copy(update={"layer_types": ("full_attention",) * 4}))
    without_window.load_state_dict(checkpoints[0].model.state_dict())
    with torch.no_grad():
        other = without_window(torch.tensor([prompt]))[0, -1]
    assert (other - checkpoints[0].logits(prompt)[-1]).abs().max() > 0.05


async def test_top_p_logprobs_are_those_of_what_is_left(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    prompt = random_prompt(30, "top-p")
    completion = await engine.generate(prompt, SamplingParams(temperature=0.8, top_p=0.5, max_tokens=20, seed=1))
    expected = expected_logprobs(checkpoints[0], prompt, completion, temperature=0.8, top_p=0.5)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


async def test_greedy_equals_the_torch_models(engine: VllmEngine, checkpoints: tuple[Weights, Weights]) -> None:
    prompt = random_prompt(100, "greedy")
    completion = await engine.generate(prompt, SamplingParams(temperature=0, max_tokens=12))
    assert completion.token_ids == checkpoints[0].greedy(prompt, 12)
    assert completion.finish_reason == "length"
    assert completion.policy_versions == (0,) * 12
    expected = expected_logprobs(checkpoints[0], prompt, completion, temperature=1.0)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


async def test_the_stop_token_is_returned_with_its_logprob(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    prompt = random_prompt(40, "stop")
    greedy = checkpoints[0].greedy(prompt, 8)
    stop = greedy[5]
    assert stop not in greedy[:5]
    completion = await engine.generate(prompt, SamplingParams(temperature=0, max_tokens=8, stop_token_ids=(stop,)))
    assert completion.finish_reason == "stop"
    assert completion.token_ids == greedy[:6]
    assert len(completion.logprobs) == len(completion.policy_versions) == 6
    expected = expected_logprobs(checkpoints[0], prompt, completion, temperature=1.0)
    assert completion.logprobs[-1] == pytest.approx(float(expected[-1]), abs=1e-4)


async def test_the_checkpoints_own_end_tokens_do_not_stop_a_request(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    """Only the request's stop ids do: an agent decides what ends its turn."""
    eos = set(checkpoints[0].model.config.eos_token_ids)
    completions = await asyncio.gather(
        *(
            engine.generate(random_prompt(5, "eos"), SamplingParams(temperature=2.0, max_tokens=400, seed=seed))
            for seed in range(4)
        )
    )
    assert any(eos & set(completion.token_ids) for completion in completions)
    assert {len(completion.token_ids) for completion in completions} == {400}


async def test_max_tokens_is_cut_to_the_room_left(engine: VllmEngine) -> None:
    prompt = random_prompt(engine.max_model_len - 3, "room")
    completion = await engine.generate(prompt, SamplingParams(max_tokens=50))
    assert (len(completion.token_ids), completion.finish_reason) == (3, "length")
    assert len((await engine.generate([*prompt, 1, 2], SamplingParams(max_tokens=50))).token_ids) == 1


async def test_bad_prompts_are_refused_before_vllm_sees_them(engine: VllmEngine) -> None:
    sampling = SamplingParams(max_tokens=2)
    with pytest.raises(PromptTooLong, match="512 tokens, the context 512"):
        await engine.generate([1] * 512, sampling)
    with pytest.raises(PolicyError, match="token id 1024 is outside the vocabulary of 1024"):
        await engine.generate([1, 1024], sampling)
    with pytest.raises(PolicyError, match="token id -1 "):
        await engine.generate([-1, 3], sampling)
    with pytest.raises(PolicyError, match="empty"):
        await engine.generate([], sampling)
    assert len((await engine.generate([1023], sampling)).token_ids) == 2


async def test_what_vllm_refuses_is_a_policy_error(engine: VllmEngine) -> None:
    with pytest.raises(PolicyError, match=r"temperature must be in \[0, 2\], got 3.0"):
        await engine.generate([1, 2], SamplingParams(temperature=3.0))
    assert engine.is_alive


async def test_a_seed_decides_the_sample_in_any_company(engine: VllmEngine) -> None:
    """Long prompts of many seeded requests fill more than one step: that used to kill vLLM on a CPU."""
    prompts = [random_prompt(200 + index, "seed", str(index)) for index in range(40)]
    alone = [await engine.generate(prompts[index], SamplingParams(max_tokens=8, seed=index)) for index in range(3)]
    together = await asyncio.gather(
        *(engine.generate(prompt, SamplingParams(max_tokens=8, seed=seed)) for seed, prompt in enumerate(prompts))
    )
    assert [completion.token_ids for completion in together[:3]] == [completion.token_ids for completion in alone]
    others = await engine.generate(prompts[0], SamplingParams(max_tokens=8, seed=99))
    assert others.token_ids != alone[0].token_ids


async def test_without_a_seed_equal_requests_differ(engine: VllmEngine) -> None:
    prompt = random_prompt(10, "group")
    group = await asyncio.gather(*(engine.generate(prompt, SamplingParams(max_tokens=6)) for _ in range(8)))
    assert len({completion.token_ids for completion in group}) == 8


async def test_a_cancelled_request_frees_the_engine(engine: VllmEngine) -> None:
    task = asyncio.create_task(engine.generate(random_prompt(10, "cancel"), SamplingParams(max_tokens=500)))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len((await engine.generate([1, 2, 3], SamplingParams(max_tokens=4))).token_ids) == 4


async def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path, checkpoints: tuple[Weights, Weights]) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} is not a checkpoint folder"):
        await VllmEngine(tmp_path).start()
    shutil.copy(checkpoints[0].folder / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        await VllmEngine(tmp_path).start()
