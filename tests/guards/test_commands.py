"""The command line's surface, and that what README and Makefile promise exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.main import get_command

from swegym.cli import app

ROOT = Path(__file__).parents[2]
COMMANDS = [
    "demo",
    "doctor",
    "episodes ls",
    "eval",
    "images base",
    "images build",
    "images ls",
    "images prune",
    "regrade",
    "replay",
    "rollout",
    "sandboxes ls",
    "sandboxes prune",
    "tasks build",
    "tasks import",
    "tasks list",
    "tasks show",
    "tasks validate",
    "train rl",
    "train sft",
]
MAX_OPTIONS = 138  # of all commands together; settings of training are configuration, not options


def commands(group: Any, path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= commands(command, f"{path}{name} ") if inner else {f"{path}{name}": command}
    return found


def options(command: Any) -> set[str]:
    return {name for item in command.params for name in (*item.opts, *item.secondary_opts)}


def test_commands_are_frozen() -> None:
    assert sorted(commands(get_command(app))) == COMMANDS


def test_number_of_options_stays_bounded() -> None:
    assert sum(len(command.params) for command in commands(get_command(app)).values()) <= MAX_OPTIONS


def test_every_command_and_option_is_explained() -> None:
    silent = []
    for path, command in commands(get_command(app)).items():
        silent += [path] if not command.help else []
        silent += [f"{path} {item.name}" for item in command.params if not getattr(item, "help", "")]
    assert silent == []


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


def code_of(page: Path) -> str:
    """The lines of fenced and of indented blocks."""
    lines, is_fenced = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif is_fenced or line.startswith("    "):
            lines.append(line)
    return "\n".join(lines)


def test_commands_in_documents_exist() -> None:
    known = commands(get_command(app))
    families = {path.partition(" ")[0] for path in known if " " in path}
    used = 0
    for page in documents():
        for line in re.findall(r"^\s*swegym ([a-z].*)$", code_of(page), re.MULTILINE):
            words = line.split()
            path = " ".join(words[:2]) if words[0] in families else words[0]
            assert path in known, f"{page.name}: swegym {line}"
            for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*)(?=[\s=]|$)", line):
                assert option in options(known[path]) | {"--help"}, f"{page.name}: swegym {path} has no {option}"
            used += 1
    assert used >= 15


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in documents():
        for target in re.findall(r"^\s*make ([a-z]+)", code_of(page), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_files_named_in_documents_exist() -> None:
    for page in documents():
        for name in re.findall(r"\]\((?!\w+:)([^)#]+)", page.read_text()):
            assert (page.parent / name).exists(), f"{page.name}: {name}"


def test_make_help_explains_every_target() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, cwd=ROOT, timeout=60)
    explained = {line.split()[0] for line in done.stdout.splitlines() if line[:1].islower()}
    assert explained >= {"setup", "demo", "test", "check", "soak", "docs", "clean"}


def test_reference_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
