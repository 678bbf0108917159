"""`swegym tasks build`: mutate-fix tasks from a package, a repository or a folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from collections.abc import Callable

    from swegym.core.progress import Progress
    from swegym.envs.tasksets.report import BuildReport

__all__ = ["build"]

_BUGS = "Bugs"


class Distance(StrEnum):
    """How far apart the bugs of one task may lie."""

    FUNCTION = "function"
    MODULE = "module"
    PACKAGE = "package"


class Hint(StrEnum):
    """What a statement gives away; each level holds those before it."""

    NONE = "none"
    TESTS = "tests"
    FILE = "file"
    LINE = "line"


def _stages(progress: Progress) -> Callable[[str, int, int], None]:
    """Shows (stage, done, total), a new stage as such."""
    current = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal current
        if stage != current:
            progress.stage(stage)
            current = stage
        progress.advance(done, total)

    return show


def build(
    source: Annotated[
        str,
        typer.Argument(
            help="A package (boltons, boltons==25.0.0), a repository (git+URL or git+PATH, @REVISION) or a folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder that becomes the task set. A build that was cut short goes on.")],
    num_train: Annotated[int, typer.Option(min=1, help="Training tasks wanted.")] = 200,
    num_heldout: Annotated[int, typer.Option(min=0, help="Held-out tasks wanted.")] = 100,
    requirement: Annotated[
        list[str] | None, typer.Option(help="What the tests need besides what is found; may be given again.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="recipe.toml to use; default: that of the folder, else one that is found.")
    ] = None,
    mix: Annotated[
        str, typer.Option(help="Shares of the kinds, such as functions=7,operators=12.", rich_help_panel=_BUGS)
    ] = "functions=7,arguments=9,variables=6,statements=11,operators=12",
    num_edits: Annotated[int, typer.Option(min=1, max=5, help="Bugs in one task.", rich_help_panel=_BUGS)] = 1,
    distance: Annotated[
        Distance, typer.Option(help="How far apart the bugs of one task may lie.", rich_help_panel=_BUGS)
    ] = Distance.MODULE,
    min_broken: Annotated[int, typer.Option(min=1, help="Tests that fail at least.", rich_help_panel=_BUGS)] = 1,
    max_broken: Annotated[
        int | None, typer.Option(min=1, help="Tests that fail at most.", rich_help_panel=_BUGS)
    ] = None,
    hint: Annotated[Hint, typer.Option(help="What the statement gives away.", rich_help_panel=_BUGS)] = Hint.TESTS,
    sandbox: opt.SandboxName = "auto",
    sandbox_option: opt.SandboxOptions = None,
    base_image: opt.BaseImage = None,
    jobs: Annotated[int, typer.Option(min=1, help="Sandboxes at a time.")] = 2,
    seed: opt.Seed = 0,
) -> None:
    """Make mutate-fix tasks from a real package: bugs of five kinds that its own tests notice, each validated."""
    import asyncio

    from swegym.cli.compose import extra, print_summary
    from swegym.cli.progress import show_progress
    from swegym.core.errors import ConfigError

    with extra("build", "coverage", "libcst"):
        from swegym.envs.tasksets.build import build_tasks
        from swegym.envs.tasksets.mutate.candidates import MutateOptions
        from swegym.envs.tasksets.mutate.kinds import parse_mix
    from swegym.cli.session import SessionOptions, sandbox_options_from

    if max_broken is not None and max_broken < min_broken:
        raise ConfigError(f"--max-broken {max_broken} is less than --min-broken {min_broken}")
    options = MutateOptions(
        mix=parse_mix(mix),
        num_edits=num_edits,
        distance=distance.value,
        min_broken=min_broken,
        max_broken=max_broken,
        hint=hint.value,
    )

    async def run_build() -> BuildReport:
        session = SessionOptions(
            sandbox=sandbox, sandbox_options=sandbox_options_from(sandbox_option), base_image=base_image
        )
        provider = await asyncio.to_thread(session.make_provider)
        try:
            with show_progress() as progress:
                return await build_tasks(
                    source,
                    out,
                    num_train,
                    num_heldout,
                    seed,
                    jobs,
                    provider,
                    _stages(progress),
                    options=options,
                    requirements=tuple(requirement or ()),
                    recipe=recipe,
                )
        finally:
            await provider.close()

    report = asyncio.run(run_build())
    print_summary(
        {"source": report.source, "train": report.num_train, "held out": report.num_heldout}
        | {f"candidates {status}": count for status, count in sorted(report.verdicts.items())}
        | {"seconds": sum(report.seconds.values())}
    )
    print(f"\nswegym tasks list {out}\nreport: {out / 'report.md'} and {out / 'report.html'}")
