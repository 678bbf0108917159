"""`swegym tasks import`: rows of a public format become a task set folder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from swegym.cli.session import SessionOptions
    from swegym.core.sandbox import SandboxProvider
    from swegym.envs.tasksets.formats.mirror import MirrorRow
    from swegym.envs.tasksets.formats.rows import BadRow, RawRow

T = TypeVar("T")

__all__ = ["import_tasks"]


def import_tasks(
    source: Annotated[str, typer.Argument(help="A .jsonl, .json or .parquet file, or a data set's id.")],
    out: Annotated[Path, typer.Option(help="Folder that becomes the task set. An import that was cut short goes on.")],
    format: Annotated[
        str | None,
        typer.Option(help="mirror, quixbugs, swebench, swebench-live, swegym, swesmith, r2e. Default: found by keys."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse the whole when a row is malformed.")] = False,
    requirement: Annotated[
        list[str] | None, typer.Option(help="mirror: what tests need besides; may be given again.")
    ] = None,
    sandbox: opt.SandboxName = "auto",
    base_image: opt.BaseImage = None,
    jobs: Annotated[int, typer.Option(min=1, help="Sandboxes at a time.")] = 2,
) -> None:
    """Import rows of a public format. Malformed rows are named one by one, and the rest become tasks."""
    from swegym.cli.compose import print_summary
    from swegym.core.errors import ConfigError
    from swegym.envs.tasksets.formats.mirror import read_mirror_rows
    from swegym.envs.tasksets.formats.rows import name_bad_rows, read_rows
    from swegym.envs.tasksets.formats.taskset import find_format, load_format, save_format

    rows = read_rows(source)
    if not rows:
        raise ConfigError(f"{source} holds no rows")
    chosen = find_format(source, rows, format or "")
    summary: dict[str, object] = {"format": chosen.name}
    if chosen.convert is not None:
        loaded = load_format(source, chosen.name, strict=strict)
        save_format(loaded, out, source)
        bad, summary["tasks"] = loaded.bad_rows, len(loaded)
    else:
        from swegym.cli.session import SessionOptions

        options = SessionOptions(sandbox=sandbox, base_image=base_image)
        if chosen.name == "quixbugs":
            summary["tasks"], bad = _build_quixbugs(rows, out, options, jobs)
        else:
            mirror_rows, bad = read_mirror_rows(rows)
            if not mirror_rows or (bad and strict):
                raise ConfigError(name_bad_rows(source, bad))
            summary |= _build_mirror(mirror_rows, out, options, tuple(requirement or ()), jobs)
    if bad:
        typer.echo(name_bad_rows(source, bad), err=True)
    print_summary(summary | ({"malformed rows": len(bad)} if bad else {}))
    print(f"\nswegym tasks list {out}")


def _build_quixbugs(rows: list[RawRow], out: Path, options: SessionOptions, jobs: int) -> tuple[int, list[BadRow]]:
    from swegym.envs.tasksets.formats.quixbugs import build_quixbugs

    made, bad = _in_sandboxes(
        options,
        f"importing {len(rows)} rows",
        lambda provider, advance: build_quixbugs(rows, out, provider, jobs=jobs, progress=advance),
    )
    return len(made), bad


def _build_mirror(
    rows: list[MirrorRow], out: Path, options: SessionOptions, requirements: tuple[str, ...], jobs: int
) -> dict[str, object]:
    from swegym.envs.tasksets.formats.mirror_build import MirrorReport, build_mirror

    async def run_build(provider: SandboxProvider, advance: Callable[[int, int], None]) -> MirrorReport:
        def show(stage: str, done: int, total: int) -> None:
            if stage == "rows":
                advance(done, total)

        return await build_mirror(rows, out, provider, requirements=requirements, jobs=jobs, progress=show)

    report = _in_sandboxes(options, f"importing {len(rows)} rows", run_build)
    for problem in report.problems.values():
        typer.echo(problem, err=True)
    for task_id, remark in report.remarks.items():
        typer.echo(f"{task_id}: {remark}", err=True)
    counts: dict[str, object] = {"tasks": report.num_tasks}
    return counts | ({"rows that are no task": len(report.problems)} if report.problems else {})


def _in_sandboxes(
    options: SessionOptions, title: str, work: Callable[[SandboxProvider, Callable[[int, int], None]], Awaitable[T]]
) -> T:
    import asyncio

    from swegym.cli.progress import show_progress

    async def run() -> T:
        provider = await asyncio.to_thread(options.make_provider)
        try:
            with show_progress() as progress:
                progress.stage(f"{title} in {provider.name} sandboxes")
                return await work(provider, progress.advance)
        finally:
            await provider.close()

    return asyncio.run(run())
