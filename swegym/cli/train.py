"""`swegym train sft` and `swegym train rl`: resolve the configuration, make the run folder, hand over to the stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from swegym.core.config import Section

__all__ = ["WITH_OVERRIDES", "app", "overrides_from"]

app = typer.Typer(no_args_is_help=True, help="Train a policy.")
S = TypeVar("S", bound="Section")

# Unknown options are the configuration's own keys: --section.key=value.
WITH_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}

ConfigFiles = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", help="TOML file, or the name of a recipe that ships; later ones win."),
]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run folder to make. Default: runs/STAGE-DATE-TIME.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration as JSON and stop.")]


def overrides_from(arguments: list[str]) -> list[str]:
    """Turn the left-over arguments into `--section.key=value` items; `--section.key value` is accepted as well.

    Raises:
        ConfigError: an argument is neither.
    """
    from swegym.core.errors import ConfigError

    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            raise ConfigError(f"unexpected argument {argument!r}; settings look like --section.key=value")
        if "=" not in argument:
            value = next(rest, None)
            if value is None or value.startswith("--"):
                raise ConfigError(f"setting {argument!r} has no value; write {argument}=VALUE")
            argument = f"{argument}={value}"
        overrides.append(argument)
    return overrides


def _resolve(section: type[S], files: list[str] | None, arguments: list[str], *, run: Path | None, dry_run: bool) -> S:
    from swegym.core.config import load_config
    from swegym.train.config import recipe_path

    def is_recipe(name: str) -> bool:
        return not Path(name).exists() and Path(name).name == name and not Path(name).suffix

    paths = [recipe_path(name) if is_recipe(name) else Path(name) for name in files or []]
    overrides = overrides_from(arguments) + ([f"--run={run}"] if run else [])
    config = load_config(section, paths, overrides)
    if dry_run:
        print(config.model_dump_json(indent=2))
        raise typer.Exit
    return config


@app.command("rl", context_settings=WITH_OVERRIDES)
def rl(context: typer.Context, config: ConfigFiles = None, run: RunOption = None, dry_run: DryRun = False) -> None:
    """Reinforcement learning with GRPO: Ray actors, vLLM rollouts, tests as reward.

    Every setting of the configuration is an option: --algo.group_size=4 --optim.lr=1e-4 ...
    """
    from swegym.train.config import RlConfig

    resolved = _resolve(RlConfig, config, context.args, run=run, dry_run=dry_run)
    from swegym.cli.compose import extra, new_run, print_summary
    from swegym.cli.progress import show_progress

    with new_run(resolved.run, "rl", resolved) as folder, show_progress() as progress:
        with extra("train", "torch", "ray", "numpy", "matplotlib", "safetensors", "tokenizers"):
            from swegym.train.rl import run_rl
        summary = run_rl(resolved, folder, progress)
    print_summary(summary)


@app.command("sft", context_settings=WITH_OVERRIDES)
def sft(context: typer.Context, config: ConfigFiles = None, run: RunOption = None, dry_run: DryRun = False) -> None:
    """Supervised fine-tuning on demonstrations. Settings as in `train rl`."""
    from swegym.train.config import SftConfig

    resolved = _resolve(SftConfig, config, context.args, run=run, dry_run=dry_run)
    from swegym.cli.compose import extra, new_run, print_summary
    from swegym.cli.progress import show_progress

    with new_run(resolved.run, "sft", resolved) as folder, show_progress() as progress:
        with extra("train", "torch", "numpy", "safetensors", "tokenizers"):
            from swegym.train.sft_run import run_sft_config
        summary = run_sft_config(resolved, folder, progress)
    print_summary(summary)
