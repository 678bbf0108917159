"""`swegym sandboxes ls|prune`: what sandboxes exist on this machine, and removing those that nobody owns any more."""

from __future__ import annotations

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List and remove sandboxes on this machine.")


@app.command("ls")
def ls() -> None:
    """List every sandbox of swegym on this machine, with its owner."""
    from rich.table import Table

    from swegym.cli.compose import out
    from swegym.envs.sandboxes.reaper import list_sandboxes

    table = Table(show_edge=False, pad_edge=False)
    for heading in ("sandbox", "back end", "owner", "state"):
        table.add_column(heading, overflow="fold")
    found = list_sandboxes()
    for item in found:
        table.add_row(
            item.sandbox_id,
            item.backend,
            f"process {item.owner.partition(':')[0] or '?'}",
            "orphan" if item.is_orphan else "in use",
        )
    out().print(table if found else "no sandboxes")


@app.command("prune")
def prune() -> None:
    """Remove the sandboxes whose owner has ended. Those in use are left alone."""
    from swegym.envs.sandboxes.reaper import reap

    print(f"removed {len(reap())} sandboxes")
