"""CWM's five kinds on the syntax tree: what is offered, by hand, and that every other byte stays."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swegym.core.errors import ConfigError, UnknownName
from swegym.envs.tasksets.mutate.kinds import CWM_MIX, KINDS, find_tree_mutations, parse_mix
from swegym.envs.tasksets.mutate.tree import Edit, apply_edits, compiles, line_edits
from swegym.envs.workspace import apply_line_edits

LIBRARY = [Path(ast.__file__).with_name(name) for name in ("textwrap.py", "bisect.py", "fnmatch.py")]


def results(source: str, kind: str, operator: str) -> set[str]:
    """Texts that an operator of a kind makes of a source, those that compile."""
    data = textwrap.dedent(source).lstrip("\n").encode()
    found = set()
    for mutation in find_tree_mutations("m.py", data, [kind]):
        changed = apply_edits(data, mutation.edits)
        if mutation.operator == operator and compiles(changed, "m.py"):
            found.add(changed.decode())
    return found


def bodies(statement: str, kind: str, operator: str, parameters: str = "a, b, c") -> set[str]:
    """What one statement, a function's only one, becomes."""
    head = f"def f({parameters}):\n"
    made = results(f"{head}    {statement}\n", kind, operator)
    return {text.removeprefix(head).strip() for text in made}


@pytest.mark.parametrize(
    ("statement", "operator", "expected"),
    [
        ("return a < b", "comparison", {f"return a {x} b" for x in ("==", "!=", "<=", ">", ">=")}),
        ("return a is not b", "comparison", {"return a is b"}),
        ("return a in b", "comparison", {"return a not in b"}),
        ("return a and b", "boolean", {"return a or b"}),
        ("return not a", "unary", {"return a"}),
        ("return -a", "unary", {"return a"}),
        ("return +a", "unary", set()),
        ("a += b", "augmented", {"a -= b", "a *= b"}),
        ("return a << b", "binary", {"return a >> b"}),
        ("return '%s' % a", "binary", set()),
        ("return b if a else c", "unary", {"return b if not a else c"}),
        ("return [x for x in a]", "comparison", set()),
    ],
)
def test_operators(statement: str, operator: str, expected: set[str]) -> None:
    assert bodies(statement, "operators", operator) == expected


@pytest.mark.parametrize(
    ("statement", "operator", "expected"),
    [
        ("return g(a, b)", "swap_call_arguments", {"return g(b, a)"}),
        ("return g(a, a)", "swap_call_arguments", set()),
        ("return g(x=a, y=b)", "swap_call_arguments", {"return g(x=b, y=a)"}),
        ("return g(a, *b)", "swap_call_arguments", set()),
        ("return g(a,  y = b)", "drop_call_argument", {"return g(a)", "return g(y = b)"}),
        ("return g(a)", "drop_call_argument", set()),
        ("return isinstance(a, b)", "drop_call_argument", set()),
    ],
)
def test_arguments_of_calls(statement: str, operator: str, expected: set[str]) -> None:
    assert bodies(statement, "arguments", operator) == expected


@pytest.mark.parametrize(
    ("signature", "operator", "expected"),
    [
        ("self, a, b", "drop_parameter", {"self, a", "self, b"}),
        ("a, *, b", "drop_parameter", {"*, b"}),  # a bare `*` needs one behind it
        ("a, *, b, c=1", "drop_parameter", {"*, b, c=1", "a, *, c=1", "a, *, b"}),
        ("a", "drop_parameter", {""}),
        ("a: int, b: str = ''", "swap_parameters", set()),
        ("a: int, b: str", "swap_parameters", {"b: str, a: int"}),
        ("a, b=1", "change_default", {"a, b=2"}),
        ("a=True, b=None", "change_default", {"a=False, b=None", "a=True, b=False"}),
        ("a='x'", "change_default", {"a=''"}),
        ("a=''", "change_default", {"a=' '"}),
    ],
)  # fmt: skip
def test_signatures(signature: str, operator: str, expected: set[str]) -> None:
    made = results(f"def f({signature}):\n    return 1\n", "arguments", operator)
    assert {text.split("f(")[1].split("):")[0] for text in made} == expected


def test_signature_over_several_lines_keeps_its_form() -> None:
    source = "def f(\n    a,  # first\n    b=1,\n    c=2,\n):\n    return 1\n"
    assert "def f(\n    a,  # first\n    c=2,\n    b=1,\n):\n    return 1\n" in results(
        source, "arguments", "swap_parameters"
    )


def test_variables() -> None:
    source = """
    def f(a, b):
        c = g(a, b=b)
        return c.a
    """
    head = "def f(a, b):\n    "
    assert results(source, "variables", "swap_all") == {
        f"{head}c = g(b, b=a)\n    return c.a\n",
        f"{head}a = g(c, b=b)\n    return a.a\n",
        f"{head}b = g(a, b=c)\n    return b.a\n",
    }
    twice = "def f(a, b):\n    c = a\n    return g(a, b) + c\n"
    swapped = results(twice, "variables", "swap_in_statement")
    assert "def f(a, b):\n    c = a\n    return g(b, a) + c\n" in swapped
    assert len(swapped) == 3
    wrong = results(source, "variables", "wrong_variable")
    assert f"{head}c = g(a, b=b)\n    return a.a\n" in wrong
    assert f"{head}a = g(a, b=b)\n    return c.a\n" not in wrong  # what is bound keeps its name


