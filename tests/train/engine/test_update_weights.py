"""Publication: the engine serves exactly the new policy, or nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swegym.core.errors import PolicyError, WeightSyncError
from swegym.core.policy import Completion, SamplingParams
from swegym.train.engine import vllm_engine
from swegym.train.engine.config import EngineConfig
from swegym.train.engine.vllm_engine import VllmEngine

from .conftest import Weights, random_prompt
from .test_engine_death import wait_until_gone

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]
GREEDY = SamplingParams(temperature=0, max_tokens=10)


def logprob_error(weights: Weights, prompt: list[int], completion: Completion, start: int) -> float:
    """Largest difference to the torch model's, over completion tokens from `start` on."""
    logprobs = weights.logits([*prompt, *completion.token_ids])[len(prompt) - 1 : -1].log_softmax(-1)
    expected = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
    return float((torch.tensor(completion.logprobs) - expected)[start:].abs().max())


async def serve(engine: VllmEngine, weights: Weights) -> int:
    """Whatever the last test left behind, go on from these weights. Returns their version."""
    await engine.update_weights(weights.folder, engine.version + 1)
    return engine.version


async def test_greedy_output_becomes_the_new_policys_twice_in_a_row(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    """The same prompt each time, longer than a cache block: a stale prefix would show."""
    prompt = random_prompt(150, "publish")
    answers = [weights.greedy(prompt, 10) for weights in checkpoints]
    assert answers[0] != answers[1]
    version = await serve(engine, checkpoints[0])
    assert (await engine.generate(prompt, GREEDY)).token_ids == answers[0]
    for step, weights in enumerate((checkpoints[1], checkpoints[0], checkpoints[1]), start=1):
        await engine.update_weights(weights.folder, version + step)
        completion = await engine.generate(prompt, GREEDY)
        assert completion.token_ids == weights.greedy(prompt, 10)
        assert completion.policy_versions == (version + step,) * 10
        assert logprob_error(weights, prompt, completion, 0) < 1e-4


async def test_a_state_dict_is_published_like_a_folder(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    prompt = random_prompt(20, "state")
    version = await serve(engine, checkpoints[0])
    await engine.update_weights(checkpoints[1].model.state_dict(), version + 1)
    assert (await engine.generate(prompt, GREEDY)).token_ids == checkpoints[1].greedy(prompt, 10)


async def test_an_update_in_mid_generation_keeps_running_requests(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    version = await serve(engine, checkpoints[0])
    prompts = [random_prompt(20 + index, "running", str(index)) for index in range(40)]  # 8 more than run at once
    tasks = [
        asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=300, seed=index)))
        for index, prompt in enumerate(prompts)
    ]
    await asyncio.sleep(0.3)
    await engine.update_weights(checkpoints[1].folder, version + 1)
    completions = await asyncio.gather(*tasks)
    assert {len(completion.token_ids) for completion in completions} == {300}
    assert any(len(set(completion.policy_versions)) == 2 for completion in completions)
    for prompt, completion in zip(prompts, completions, strict=True):
        old = completion.policy_versions.count(version)
        assert completion.policy_versions == (version,) * old + (version + 1,) * (300 - old)
        assert old == 0 or logprob_error(checkpoints[0], prompt, _first(completion, old), 0) < 1e-4
        # Their caches were computed again: the rest is exactly the new policy's.
        assert logprob_error(checkpoints[1], prompt, completion, old) < 1e-4


def _first(completion: Completion, count: int) -> Completion:
    return Completion("", "length", completion.token_ids[:count], completion.logprobs[:count])


async def test_requests_during_an_update_get_the_new_version(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights]
) -> None:
    version = await serve(engine, checkpoints[0])
    update = asyncio.create_task(engine.update_weights(checkpoints[1].folder, version + 1))
    while engine._admission.is_set():
        await asyncio.sleep(0)
    assert not update.done()
    completion = await engine.generate([1, 2, 3], GREEDY)
    assert set(completion.policy_versions) == {version + 1}
    await update


