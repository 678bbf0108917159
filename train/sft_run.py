"""`swegym train sft`: supervised fine-tuning of a checkpoint, or of random weights, on demonstrations.

The checkpoint that ships is made by exactly this:

    swegym train sft --config base --run runs/base
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from swegym.agents.tokenizer import BpeTokenizer
from swegym.core.errors import ConfigError
from swegym.core.progress import Progress, Silent
from swegym.core.runfolder import RunFolder
from swegym.core.seeding import derive_seed
from swegym.train.config import SftConfig
from swegym.train.cwm.checkpoint import load_checkpoint, save_checkpoint
from swegym.train.cwm.config import preset
from swegym.train.cwm.model import CwmForCausalLM
from swegym.train.demonstrations import demonstrations, library_mutations, tokenizer_corpus
from swegym.train.sft import SftExample, SftMetrics, run_sft
from swegym.train.start import starting_checkpoint
from swegym.train.tokenizer import train_tokenizer

__all__ = ["run_sft_config"]

NEVER_TRAINED = "<|reasoning_thinking_start|>"


def run_sft_config(config: SftConfig, run: RunFolder, progress: Progress | None = None) -> dict[str, Any]:
    """Train and write `checkpoints/final`, a Hugging Face folder with its tokenizer.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        ConfigError: the checkpoint or the demonstrations are not there.
        TrainingError: the loss is not finite.
    """
    progress = progress or Silent()
    started = time.monotonic()
    torch.manual_seed(config.seed)
    progress.stage("Reading demonstrations")
    mutations = library_mutations() if config.data.source == "teacher" else []
    model, tokenizer = _model(config, mutations)
    examples = (
        demonstrations(mutations, tokenizer, derive_seed(config.seed, "teacher"))
        if config.data.source == "teacher"
        else _episodes(Path(config.data.source), config.seed)
    )
    progress.stage(f"Supervised fine-tuning: {config.num_steps} steps of {config.batch_size} examples")

    def on_step(metrics: SftMetrics) -> None:
        run.log(metrics.step, {"sft/loss": metrics.loss, "optim/lr": metrics.lr, "optim/grad_norm": metrics.grad_norm})
        progress.advance(metrics.step, config.num_steps, f"loss {metrics.loss:.3f}")

    history = run_sft(
        model,
        examples,
        steps=config.num_steps,
        batch_size=config.batch_size,
        lr=config.optim.lr,
        warmup_steps=config.optim.warmup_steps,
        token_budget=config.optim.token_budget,
        max_grad_norm=config.optim.grad_clip,
        masked_token_ids=[tokenizer.special(NEVER_TRAINED)],
        on_step=on_step,
    )
    folder = save_checkpoint(run.path / "checkpoints" / "final", model, tokenizer)
    seconds = time.monotonic() - started
    tail = history[-20:]
    summary = {
        "loss": round(sum(item.loss for item in tail) / len(tail), 4),
        "num_steps": len(history),
        "tokens_per_s": round(sum(item.num_tokens for item in history) / sum(item.duration_s for item in history), 1),
        "seconds": round(seconds, 1),
        "checkpoint": str(folder),
        "seed": config.seed,
    }
    run.write_summary(summary)
    return summary


def _model(config: SftConfig, mutations: Sequence[Any]) -> tuple[CwmForCausalLM, BpeTokenizer]:
    name = config.model.checkpoint
    if not name.startswith("preset:"):
        folder = starting_checkpoint(name)
        return load_checkpoint(folder), BpeTokenizer.load(folder)
    if not mutations:
        raise ConfigError("model.checkpoint: random weights need a tokenizer; only data.source = 'teacher' trains one")
    shape = preset(name.removeprefix("preset:"))
    model = CwmForCausalLM(shape).initialize(derive_seed(config.seed, "weights"))
    return model, train_tokenizer(tokenizer_corpus(mutations), shape.vocab_size)


def _episodes(folder: Path, seed: int) -> Iterator[SftExample]:
    """Token contexts of a run's resolved episodes, again and again in a new order."""
    run = RunFolder.open(folder)
    contexts = [
        context
        for episode in run.episodes.select(lambda item: item.outcome is not None and item.outcome.resolved)
        for context in episode.contexts
        if any(context.loss_mask)
    ]
    if not contexts:
        raise ConfigError(f"data.source: run {folder} has no resolved episode with tokens to learn from")
    rng = random.Random(seed)
    while True:
        rng.shuffle(contexts)
        for context in contexts:
            yield SftExample(context.tokens, context.loss_mask)
