"""`swegym demo`: real bugs in a real package, a small CWM, GRPO, evaluation before and after, and what happened.

Task set from the package's sdist -> Ray, vLLM, sandboxes -> GRPO -> held-out evaluation -> summary, plot, replay.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from swegym.core.config import load_config
from swegym.core.errors import ConfigError, SwegymError
from swegym.core.progress import PlainProgress, Progress
from swegym.core.runfolder import RunFolder
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets.build import build_mutate_fix
from swegym.train.config import RlConfig, recipe_path
from swegym.train.demonstrations import KINDS
from swegym.train.rl import run_rl

__all__ = ["NUM_HELDOUT", "NUM_TRAIN", "demo_config", "run_demo"]

PACKAGE = "boltons==26.2.0"
NUM_TRAIN = 200
NUM_HELDOUT = 100


def demo_config(seed: int, taskset: Path, overrides: list[str] | None = None) -> RlConfig:
    """The `demo` recipe for one seed and task set. Raises ConfigError: an override is wrong."""
    return load_config(
        RlConfig, [recipe_path("demo")], [f"--seed={seed}", f"--data.taskset={taskset}", *(overrides or [])]
    )


def run_demo(
    *,
    seed: int = 0,
    run: Path | None = None,
    package: str = PACKAGE,
    tasks: Path | None = None,
    progress: Progress | None = None,
    overrides: list[str] | None = None,
) -> tuple[RunFolder, dict[str, Any]]:
    """Do the whole journey.

    Args:
        seed: of tasks, training and evaluation.
        run: run folder to make; None: `runs/demo-seed-N`, or the next free one.
        package: PyPI requirement whose sdist holds the code and the tests.
        tasks: task set to use instead of building one, for example another demo's.
        progress: where progress goes.
        overrides: of the recipe, such as `--optim.lr=0`.

    Returns:
        The run folder and its summary.

    Raises:
        ConfigError: no network, no such package, no tests, a wrong override, or the run folder exists.
        TrainingError: training cannot go on.
    """
    progress = progress or PlainProgress()
    folder = run or _free_folder(Path("runs") / f"demo-seed-{seed}")
    taskset = (tasks or folder / "tasks").absolute()
    config = demo_config(seed, taskset, overrides)
    record = RunFolder.create(folder, config)
    try:
        if tasks is None:
            progress.stage(f"Building tasks from {package}: one-token bugs that its own tests notice")
            _build(package, taskset, seed, config.rollout.sandbox, progress)
        summary = run_rl(config, record, progress)
    except SwegymError:
        record.discard_unused()
        raise
    return record, summary


def _build(package: str, folder: Path, seed: int, sandbox: str, progress: Progress) -> None:
    async def build() -> None:
        provider = make_provider(sandbox)
        try:
            report = await build_mutate_fix(
                package,
                folder,
                NUM_TRAIN,
                NUM_HELDOUT,
                seed,
                max(1, os.cpu_count() or 1),
                provider,
                lambda stage, done, total: progress.advance(done, total, stage),
                kinds=KINDS,  # the base checkpoint has seen no others
            )
        finally:
            await provider.close()
        progress.say(
            f"{report.num_train} training and {report.num_heldout} held-out tasks "
            f"from {report.num_candidates} mutants; see {folder / 'report.md'}"
        )
        if report.num_train < NUM_TRAIN // 2 or report.num_heldout < NUM_HELDOUT // 2:
            raise ConfigError(
                f"{package} gave too few tasks for the demo; take a package with more code and faster tests"
            )

    asyncio.run(build())


def _free_folder(wanted: Path) -> Path:
    number, folder = 1, wanted
    while folder.exists():
        number, folder = number + 1, wanted.with_name(f"{wanted.name}-{number}")
    return folder
