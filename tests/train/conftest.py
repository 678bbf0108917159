"""Builders for the tests of training: a trajectory in one call, and a CWM that is as small as they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from swegym.core.action import Observation
from swegym.core.outcome import Validity
from swegym.core.policy import SamplingParams
from swegym.core.trajectory import TokenContext, Trajectory, Turn
from swegym.train.cwm.config import CwmConfig
from swegym.train.cwm.model import CwmForCausalLM

MakeTrajectory = Callable[..., Trajectory]
MakeModel = Callable[..., CwmForCausalLM]


def build_context(
    prompt: Sequence[int], action: Sequence[int], logprobs: Sequence[float], version: int
) -> TokenContext:
    """A prompt of the env and one action of the policy."""
    return TokenContext(
        tokens=(*prompt, *action),
        source=(0,) * len(prompt) + (1,) * len(action),
        rollout_logprobs=(0.0,) * len(prompt) + tuple(logprobs),
        loss_mask=(0,) * len(prompt) + (1,) * len(action),
        policy_version=(-1,) * len(prompt) + (version,) * len(action),
    )


@pytest.fixture
def make_trajectory() -> MakeTrajectory:
    """Builds a trajectory of one turn; `contexts` replaces the one made from prompt, action and logprobs."""

    def make(
        *,
        reward: float | None = 0.0,
        prompt: Sequence[int] = (1, 2),
        action: Sequence[int] = (3, 4, 5),
        logprobs: Sequence[float] | None = None,
        version: int = 0,
        group_id: str = "g0",
        task_id: str = "task-0",
        temperature: float = 1.0,
        top_p: float = 1.0,
        validity: Validity = Validity.VALID,
        truncated: bool = False,
        end_reason: str = "submitted",
        contexts: tuple[TokenContext, ...] | None = None,
    ) -> Trajectory:
        if contexts is None:
            contexts = (build_context(prompt, action, logprobs or [-1.0] * len(action), version),)
        return Trajectory(
            episode_id=f"{group_id}-{reward}",
            task_id=task_id,
            env_id="swegym/Test-v0",
            group_id=group_id,
            contexts=contexts,
            first_observation=Observation(text=""),
            turns=(Turn(index=0, sampling=SamplingParams(temperature=temperature, top_p=top_p)),),
            rewards={} if reward is None else {"tests": reward},
            reward=reward,
            terminated=not truncated,
            truncated=truncated,
            end_reason=end_reason,
            validity=validity,
        )

    return make


@pytest.fixture
def make_model() -> MakeModel:
    """Builds a CWM of about 2,000 parameters with a window that is shorter than the sequences."""

    def make(seed: int = 0, initializer_range: float = 0.1) -> CwmForCausalLM:
        config = CwmConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=4,
            layer_types=("sliding_attention", "full_attention"),
            max_position_embeddings=64,
            initializer_range=initializer_range,
            bos_token_id=0,
            eos_token_ids=(22,),
        )
        return CwmForCausalLM(config).initialize(seed)

    return make
