"""`swegym demo`: the whole journey on one machine, from a package's sdist to a trained model and its episodes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["demo"]


def demo(
    context: typer.Context,
    seed: opt.Seed = 0,
    run: opt.RunFolderPath = None,
    package: Annotated[str, typer.Option(help="PyPI requirement; its sdist brings the code and the tests.")] = (
        "boltons==26.2.0"
    ),
    tasks: Annotated[Path | None, typer.Option(help="Use this task set instead of building one.")] = None,
) -> None:
    """Build tasks from a real package, train a small CWM on them with GRPO, evaluate it and show its episodes.

    Every setting of the recipe is an option: --optim.lr=0 --rollout.sandbox=local --algo.num_steps=20 ...
    """
    from rich.console import Console

    from swegym.cli.compose import extra
    from swegym.cli.progress import show_progress
    from swegym.cli.train import overrides_from

    overrides = overrides_from(context.args)
    with extra("vllm-cpu", "torch", "ray", "numpy", "matplotlib", "safetensors", "tokenizers", "vllm"):
        from swegym.train.demo import run_demo
    with show_progress() as progress:
        folder, summary = run_demo(
            seed=seed, run=run, package=package, tasks=tasks, progress=progress, overrides=overrides
        )
    console = Console(soft_wrap=True)
    console.print(_table(summary))
    console.print(f"plot:       {folder.path / 'plots' / 'reward.png'}")
    console.print(f"run folder: {folder.path}")
    for name in ("best", "worst"):
        if episode := summary[f"{name}_episode"]:
            console.print(f"{name} episode: {_replay_command(folder.path, episode)}", style="bold")


def _table(summary: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title=f"{summary['num_heldout_tasks']} held-out tasks, seed {summary['seed']}", title_justify="left")
    for column in ("", "before", "after"):
        table.add_column(column, justify="left" if not column else "right")

    def interval(key: str) -> str:
        low, high = summary[f"{key}_ci95"]
        return f"{summary[key]:.3f} [{low:.3f}, {high:.3f}]"

    k = next(key for key in summary if key.startswith("pass") and key.endswith("_before") and key[4].isdigit())
    k = k.removesuffix("_before")
    table.add_row("pass rate, sampled", interval("pass_rate_before"), interval("pass_rate_after"))
    table.add_row("gain (paired)", "", interval("pass_rate_gain"))
    for label, key in (("pass rate, greedy", "greedy"), (f"pass@{k.removeprefix('pass')}", k)):
        table.add_row(label, *(_number(summary[f"{key}_{when}"]) for when in ("before", "after")))
    table.add_section()
    table.add_row("invalid trajectories", "", f"{summary['invalid_share']:.1%} of {summary['num_episodes']}")
    table.add_row("rollout speed", "", f"{summary['tokens_per_s']:.0f} tokens/s")
    table.add_row("time", "", f"{summary['seconds'] / 60:.1f} min, sandbox {summary['sandbox']}, {summary['engine']}")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _replay_command(run: Path, episode: str) -> str:
    """A line that can be pasted: without an activated environment `swegym` is called by its path, as it was now."""
    is_on_path = shutil.which("swegym") is not None or not Path(sys.argv[0]).is_file()
    return f"{'swegym' if is_on_path else sys.argv[0]} replay {run} {episode}"
