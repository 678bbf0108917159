"""`swegym sandboxes ls|prune`: what sandboxes exist on this machine, and removing those that nobody owns any more."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List and remove sandboxes on this machine.")

Run = Annotated[str | None, typer.Option(help="Only those of this run (the name of its folder).")]
TempFolder = Annotated[
    str | None, typer.Option(help="Where local sandboxes lie, if sandbox.temp_folder was set. Default: swegym-UID.")
]


@app.command("ls")
def ls(
    run: Run = None,
    temp_folder: TempFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List every sandbox and snapshot of swegym on this machine, with its owner."""
    import json
    from dataclasses import asdict

    from swegym.envs.sandboxes.reaper import list_sandboxes

    found = [record for record in list_sandboxes(temp_folder) if run in (None, record.run)]
    if as_json:
        for record in found:
            print(json.dumps(asdict(record) | {"run": record.run, "state": record.state}))
        return
    if not found:
        print("no sandboxes")
        return
    from rich.table import Table

    from swegym.cli.compose import out

    table = Table(show_edge=False, pad_edge=False)
    for heading in ("sandbox", "back end", "owner", "age", "run", "task", "state"):
        table.add_column(heading, overflow="fold")
    for record in found:
        owner = f"process {record.owner.partition(':')[0] or '?'}"
        task = record.labels.get("task", "")
        table.add_row(record.sandbox_id, record.backend, owner, _age(record.age_s), record.run, task, record.state)
    out().print(table)


@app.command("prune")
def prune(
    run: Run = None,
    temp_folder: TempFolder = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those in use: what runs in them fails with SandboxLost.")
    ] = False,
) -> None:
    """Remove the sandboxes and snapshots whose owner has ended. Those in use are left alone unless --all is given."""
    from swegym.envs.sandboxes.reaper import reap

    removed = reap(temp_folder, run=run, everything=everything)
    num_snapshots = sum(record.kind == "snapshot" for record in removed)
    snapshots = f" and {num_snapshots} snapshots" if num_snapshots else ""
    print(f"removed {len(removed) - num_snapshots} sandboxes{snapshots}")


def _age(seconds: float) -> str:
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
