"""TorchPolicy: generation equals the full forward pass, whatever the batch; async behaviour and refusals."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
import torch

from swegym.core.errors import PolicyError, PromptTooLong, WeightSyncError
from swegym.core.policy import Completion, Policy, PolicyRequest, SamplingParams
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.generation import Generation, generate
from swegym.train.logprobs import token_logprobs
from swegym.train.packing import Sample, pack
from swegym.train.tokenizer import train_tokenizer
from swegym.train.torch_policy import TorchPolicy

MAX_POSITIONS = 200
CONFIG = CwmConfig(
    vocab_size=300,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    sliding_window=9,  # shorter than most prompts below, and crossed by the answers
    max_position_embeddings=MAX_POSITIONS,
    initializer_range=0.3,
    bos_token_id=283,
    eos_token_ids=(284,),
)
TOKENIZER = train_tokenizer(["some words to split"], 300)


def make_model(seed: int = 7) -> CwmForCausalLM:
    return CwmForCausalLM(CONFIG).initialize(seed)


def make_policy(**settings: Any) -> TorchPolicy:
    return TorchPolicy(make_model(), TOKENIZER, **settings)


def make_prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = random.Random(f"{length} {seed}")
    return tuple(generator.randrange(283) for _ in range(length))


def request(prompt: tuple[int, ...], **sampling: Any) -> PolicyRequest:
    return PolicyRequest(messages=(), prompt_token_ids=prompt, sampling=SamplingParams.model_validate(sampling))


PROMPTS = [make_prompt(length) for length in (3, 17, 1, 9, 10, 64, 17)]


async def sample_all(policy: TorchPolicy, requests: list[PolicyRequest]) -> list[Completion]:
    return list(await asyncio.gather(*[policy.sample(one) for one in requests]))


async def test_greedy_equals_the_argmax_of_full_forward_passes() -> None:
    policy = make_policy()
    completions = await sample_all(policy, [request(prompt, temperature=0.0, max_tokens=80) for prompt in PROMPTS])
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        logits_LV = policy.model(torch.tensor([prompt + completion.token_ids]))[0]
        assert list(completion.token_ids) == logits_LV[len(prompt) - 1 : -1].argmax(-1).tolist()
        assert completion.finish_reason == "length"
        assert len(completion.token_ids) == 80  # the cache grew on the way


@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_logprobs_equal_those_the_learner_computes(temperature: float) -> None:
    policy = make_policy()
    requests = [request(prompt, temperature=temperature, max_tokens=30, seed=4) for prompt in PROMPTS]
    completions = await sample_all(policy, requests)
    samples = [
        Sample(
            prompt + done.token_ids, (0,) * len(prompt) + (1,) * 30, {"rollout": (0.0,) * len(prompt) + done.logprobs}
        )
        for prompt, done in zip(PROMPTS, completions, strict=True)
    ]
    (batch,) = pack(samples, 10_000)
    with torch.no_grad():
        recomputed_T = token_logprobs(policy.model, batch, temperature)
    assert batch.num_targets == 7 * 30
    torch.testing.assert_close(batch.values_T["rollout"], recomputed_T, rtol=0, atol=1e-4)


async def test_top_p_logprobs_are_those_of_the_truncated_distribution() -> None:
    policy = make_policy()
    (done,) = await sample_all(policy, [request(PROMPTS[1], top_p=0.5, temperature=0.8, max_tokens=20, seed=1)])
    logits_LV = policy.model(torch.tensor([PROMPTS[1] + done.token_ids]))[0, len(PROMPTS[1]) - 1 : -1] / 0.8
    for token, logprob, logits_V in zip(done.token_ids, done.logprobs, logits_LV, strict=True):
        probs, order = logits_V.softmax(-1).sort(descending=True)
        num_kept = int((probs.cumsum(-1) < 0.5).sum()) + 1
        assert token in order[:num_kept]
        wanted = probs[order.tolist().index(token)] / probs[:num_kept].sum()
        assert logprob == pytest.approx(wanted.log().item(), abs=1e-4)


async def test_a_seeded_request_is_the_same_alone_and_in_any_batch() -> None:
    policy = make_policy()
    wanted = request(PROMPTS[1], seed=11, max_tokens=25)
    (alone,) = await sample_all(policy, [wanted])
    crowd = [request(make_prompt(5 + i), seed=100 + i, max_tokens=3 + i) for i in range(20)]
    in_front = (await sample_all(policy, [wanted, *crowd]))[0]
    behind = (await sample_all(policy, [*crowd, wanted]))[-1]
    assert alone.token_ids == in_front.token_ids == behind.token_ids
    assert in_front.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


async def test_seeds_differ_and_no_seed_is_random() -> None:
    policy = make_policy()
    seeded = await sample_all(policy, [request(PROMPTS[0], seed=seed, max_tokens=20) for seed in (1, 2)])
    assert seeded[0].token_ids != seeded[1].token_ids
    unseeded = await sample_all(policy, [request(PROMPTS[0], max_tokens=20) for _ in range(2)])
    assert unseeded[0].token_ids != unseeded[1].token_ids


async def test_stop_token_ends_and_is_included() -> None:
    policy = make_policy()
    (free,) = await sample_all(policy, [request(PROMPTS[3], seed=5, max_tokens=12)])
    stop = free.token_ids[4]
    first = free.token_ids.index(stop)
    (stopped,) = await sample_all(policy, [request(PROMPTS[3], seed=5, max_tokens=12, stop_token_ids=(stop,))])
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "stop"
    assert len(stopped.logprobs) == len(stopped.policy_versions) == len(stopped.token_ids)
    assert stopped.text == TOKENIZER.decode(stopped.token_ids)


async def test_stop_on_the_last_allowed_token_is_a_stop() -> None:
    policy = make_policy()
    (free,) = await sample_all(policy, [request(PROMPTS[3], seed=5, max_tokens=1)])
    (stopped,) = await sample_all(policy, [request(PROMPTS[3], seed=5, max_tokens=1, stop_token_ids=free.token_ids)])
    assert stopped.finish_reason == "stop"


async def test_max_tokens_is_cut_to_the_room_that_is_left() -> None:
    policy = make_policy()
    (done,) = await sample_all(policy, [request(make_prompt(MAX_POSITIONS - 3), max_tokens=50)])
    assert len(done.token_ids) == 3
    assert done.finish_reason == "length"


async def test_bad_prompts_are_refused_and_do_not_disturb_others() -> None:
    policy = make_policy()
    bad = {
        make_prompt(MAX_POSITIONS): PromptTooLong,
        (): PolicyError,
        (3, 300): PolicyError,
    }
    results = await asyncio.gather(
        policy.sample(request(PROMPTS[0], max_tokens=4)),
        *[policy.sample(request(prompt)) for prompt in bad],
        return_exceptions=True,
    )
    assert isinstance(results[0], Completion)
    assert [type(result) for result in results[1:]] == list(bad.values())


async def test_concurrent_calls_share_batches_and_keep_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(max_batch=3)
    sizes = []

    def counting(model: CwmForCausalLM, prompts: list[tuple[int, ...]], *rest: Any) -> list[Generation]:
        sizes.append(len(prompts))
        return generate(model, prompts, *rest)

    monkeypatch.setattr("swegym.train.torch_policy.generate", counting)
    requests = [request(prompt, temperature=0.0, max_tokens=5) for prompt in PROMPTS]
    together = await sample_all(policy, requests)
    assert sizes == [3, 3, 1]
    for one, completion in zip(requests, together, strict=True):
        assert (await policy.sample(one)).token_ids == completion.token_ids


async def test_the_event_loop_runs_while_tokens_are_sampled() -> None:
    policy = make_policy()
    sampling = asyncio.create_task(policy.sample(request(PROMPTS[0], max_tokens=150)))
    ticks = 0
    while not sampling.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks > 5  # more often than the gather wait alone would allow


async def test_a_cancelled_caller_does_not_take_the_batch_with_it() -> None:
    policy = make_policy(gather_s=0)
    gone = asyncio.create_task(policy.sample(request(PROMPTS[0], max_tokens=150)))
    stays = asyncio.create_task(policy.sample(request(PROMPTS[1], max_tokens=150)))
    await asyncio.sleep(0.01)
    gone.cancel()
    assert len((await stays).token_ids) == 150
    with pytest.raises(asyncio.CancelledError):
        await gone


def test_a_second_event_loop_can_use_the_same_policy() -> None:
    policy = make_policy()
    one = request(PROMPTS[0], temperature=0.0, max_tokens=4)
    assert asyncio.run(policy.sample(one)) == asyncio.run(policy.sample(one))


async def test_new_weights_change_the_answer_and_its_version() -> None:
    policy = make_policy(policy_version=3)
    greedy = request(PROMPTS[1], temperature=0.0, max_tokens=10)
    before = await policy.sample(greedy)
    assert set(before.policy_versions) == {3}
    other = make_model(seed=8)
    policy.update_weights(other.state_dict(), 5)
    after = await policy.sample(greedy)
    assert set(after.policy_versions) == {5}
    assert after.token_ids != before.token_ids
    (expected,) = generate(other, [PROMPTS[1]], [greedy.sampling])
    assert after.token_ids == tuple(expected.token_ids)


async def test_an_update_waits_for_the_running_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy()
    begun = threading.Event()

    def signalling(*arguments: Any) -> list[Generation]:
        begun.set()
        return generate(*arguments)

    monkeypatch.setattr("swegym.train.torch_policy.generate", signalling)
    running = asyncio.create_task(policy.sample(request(PROMPTS[1], temperature=0.0, max_tokens=150)))
    await asyncio.to_thread(begun.wait)
    await asyncio.to_thread(policy.update_weights, make_model(seed=8).state_dict(), 1)
    done = await running
    (expected,) = generate(make_model(), [PROMPTS[1]], [SamplingParams(temperature=0.0, max_tokens=150)])
    assert done.token_ids == tuple(expected.token_ids)
    assert set(done.policy_versions) == {0}
    assert policy.policy_version == 1


async def test_a_bad_update_changes_nothing() -> None:
    policy = make_policy(policy_version=3)
    greedy = request(PROMPTS[1], temperature=0.0, max_tokens=10)
    before = await policy.sample(greedy)
    state = dict(make_model(seed=8).state_dict())
    with pytest.raises(WeightSyncError, match="version 3"):
        policy.update_weights(state, 3)
    with pytest.raises(WeightSyncError, match=r"model\.norm\.weight"):
        policy.update_weights(state | {"model.norm.weight": torch.zeros(3)}, 4)
    del state["lm_head.weight"]
    with pytest.raises(WeightSyncError, match=r"lm_head\.weight"):
        policy.update_weights(state, 4)
    assert await policy.sample(greedy) == before


async def test_close_aborts_what_waits_and_refuses_more() -> None:
    policy = make_policy()
    waiting = asyncio.create_task(policy.sample(request(PROMPTS[0], max_tokens=190)))
    await asyncio.sleep(0)  # the request is in, its batch is still being gathered
    await policy.close()
    done = await waiting
    assert (done.finish_reason, done.token_ids) == ("abort", ())
    await policy.close()
    with pytest.raises(PolicyError, match="closed"):
        await policy.sample(request(PROMPTS[0]))


def test_generation_can_be_stopped_between_steps() -> None:
    answers = iter([False, False, False, True])
    sampling = [SamplingParams(max_tokens=2), SamplingParams(max_tokens=50)]
    short, long = generate(make_model(), PROMPTS[:2], sampling, lambda: next(answers))
    assert (short.finish_reason, len(short.token_ids)) == ("length", 2)
    assert (long.finish_reason, len(long.token_ids)) == ("abort", 3)


async def test_a_failure_inside_reaches_every_caller_as_policy_error() -> None:
    policy = make_policy()
    policy.model.lm_head.weight = torch.nn.Parameter(torch.zeros(300, 5))  # no longer fits the hidden width
    results = await asyncio.gather(*[policy.sample(request(prompt)) for prompt in PROMPTS[:3]], return_exceptions=True)
    assert [type(result) for result in results] == [PolicyError] * 3


def test_it_is_a_policy() -> None:
    assert isinstance(make_policy(), Policy)
    assert TorchPolicy.uses_tokens
