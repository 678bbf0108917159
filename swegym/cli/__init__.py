"""The command line: one typer app, one module per family of commands.

Modules of this package import typer and the standard library at the top; everything else is imported inside the command
that needs it, so that `swegym --help` answers at once. Errors are swegym's own (`swegym.core.errors`) and end in
`swegym.__main__` as one line on stderr.
"""

from __future__ import annotations

from typing import Annotated

import typer

from swegym.cli import demo, doctor, episodes, evaluate, images, rollout, sandboxes, tasks, train

__all__ = ["app"]

app = typer.Typer(
    name="swegym",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Agentic software-engineering environments and GRPO on the Code World Model architecture.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from swegym import __version__

        print(f"swegym {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Agentic software-engineering environments and GRPO on the Code World Model architecture."""


app.command("doctor")(doctor.doctor)
app.command("demo", context_settings=train.WITH_OVERRIDES)(demo.demo)
app.add_typer(tasks.app, name="tasks")
app.add_typer(images.app, name="images")
app.add_typer(sandboxes.app, name="sandboxes")
app.command("rollout")(rollout.rollout)
app.command("eval")(evaluate.evaluate)
app.add_typer(train.app, name="train")
app.add_typer(episodes.app, name="episodes")
app.command("replay")(episodes.replay)
app.command("regrade")(episodes.regrade)