def test_two_locals_swapped_everywhere_would_change_nothing() -> None:
    assert results("def f():\n    x = 1\n    y = 2\n    return x - y\n", "variables", "swap_all") == set()


def test_statements() -> None:
    source = """
    import re


    def f(a):
        if not a:
            return None
        x = 1  # one
        y = 2
        if a > x:
            y = 3
        else:
            y = 4
        return x + y
    """
    data = textwrap.dedent(source).lstrip("\n")
    assert results(source, "statements", "remove_import") == {data.replace("import re\n", "")}
    assert results(source, "statements", "remove_guard") == {data.replace("    if not a:\n        return None\n", "")}
    assert results(source, "statements", "remove_else") == {data.replace("    else:\n        y = 4\n", "")}
    assert data.replace("    return x + y\n", "") in results(source, "statements", "remove_return")
    assert data.replace("        return None\n", "        pass\n") in results(source, "statements", "remove_return")
    assert data.replace("    x = 1  # one\n", "") in results(source, "statements", "remove_statement")
    swapped = data.replace("x = 1  # one\n    y = 2\n", "y = 2  # one\n    x = 1\n")
    assert results(source, "statements", "swap_statements") == {swapped}


def test_functions() -> None:
    source = '''
    class C:
        @property
        def f(self):
            """Say it."""
            a = 1
            # then
            b = 2
            return a, b
    '''
    data = textwrap.dedent(source).lstrip("\n")
    head = data[: data.index("a = 1")]
    assert results(source, "functions", "remove_body") == {f"{head}raise NotImplementedError\n"}
    assert results(source, "functions", "empty_body") == {f"{head}return None\n"}
    assert data.replace("return a, b", "return b, a") in results(source, "functions", "wrong_return")
    parts = results(source, "functions", "remove_part")
    assert parts == {f"{head}return a, b\n", data[: data.index("        # then")]} or len(parts) == 2


def test_docstrings_comments_and_strings_stay() -> None:
    source = b'def f(a):\n    """a < b and not c"""\n    # a < b\n    return "a < b"\n'
    assert find_tree_mutations("m.py", source, ["operators"]) == []


def test_other_alphabets_and_windows_line_ends() -> None:
    source = "def f(a):\r\n    x = 'ñandú'\r\n    return x == a\r\n".encode()
    found = [item for item in find_tree_mutations("m.py", source, ["operators"]) if item.operator == "comparison"]
    assert {apply_edits(source, item.edits).decode() for item in found} >= {
        "def f(a):\r\n    x = 'ñandú'\r\n    return x != a\r\n"
    }
    (edit,) = line_edits("m.py", source, found[0].edits)
    assert (edit.first_line, edit.last_line) == (3, 3)
    assert edit.text.endswith("\r\n")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.name)
def test_real_modules(path: Path) -> None:
    data = path.read_bytes()
    found = find_tree_mutations(path.name, data)
    assert {item.kind for item in found} == set(KINDS)
    assert found == find_tree_mutations(path.name, data)
    for mutation in found[:: max(len(found) // 60, 1)]:
        changed = apply_edits(data, mutation.edits)
        assert changed != data
        assert apply_line_edits(data, list(line_edits(path.name, data, mutation.edits))) == changed
        kept = data[: mutation.edits[0].start], data[mutation.edits[-1].stop :]
        assert changed.startswith(kept[0])
        assert changed.endswith(kept[1])


def test_most_mutations_of_a_real_module_compile() -> None:
    data = LIBRARY[0].read_bytes()
    sample = find_tree_mutations("m.py", data)[::15]
    assert sum(compiles(apply_edits(data, item.edits), "m.py") for item in sample) >= 0.9 * len(sample)


def test_line_edits_that_join_three_lines() -> None:
    source, edits = b"a\n\na\n", [Edit(1, 2, ""), Edit(2, 3, "")]
    assert apply_line_edits(source, list(line_edits("m", source, edits))) == b"aa\n"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_line_edits_do_what_byte_edits_do(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.text("ab é\r", max_size=4), max_size=6))
    source = "\n".join(lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(source.decode())), max_size=6)))
    bounds = [len(source.decode()[:cut].encode()) for cut in cuts]
    texts = data.draw(st.lists(st.text("xy\n", max_size=3), min_size=3, max_size=3))
    pairs = list(zip(bounds[::2], bounds[1::2], texts, strict=False))
    edits = [Edit(start, stop, text) for start, stop, text in pairs if start < stop]
    expected = apply_edits(source, edits)
    got = apply_line_edits(source, list(line_edits("m", source, edits))) if edits else source
    assert got.rstrip(b"\r\n") == expected.rstrip(b"\r\n")


def test_overlapping_edits_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        apply_edits(b"abcdef", [Edit(0, 3, "x"), Edit(2, 4, "y")])


def test_unknown_kinds_and_unreadable_files() -> None:
    with pytest.raises(UnknownName, match="operators"):
        find_tree_mutations("m.py", b"x = 1\n", ["operator"])
    assert find_tree_mutations("m.py", b"x = = 1\n") == []


def test_mix() -> None:
    assert parse_mix("functions=7, operators=12.5") == {"functions": 7.0, "operators": 12.5}
    assert parse_mix("operators") == {"operators": 1.0}
    assert sum(CWM_MIX.values()) == 45
    for text in ("", "operators=0", "operators=-1", "operators=x"):
        with pytest.raises(ConfigError):
            parse_mix(text)
    with pytest.raises(UnknownName, match="operators"):
        parse_mix("operator=1")
