"""The shape of the project's files."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}
# Spelt in pieces, so that this file does not hold what it forbids.
FORBIDDEN_TEXT = re.compile(
    r"pypi\.(?:org|io)|files\.python" + r"hosted|download\.py" + r"torch|registry-1\.dock" + r"er|registry\.n" + r"pmjs"
    r"|/work" + r"/(?:main|shared)|/opt" + r"/(?:pypi|wheels)",
    re.IGNORECASE,
)


def project_files() -> list[Path]:
    """Files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        cwd=ROOT,
        timeout=60,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def python_files() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py" and "data" not in path.relative_to(ROOT).parts]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_stay_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files()}
    assert len(lengths) > 30
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def num_body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the statements: neither the signature nor the docstring, which may be as long as they need."""
    body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_functions_stay_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": num_body_lines(node)
        for path in python_files()
        for node in functions(path)
    }
    assert len(lengths) > 100
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_body_lines_are_counted_without_signature_and_docstring() -> None:
    source = 'def f(\n    a: int,\n) -> int:\n    """Doc.\n\n    More.\n    """\n    a += 1\n\n    return a\n'
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert num_body_lines(function) == 3


def test_no_drawer_for_odds_and_ends() -> None:
    assert [str(path) for path in project_files() if path.name in FORBIDDEN_NAMES] == []


def test_no_registry_host_and_no_path_of_one_machine() -> None:
    found = []
    for path in project_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # binary
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in FORBIDDEN_TEXT.finditer(text)]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files()
        if path.relative_to(ROOT).parts[0] in {"swegym", "envs", "agents", "rewards", "train"}
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []
