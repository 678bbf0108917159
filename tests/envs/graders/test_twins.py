"""Copies of tests: text in, text out. The copies are really run, on sound and on broken code."""

from __future__ import annotations

import ast
import random
from contextlib import suppress
from typing import Any

import pytest

from swegym.envs.graders.twins import Twin, add_twins, function_of


def twins_of(source: str, *functions: str, seed: int = 0) -> tuple[str, list[Twin]]:
    text, twins = add_twins("t.py", source.encode(), functions, random.Random(seed))
    return text.decode(), twins


def passes(namespace: dict[str, Any], name: str) -> bool:
    try:
        namespace[name]()
    except AssertionError:
        return False
    return True


def assert_equal(left: object, right: object) -> None:
    assert left == right


SITES = {
    "number": ("assert f(1) == 4", 4),
    "negative number": ("assert f(1) == -4", -4),
    "number on the left": ("assert 4 == f(1)", 4),
    "zero": ("assert f(1) == 0", 0),
    "fraction": ("assert f(1) == 0.5", 0.5),
    "text": ('assert f(1) == "naïve, b"', "naïve, b"),
    "text without letters": ('assert f(1) == "--"', "--"),
    "empty text": ("assert f(1) == ''", ""),
    "bytes": ("assert f(1) == b'ab'", b"ab"),
    "truth": ("assert f(1) == True", True),
    "list": ("assert f(1) == [1, [2, 'x']]", [1, [2, "x"]]),
    "empty list": ("assert f(1) == []", []),
    "empty tuple": ("assert f(1) == ()", ()),
    "empty mapping": ("assert f(1) == {}", {}),
    "mapping": ("assert f(1) == {'a': 1, 'b': None}", {"a": 1, "b": None}),
    "set": ("assert f(1) == {1, 2}", {1, 2}),
    "two lines": ("assert (\n        f(1)\n        ==  # why\n        [1,\n         2]\n    )", [1, 2]),
    "unknown side": ("x = [3]\n    assert f(1) == x", [3]),
    "not equal": ("assert f(1) != f", 1),
    "is": ("assert f(1) is None", None),
    "is not": ("assert f(1) is not None", 1),
    "in": ("assert 2 in f(1)", [2]),
    "not in": ("assert 3 not in f(1)", [2]),
    "less": ("assert f(1) < 3", 2),
    "plain": ("assert f(1)", 1),
    "negated": ("assert not f(1)", 0),
    "loop": ("for x in (1, 2):\n        assert f(x) == 4", 4),
    "name": ("expected = [1, 'a']\n    assert f(1) == expected", [1, "a"]),
    "name on the left": ("expected = 4\n    got = f(1)\n    assert expected == got", 4),
    "joined": ('expected = "\\n".join(["a", "b"])\n    assert_equal(expected, f(1))', "a\nb"),
    "sum": ("assert f(1) == 'a' + ('b'\n        'c')", "abc"),
    "function": ("assert_equal(f(1), 4)", 4),
    "branch": ("if f(1):\n        assert f(1) == 4", 4),
    "nothing asserted": ("f(1)  # end", 4),
    "exception": ("with raises(ValueError):\n        assert f(1) == 3", 4),
    "caught": ("try:\n        assert f(1) == 3\n    except AssertionError:\n        pass", 4),
    "with": ("with open('/dev/null'):\n        assert f(1) == 4", 4),
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("seed", range(4))
def test_sound_copies_pass_and_altered_ones_fail(name: str, seed: int) -> None:
    statement, answer = SITES[name]
    source = f"# first\ndef test_a():\n    {statement}\n\n\ndef test_b():\n    pass\n"
    text, (twin,) = twins_of(source, "test_a", seed=seed)
    namespace: dict[str, Any] = {"f": lambda x: answer, "raises": lambda kind: suppress(AssertionError)}
    namespace["assert_equal"] = assert_equal
    exec(compile(text, "t.py", "exec"), namespace)
    assert "test_a" in (*twin.sound, *twin.altered)
    assert len({*twin.sound, *twin.altered}) == 3
    assert [passes(namespace, copy) for copy in twin.sound] == [True] * len(twin.sound)
    assert [passes(namespace, copy) for copy in twin.altered] == [False] * len(twin.altered)
    assert text.startswith("# first\n")
    assert text.endswith("def test_b():\n    pass\n")


def test_own_name_is_sound_or_altered_by_chance() -> None:
    kinds = {
        "test_a" in twins_of("def test_a():\n    assert f() == 1\n", "test_a", seed=n)[1][0].sound for n in range(20)
    }
    assert kinds == {True, False}


def test_altered_copies_are_equal_so_that_no_majority_tells() -> None:
    text, (twin,) = twins_of("def test_a():\n    assert f() == [1, 2, 3]\n", "test_a", seed=3)
    bodies = {node.name: ast.dump(node.body[0]) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert len({bodies[name] for name in twin.altered}) == 1
    assert len({bodies[name] for name in twin.sound}) == 1


def test_classes_decorators_and_parameters() -> None:
    source = (
        "import pytest\n\n\nclass TestA:\n    @pytest.mark.parametrize('x', [1, 2])\n    @staticmethod\n"
        "    def test_b(x):\n        assert f(x) == 1  # end\n\n    async def test_c(self):\n        assert f(0) == 1"
    )
    text, twins = twins_of(source, "TestA::test_b", "TestA::test_c")
    (group,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    names = [node.name for node in group.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [name[:6] for name in names] == ["test_b"] * 3 + ["test_c"] * 3
    assert text.count("parametrize") == 3
    first = twins[0]
    copy = first.sound[-1]
    assert first.ids(first.sound, "t.py::TestA::test_b[a::b[1]]")[-1] == f"t.py::{copy}[a::b[1]]"


def test_unittest_methods() -> None:
    source = (
        "import unittest\n\n\nclass TestA(unittest.TestCase):\n"
        "    def test_b(self):\n        self.assertEqual(f(), 3)\n\n"
        "    def test_c(self):\n        self.assertTrue(f())\n"
    )
    text, twins = twins_of(source, "TestA::test_b", "TestA::test_c")
    assert len(twins) == 2
    assert "assertFalse" in text


def test_a_value_that_also_goes_in_is_not_altered() -> None:
    """`f(data) == data` holds for other data too."""
    text, (twin,) = twins_of("def test_a():\n    data = [1, 2]\n    assert f(data) == data\n", "test_a")
    assert text.count("[1, 2]") == 3
    assert twin.site == "3: f(data) == data"


def test_line_ends_stay() -> None:
    text, (twin,) = twins_of("import os\r\n\r\n\r\ndef test_a():\r\n    assert f() == 'x'\r\n", "test_a")
    assert text.count("\r\n") == text.count("\n") == 9
    assert twin.site == "5: f() == 'x'"


@pytest.mark.parametrize(
    "source",
    [
        "def test_a(:\n",
        "def test_b():\n    assert f() == 1\n",
        "def test_a(): pass\n",
        "def test_a():\n    return f() == 1\n",
        "def test_a():\n    if f():\n        assert f() == 1\n        return\n",
        "def test_a():\n    yield f\n",
        "def test_a():\n    assert f() == 1\n\n\ndef test_a():\n    assert f() == 2\n",
        "# coding: latin-1\ndef test_a():\n    assert f() == 'a'\n",
        "\ufeffdef test_a():\n    assert f() == 'a'\n",
        "def test_a(): assert f() == 1; g()\n" * 2,
    ],
)
def test_what_cannot_be_copied_is_left_alone(source: str) -> None:
    assert twins_of(source, "test_a") == (source, [])


def test_methods_that_another_class_inherits_are_left_alone() -> None:
    """The heir's test has the same name and no copies: it would fail wherever the original is altered."""
    source = "class TestA:\n    def test_b(self):\n        assert f() == 1\n\n\nclass TestB(TestA):\n    pass\n"
    assert twins_of(source, "TestA::test_b") == (source, [])


def test_function_of() -> None:
    assert function_of("tests/a.py::TestB::test_c[x::y[1]]") == ("tests/a.py", "TestB::test_c")
