"""One small model in two versions, its greedy continuations, and one engine for a whole module of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from swegym.core.seeding import derive_seed
from swegym.train.cwm.checkpoint import save_checkpoint
from swegym.train.cwm.config import preset
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.engine.config import EngineConfig
from swegym.train.engine.vllm_engine import VllmEngine

WINDOW = 64


@dataclass(frozen=True)
class Weights:
    """A checkpoint and the torch model that was saved in it."""

    folder: Path
    model: CwmForCausalLM

    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Entry t, shape (V,), is about token t + 1."""
        with torch.no_grad():
            logits_BLV: torch.Tensor = self.model(torch.tensor([list(token_ids)]))
        return logits_BLV[0]

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> tuple[int, ...]:
        tokens = list(prompt)
        for _ in range(num_tokens):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tuple(tokens[len(prompt) :])


def random_prompt(num_tokens: int, *labels: str) -> list[int]:
    """Ordinary tokens, equal in every run."""
    return [derive_seed(0, *labels, index) % 1000 for index in range(num_tokens)]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    """Two sets of weights of one model; wide enough that distributions are far from flat."""
    config = preset("tiny").model_copy(update={"initializer_range": 0.08, "max_position_embeddings": 512})
    assert config.sliding_window == WINDOW
    made = []
    for seed in (1, 2):
        model = CwmForCausalLM(config).initialize(seed)
        made.append(Weights(save_checkpoint(tmp_path_factory.mktemp("weights") / f"v{seed}", model), model))
    return made[0], made[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(checkpoints: tuple[Weights, Weights]) -> AsyncIterator[VllmEngine]:
    """A started engine that serves the first checkpoint as version 0."""
    started = VllmEngine(checkpoints[0].folder, EngineConfig(max_num_seqs=32))
    await started.start()
    yield started
    await started.shutdown()
