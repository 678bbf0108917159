"""Engines in Ray actors behind one policy: same answers, least load, deaths that do not hang, nothing left over."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import ray

from swegym.core.errors import ConfigError, PolicyError, PromptTooLong, WeightSyncError
from swegym.core.policy import Policy, PolicyRequest, SamplingParams
from swegym.train.engine.actor import RemoteEngine
from swegym.train.engine.config import EngineConfig
from swegym.train.engine.policy import EnginePolicy
from swegym.train.ray_runtime import ray_runtime, start_ray
from swegym.train.tokenizer import train_tokenizer

from .conftest import Weights, random_prompt
from .test_engine_death import wait_until_gone

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.asyncio(loop_scope="module")]
GREEDY = SamplingParams(temperature=0, max_tokens=8)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policy(checkpoints: tuple[Weights, Weights]) -> AsyncIterator[EnginePolicy]:
    """Two engines, each in its actor, that serve the first checkpoint as version 3."""
    with ray_runtime(num_cpus=2):
        engines = await asyncio.gather(
            *(
                RemoteEngine.create(checkpoints[0].folder, EngineConfig(max_num_seqs=16, seed=seed), version=3)
                for seed in range(2)
            )
        )
        policy = EnginePolicy(engines, train_tokenizer(["a small corpus"], 1024))
        yield policy
        await policy.close()


def request(prompt: list[int], sampling: SamplingParams) -> PolicyRequest:
    return PolicyRequest(messages=(), prompt_token_ids=tuple(prompt), sampling=sampling, episode_id="e", turn=1)


async def test_answers_are_the_torch_models(policy: EnginePolicy, checkpoints: tuple[Weights, Weights]) -> None:
    assert isinstance(policy, Policy)
    assert (policy.name, policy.uses_tokens, policy.version) == ("vllm", True, 3)
    tokenizer = train_tokenizer(["a small corpus"], 1024)
    prompts = [random_prompt(30 + index, "actor", str(index)) for index in range(6)]
    completions = await asyncio.gather(*(policy.sample(request(prompt, GREEDY)) for prompt in prompts))
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.token_ids == checkpoints[0].greedy(prompt, 8)
        assert completion.text == tokenizer.decode(completion.token_ids)
        assert completion.policy_versions == (3,) * 8


async def test_equal_requests_without_seeds_differ_across_engines(policy: EnginePolicy) -> None:
    """Engines with one seed would give a group the same samples twice."""
    sampling = SamplingParams(max_tokens=6)
    group = await asyncio.gather(*(policy.sample(request([1, 2, 3], sampling)) for _ in range(8)))
    assert len({completion.token_ids for completion in group}) == 8


async def test_requests_go_to_the_engine_with_the_fewest(policy: EnginePolicy) -> None:
    long = [
        asyncio.create_task(policy.sample(request([9, index], SamplingParams(max_tokens=400)))) for index in range(3)
    ]
    await asyncio.sleep(0)
    assert sorted(policy._num_running) == [1, 2]
    short = asyncio.create_task(policy.sample(request([8], GREEDY)))
    await asyncio.sleep(0)
    assert policy._num_running == [2, 2]
    await asyncio.gather(*long, short)
    assert policy._num_running == [0, 0]


async def test_errors_arrive_as_they_were_raised(policy: EnginePolicy) -> None:
    with pytest.raises(PromptTooLong, match="512 tokens, the context 512") as caught:
        await policy.sample(request([1] * 512, GREEDY))
    assert type(caught.value) is PromptTooLong
    assert all(engine.is_alive for engine in policy.engines)


async def test_publication_reaches_every_engine(policy: EnginePolicy, checkpoints: tuple[Weights, Weights]) -> None:
    prompt = random_prompt(100, "publish")
    await policy.update_weights(checkpoints[1].model.state_dict(), 4)
    assert policy.version == 4
    for engine in policy.engines:
        completion = await engine.generate(prompt, GREEDY)
        assert completion.token_ids == checkpoints[1].greedy(prompt, 8)
        assert completion.policy_versions == (4,) * 8
    await policy.update_weights(checkpoints[0].folder, 5)
    for engine in policy.engines:
        assert (await engine.generate(prompt, GREEDY)).token_ids == checkpoints[0].greedy(prompt, 8)


async def test_refused_weights_leave_every_engine_serving(policy: EnginePolicy) -> None:
    version = policy.version
    with pytest.raises(WeightSyncError, match=r"2 of 2 engines: .*lm_head\.weight is missing"):
        await policy.update_weights({}, version + 1)
    assert policy.version == version
    assert all(engine.is_alive for engine in policy.engines)


async def test_a_client_pickles(policy: EnginePolicy, checkpoints: tuple[Weights, Weights]) -> None:
    copy = pickle.loads(pickle.dumps(policy.engines[0]))
    assert (await copy.generate([5, 6, 7], GREEDY)).token_ids == checkpoints[0].greedy([5, 6, 7], 8)


async def test_a_bad_checkpoint_is_named_and_leaves_no_actor(policy: EnginePolicy) -> None:
    with pytest.raises(ConfigError, match="/nowhere is not a checkpoint folder"):
        await RemoteEngine.create("/nowhere", num_cpus=0)


async def test_a_second_ray_is_refused(policy: EnginePolicy) -> None:
    with pytest.raises(ConfigError, match="already runs"):
        start_ray(1)


@pytest.mark.chaos
async def test_deaths_fail_their_own_requests_only(policy: EnginePolicy, checkpoints: tuple[Weights, Weights]) -> None:
    """Last in the module: first one engine's process dies, then the other's whole actor."""
    first, second = policy.engines
    assert isinstance(first, RemoteEngine)
    assert isinstance(second, RemoteEngine)
    process_ids = [*await first.actor.process_ids.remote(), *await second.actor.process_ids.remote()]
    long = [
        asyncio.create_task(policy.sample(request([9, index], SamplingParams(max_tokens=400)))) for index in range(2)
    ]
    await asyncio.sleep(0.1)
    os.kill(process_ids[0], signal.SIGKILL)
    lost, kept = await asyncio.wait_for(asyncio.gather(*long, return_exceptions=True), timeout=60)
    assert type(lost) is PolicyError
    assert not isinstance(kept, BaseException)
    assert (first.is_alive, second.is_alive) == (False, True)
    completions = await asyncio.gather(*(policy.sample(request([index], GREEDY)) for index in range(1, 5)))
    assert [c.token_ids for c in completions] == [checkpoints[0].greedy([index], 8) for index in range(1, 5)]
    with pytest.raises(WeightSyncError, match="1 of 2 engines"):
        await policy.update_weights(checkpoints[1].folder, policy.version + 1)

    ray.kill(second.actor)
    with pytest.raises(PolicyError, match="ActorDiedError"):
        await asyncio.wait_for(policy.sample(request([1], GREEDY)), timeout=60)
    with pytest.raises(PolicyError, match="none of 2 engines is alive"):
        await policy.sample(request([1], GREEDY))
    assert wait_until_gone(process_ids) == []
