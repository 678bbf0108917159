"""`swegym doctor`: what this machine has, what that enables, and the command that adds what is missing."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["doctor"]

_MARKS = {"ok": "[green]yes[/]", "missing": "[yellow]no[/]", "info": "-"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Say what this machine has, what that enables and how to add what is missing. Installs nothing."""
    from swegym.cli.probes import probe_machine

    findings = probe_machine()
    if as_json:
        import json
        from dataclasses import asdict

        print(json.dumps([asdict(finding) for finding in findings], indent=2))
        return
    from rich.table import Table

    from swegym.cli.compose import out

    console = out()
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("", "has", "what", "enables"):
        table.add_column(heading, overflow="fold")
    for item in findings:
        table.add_row(item.name, _MARKS[item.status], item.detail, item.enables)
    console.print(table)
    missing = [item for item in findings if item.status == "missing" and item.fix]
    if missing:
        console.print("\nTo add what is missing:")
        for item in missing:
            console.print(f"  {item.name}: {item.fix}", markup=False, highlight=False, soft_wrap=True)
