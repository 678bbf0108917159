"""What several commands share: optional packages, environments by id, run folders, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec
    from pydantic import BaseModel
    from rich.console import Console

    from swegym.core.runfolder import RunFolder

__all__ = ["default_run_folder", "env_spec", "extra", "new_run", "out", "print_summary", "task_options"]

PIPE_WIDTH = 160


@contextmanager
def extra(name: str, *packages: str) -> Iterator[None]:
    """Turn the absence of one of an extra's packages into one line with the command that adds it.

    Raises:
        DependencyMissing: one of `packages` is not installed.
    """
    from swegym.core.errors import DependencyMissing

    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in packages:
            raise
        raise DependencyMissing(
            f"the package {missing} is not installed; run `make setup`, or: pip install 'swegym[{name}]'"
        ) from None


def env_spec(env_id: str) -> EnvSpec:
    """The registered environment of this id; `module:ID` imports a module first, which may register it.

    Raises:
        UnknownName: there is none. ConfigError: its module cannot be imported, or it is another package's kind of env.
    """
    import gymnasium

    from swegym.core.errors import ConfigError, UnknownName
    from swegym.core.registration import SWE_ENV_ENTRY_POINT

    module, colon, name = env_id.rpartition(":")
    if colon:
        import importlib

        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--env {env_id}: no module named {error.name!r}") from None
    known = [spec.id for spec in gymnasium.registry.values() if spec.entry_point == SWE_ENV_ENTRY_POINT]
    if name not in gymnasium.registry:
        raise UnknownName("environment", name, known)
    spec = gymnasium.registry[name]
    if spec.entry_point != SWE_ENV_ENTRY_POINT:
        raise ConfigError(f"environment {name!r} is not over a swegym task set; known: {', '.join(sorted(known))}")
    return spec


def task_options(env_id: str | None, taskset: str | None) -> dict[str, Any]:
    """Fields of SessionOptions that say which tasks: from `--env`, `--taskset`, or both (then the task set wins).

    Raises:
        ConfigError: neither is given. UnknownName: there is no such environment.
    """
    from swegym.core.errors import ConfigError
    from swegym.core.registries import tasksets

    if env_id is None and taskset is None:
        raise ConfigError("say which tasks: --env ID (for example swegym/Tiny-v0) or --taskset NAME")
    fields: dict[str, Any] = {}
    if env_id is not None:
        spec = env_spec(env_id)
        registered = dict(spec.kwargs)
        fields = {"env_id": spec.id, "taskset": registered.pop("taskset"), "split": registered.pop("split", None)}
        fields["task_ids"] = tuple(registered.pop("task_ids", None) or ())
        fields |= {"tools": tuple(registered["tools"])} if "tools" in registered else {}
        fields |= {"rewards": {registered["reward"]: 1.0}} if "reward" in registered else {}
    if taskset is not None:
        fields["taskset"] = taskset
    if fields["taskset"] not in tasksets and Path(fields["taskset"]).exists():
        fields["taskset"] = str(Path(fields["taskset"]).resolve())  # the run can be replayed from any folder
    return fields


def default_run_folder(kind: str) -> Path:
    """`runs/KIND-DATE-TIME`, local time."""
    return Path("runs") / f"{kind}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


@contextmanager
def new_run(path: Path | None, kind: str, config: BaseModel | None = None) -> Iterator[RunFolder]:
    """Make a run folder and say where it is. When the work never begins, the folder goes again.

    Raises:
        ConfigError: it exists already, or cannot be made.
    """
    from swegym.core.errors import SwegymError
    from swegym.core.runfolder import RunFolder

    run = RunFolder.create(path or default_run_folder(kind), config)
    print(f"run folder: {run.path}", file=sys.stderr)
    try:
        yield run
    except SwegymError:
        run.discard_unused()
        raise


def out() -> Console:
    """The console on stdout. In a pipe or a log it is wide, so that no id or path is broken over lines."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def print_summary(summary: dict[str, Any]) -> None:
    """The run's closing numbers, one line each."""
    from rich.table import Table

    table = Table(show_header=False, show_edge=False, pad_edge=False)
    for key, value in summary.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    out().print(table)
