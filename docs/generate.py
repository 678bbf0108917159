"""Write the reference pages in docs/reference from the code: `make docs`. `--check` says whether they are current."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

PAGES = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code; edit the docstrings instead. -->\n\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _fields(section: type[BaseModel], prefix: str = "") -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _fields(field.annotation, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            rows.append(f"| `{prefix}{name}` | `{_cell(default)}` | {_cell(field.description or '')} |")
    return rows


def config_page() -> str:
    """Every setting of the two stages, with default and meaning."""
    from swegym.train.config import RlConfig, SftConfig

    page = NOTE + "# Settings\n\nIn a TOML file (`--config FILE`) or on the command line (`--algo.group_size=4`).\n"
    for command, section in (("rl", RlConfig), ("sft", SftConfig)):
        page += f"\n## swegym train {command}\n\n| key | default | meaning |\n|---|---|---|\n"
        page += "\n".join(_fields(section)) + "\n"
    return page


def _command(path: str, command: Any) -> str:
    text = f"\n## {path}\n\n{_cell(command.help or '')}\n"
    rows = []
    for item in command.params:
        if item.param_type_name == "argument":
            rows.append(f"| `{item.name.upper()}` | {_cell(getattr(item, 'help', '') or '')} |")
        elif "--help" not in item.opts:
            rows.append(f"| `{'`, `'.join([*item.opts, *item.secondary_opts])}` | {_cell(item.help or '')} |")
    return text + ("\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else "")


def commands(group: Any, path: str = "swegym") -> dict[str, Any]:
    """Full name of every command -> the command."""
    found = {}
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        found |= commands(command, f"{path} {name}") if inner else {f"{path} {name}": command}
    return found


def commands_page() -> str:
    """Every command with its options."""
    from typer.main import get_command

    from swegym.cli import app

    every = commands(get_command(app))
    return NOTE + "# Commands\n" + "".join(_command(path, command) for path, command in every.items())


def main() -> int:
    """Write or check the pages."""
    pages = {"config.md": config_page(), "commands.md": commands_page()}
    if "--check" in sys.argv:
        stale = [n for n, text in pages.items() if not (PAGES / n).is_file() or (PAGES / n).read_text() != text]
        sys.stdout.write(f"out of date, run `make docs`: {', '.join(stale)}\n" if stale else "current\n")
        return 1 if stale else 0
    PAGES.mkdir(exist_ok=True)
    for name, text in pages.items():
        (PAGES / name).write_text(text)
        sys.stdout.write(f"wrote {PAGES / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