async def test_two_updates_at_once_take_turns(engine: VllmEngine, checkpoints: tuple[Weights, Weights]) -> None:
    version = engine.version
    await asyncio.gather(
        engine.update_weights(checkpoints[0].folder, version + 1),
        engine.update_weights(checkpoints[1].folder, version + 2),
    )
    assert engine.version == version + 2
    assert (await engine.generate([1, 2, 3], GREEDY)).token_ids == checkpoints[1].greedy([1, 2, 3], 10)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"lm_head\.weight is missing"),
        ("unexpected", r"model\.extra is unexpected"),
        ("shape", r"lm_head\.weight has shape \(1024, 64\), expected \(1024, 128\)"),
        ("truncated", r"cannot read .*model\.safetensors"),
        ("absent", r"holds no model\.safetensors"),
        ("shard", r"cannot read .*model-00002"),
    ],
)
async def test_weights_of_another_model_are_refused_and_the_old_ones_stay(
    engine: VllmEngine, checkpoints: tuple[Weights, Weights], tmp_path: Path, damage: str, message: str
) -> None:
    version = await serve(engine, checkpoints[0])
    state = load_file(checkpoints[1].folder / "model.safetensors")
    if damage == "missing":
        del state["lm_head.weight"]
    elif damage == "unexpected":
        state["model.extra"] = torch.zeros(2)
    elif damage == "shape":
        state["lm_head.weight"] = state["lm_head.weight"][:, :64].contiguous()
    file = tmp_path / "model.safetensors"
    if damage == "shard":
        save_file(state, tmp_path / "model-00001.safetensors")
        index = {name: f"model-0000{1 + (name == 'lm_head.weight')}.safetensors" for name in state}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    elif damage != "absent":
        save_file(state, file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightSyncError, match=message):
        await engine.update_weights(tmp_path, version + 1)
    assert engine.is_alive
    assert engine.version == version
    completion = await engine.generate([1, 2, 3], GREEDY)
    assert completion.token_ids == checkpoints[0].greedy([1, 2, 3], 10)
    assert set(completion.policy_versions) == {version}


async def test_the_salt_alone_keeps_old_prefixes_out_and_shutdown_ends_everything(
    checkpoints: tuple[Weights, Weights],
) -> None:
    """With keep_kv_cache nothing is cleared, so a new request must not find what old weights computed."""
    prompt = random_prompt(150, "salt")
    engine = VllmEngine(checkpoints[0].folder, EngineConfig(max_num_seqs=8, keep_kv_cache=True))
    await engine.start()
    try:
        await engine.generate(prompt, GREEDY)
        await engine.update_weights(checkpoints[1].folder, 1)
        completion = await engine.generate(prompt, GREEDY)
        assert logprob_error(checkpoints[1], prompt, completion, 0) < 1e-4
        # What the salt is for: the same request under the first salt is served from the stale prefix.
        engine._num_updates = 0
        stale = await engine.generate(prompt, GREEDY)
        assert logprob_error(checkpoints[1], prompt, stale, 0) > 1e-2
        process_ids = list(engine.process_ids)
        running = asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=300)))
        await asyncio.sleep(0.1)
    finally:
        await engine.shutdown()
    with pytest.raises(PolicyError, match="it was shut down"):
        await asyncio.wait_for(running, timeout=30)
    assert wait_until_gone(process_ids) == []


async def test_a_failure_inside_an_update_leaves_the_engine_dead(
    checkpoints: tuple[Weights, Weights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VllmEngine(checkpoints[0].folder, EngineConfig(max_num_seqs=8))
    await engine.start()
    state = load_file(checkpoints[1].folder / "model.safetensors")
    del state["model.layers.2.mlp.up_proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    shutil.copy(checkpoints[1].folder / "config.json", tmp_path)
    monkeypatch.setattr(vllm_engine, "check_same_tensors", lambda served, offered: None)  # let it through to the worker
    running = asyncio.create_task(engine.generate([1, 2, 3], SamplingParams(max_tokens=500)))
    await asyncio.sleep(0.1)
    with pytest.raises(WeightSyncError, match="a weight update to version 1 failed"):
        await engine.update_weights(tmp_path, 1)
    assert not engine.is_alive
    assert engine.version == 0
    for call in (running, engine.generate([1, 2, 3], GREEDY)):
        with pytest.raises(PolicyError, match="a weight update to version 1 failed"):
            await asyncio.wait_for(call, timeout=30)
    with pytest.raises(WeightSyncError, match="dead"):
        await engine.update_weights(checkpoints[1].folder, 2)
    await engine.shutdown()
