"""Mutations: exactly the sites that one sed can cure, found on the tree."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from swegym.core.errors import UnknownName
from swegym.envs.tasksets.mutations import MUTATORS, Mutation, find_mutations


def changes(line: str, *kinds: str) -> set[tuple[str, str]]:
    """(before, after) tokens offered for one statement inside a function."""
    source = f"def f(a, b, c):\n    {line}\n"
    return {(m.before_token, m.after_token) for m in find_mutations("m.py", source, kinds or MUTATORS)}


@pytest.mark.parametrize(
    ("line", "kinds", "expected"),
    [
        ("return a and b", ["boolean"], {("and", "or")}),
        ("return a and b and c", ["boolean"], set()),  # twice in the line: sed would cure the first only
        ("return a is b", ["identity"], {("is", "is not")}),
        ("return a is not b", ["identity"], {("is not", "is")}),
        ("return a in b", ["membership"], {("in", "not in")}),
        ("return a not in b", ["membership"], {("not in", "in")}),
        ("return [x for x in b]", ["membership"], set()),
        ("return not a", ["negation"], {("return not", "return")}),
        ("while a: pass", ["negation"], set()),  # no blank behind `a`, but none is needed: `while` has both
        ("return b if a else c", ["negation"], {("if", "if not")}),
        ("return b if a > 1 else c", ["negation"], set()),
        ("a += b", ["augmented"], {("+=", "-=")}),
        ("x = True if a else b", ["constant"], {("True", "False")}),
        ("x = True", ["constant"], set()),  # no blank behind it
        ("x = 1 if a else 2", ["number"], {("1", "0"), ("1", "2")}),
        ("return a<b", ["comparison"], set()),
        ("return 'a < b' < c", ["comparison"], set()),  # also in the string
        ("return a < b  # a < b", ["comparison"], set()),
        ("return '%s' % a", ["arithmetic"], set()),
        ("print('a == b')", [], set()),
        ("'a == b and not c'", [], set()),
        ("return a  ==  b", ["comparison"], {("==", other) for other in ("!=", "<", "<=", ">", ">=")}),
        ("return a * b", ["arithmetic"], {("*", other) for other in ("+", "-", "/", "//", "%")}),
    ],
)
def test_sites_by_hand(line: str, kinds: list[str], expected: set[tuple[str, str]]) -> None:
    if line == "while a: pass":
        expected = {("while", "while not")}
    assert changes(line, *kinds) == expected


def test_position_and_lines() -> None:
    source = '"""a < b"""\n\n\ndef f(a, b):\n    # a < b\n    return a < b\n'
    found = find_mutations("pkg/m.py", source, ["comparison"])
    assert len(found) == 5
    first = found[0]
    assert first == Mutation("pkg/m.py", 6, 13, "    return a < b", "    return a != b", "<", "!=", "comparison")


def test_columns_behind_other_alphabets_and_windows_line_ends() -> None:
    source = "def f(a):\r\n    return 'ñandú' == a or a is None\r\n"
    found = find_mutations("m.py", source, ["boolean", "identity"])
    assert {(m.column, m.after_line) for m in found} == {
        (24, "    return 'ñandú' == a and a is None"),
        (29, "    return 'ñandú' == a or a is not None"),
    }


def test_operator_at_the_start_of_a_line_of_its_own_expression() -> None:
    source = "def f(a, b):\n    return (a\n            and b)\n"
    (found,) = find_mutations("m.py", source, ["boolean"])
    assert (found.line, found.column, found.after_line) == (3, 12, "            or b)")


def test_sed_safety() -> None:
    safe = {(m.before_token, m.after_token) for m in find_mutations("m.py", "x = 3 - y\n") if m.is_sed_safe}
    assert safe == {("-", "+"), ("-", "%")}


def test_sed_cures_every_safe_mutation_of_a_real_module(tmp_path: Path) -> None:
    source = Path(ast.__file__).read_text("utf-8")
    lines = source.split("\n")
    found = [m for m in find_mutations("ast.py", source, MUTATORS) if m.is_sed_safe]
    assert len(found) > 200
    path = tmp_path / "ast.py"
    for mutation in found[::25]:
        broken = [*lines]
        broken[mutation.line - 1] = mutation.after_line
        ast.parse("\n".join(broken))
        path.write_text("\n".join(broken), "utf-8")
        cure = f"{mutation.line}s/ {mutation.after_token} / {mutation.before_token} /"
        subprocess.run(["sed", "-i", cure, str(path)], check=True)
        assert path.read_text("utf-8") == source


def test_unknown_kind_and_unreadable_source() -> None:
    with pytest.raises(UnknownName, match="comparison"):
        find_mutations("m.py", "x = 1\n", ["comparisons"])
    with pytest.raises(SyntaxError):
        find_mutations("m.py", "x = = 1\n")
