"""What to install and how to test, from a package's own files; recipe.toml out and in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.envs.tasksets.discover.declarations import declarations, pytest_commands
from swegym.envs.tasksets.discover.discovery import discover_recipe, find_test_paths, why_not_buildable
from swegym.envs.tasksets.recipe import Recipe, read_recipe, write_recipe


def make(folder: Path, files: dict[str, str]) -> Path:
    for name, text in {"toy/__init__.py": "", "tests/test_toy.py": "def test_a(): pass\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def found(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Requirement -> where it was found, without pytest."""
    recipe = discover_recipe(make(folder, files))
    assert recipe.requirements == tuple(recipe.found)
    return {name: where for name, where in recipe.found.items() if name != "pytest"}


INI = "[tool.pytest.ini_options]\n"
PYPROJECT = """
[project]
name = "toy"
version = "1"
dependencies = ["six>=1", "old; python_version < '3'"]
[project.optional-dependencies]
tests = ["freezegun", "ruff"]
yaml = ["pyyaml", "unused"]
[dependency-groups]
test = ["pytest-mock", {include-group = "more"}]
more = ["attrs"]
docs = ["sphinx"]
[tool.hatch.envs.test]
dependencies = ["hatched"]
[tool.tox.env_run_base]
deps = ["toxed"]
[tool.poetry.group.dev.dependencies]
black = "^1"
mypkg = "^2"
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"pyproject.toml": PYPROJECT, "tests/test_yaml.py": "import yaml, mypkg\n"},
            {
                "six>=1": "pyproject.toml, dependencies",
                "freezegun": "pyproject.toml, extra tests",
                "pyyaml": "pyproject.toml, extra yaml",
                "pytest-mock": "pyproject.toml, group test",
                "attrs": "pyproject.toml, group test",
                "hatched": "pyproject.toml, tool.hatch.envs.test",
                "toxed": "pyproject.toml, tool.tox",
                "mypkg": "pyproject.toml, poetry group dev",
            },
        ),
        (
            {
                "PKG-INFO": "Name: toy\nProvides-Extra: t\nRequires-Dist: six\n"
                'Requires-Dist: pytz>=1; extra == "testing"\n'
                "Requires-Dist: colorama; sys_platform == 'win32' and extra == 'testing'\n"
                "Requires-Dist: numpy; extra == 'fast'\n"
            },
            {"six": "PKG-INFO", "pytz>=1": "PKG-INFO, extra testing"},
        ),
        (
            {
                "setup.cfg": "[options]\ninstall_requires =\n    six\n[options.extras_require]\ntest =\n    pytz\n",
                "setup.py": "from setuptools import setup\nsetup(tests_require=['mock'],"
                " extras_require={'tests': ['nose2']}, install_requires=computed())\n",
            },
            {
                "six": "setup.cfg, install_requires",
                "pytz": "setup.cfg, extra test",
                "mock": "setup.py, tests_require",
                "nose2": "setup.py, tests",
            },
        ),
        (
            {
                "tox.ini": "[testenv]\ndeps =\n    mock\n    py{38,311}: pytz\n    -r{toxinidir}/reqs.txt\n    toy\n"
                "commands = pytest {posargs} tests\n",
                "reqs.txt": "-r more.txt\nfirst==1 --hash=sha256:1  # why\n",
                "more.txt": "second\n--index-url https://localhost/x\n",
            },
            {
                "mock": "tox.ini, [testenv]",
                "pytz": "tox.ini, [testenv]",
                "second": "tox.ini, reqs.txt",
                "first==1": "tox.ini, reqs.txt",
            },
        ),
        (
            {"requirements/test.txt": "mock\n", "requirements-dev.txt": "black\npytz\n", "toy/a.py": "import pytz\n"},
            {"mock": "requirements/test.txt", "pytz": "requirements-dev.txt"},
        ),
        (
            {
                ".github/workflows/ci.yml": "jobs:\n  a:\n    steps:\n      - run: pip install -U mock .\n"
                "      - name: more\n        run: |\n          python -m pip install pytz tox\n"
                "          pytest -x tests/test_toy.py\n"
                "      - run: echo 'unbalanced\n",
                "toy/a.py": "import mock, pytz\n",
            },
            {"mock": "CI workflow ci.yml", "pytz": "CI workflow ci.yml"},
        ),
        ({"pyproject.toml": "not [ toml", "setup.cfg": "neither", "tox.ini": "x"}, {}),
    ],
)  # fmt: skip
def test_declarations(tmp_path: Path, files: dict[str, str], expected: dict[str, str]) -> None:
    assert found(tmp_path, files) == expected


def test_asked_for_comes_first_and_markers_of_other_machines_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, {"pyproject.toml": PYPROJECT})
    recipe = discover_recipe(tmp_path, extra_requirements=("six==1.17.0",), runtime=("built",))
    assert recipe.requirements[:3] == ("six==1.17.0", "pytest", "built")
    assert not any(name.startswith("old") for name in recipe.requirements)


def test_plugins_are_loaded_by_name(tmp_path: Path) -> None:
    recipe = discover_recipe(
        make(tmp_path, {"requirements-test.txt": "pytest-asyncio\npytest-cov\npytest-benchmark\n"})
    )
    assert recipe.pytest_arguments == ("-o", "addopts=", "-p", "asyncio", "-p", "benchmark")
    assert "pytest-cov" not in recipe.requirements


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, ("tests",)),
        ({"pyproject.toml": f"{INI}testpaths = ['checks', 'nowhere']\n", "checks/test_a.py": ""}, ("checks",)),
        ({"pyproject.toml": f"{INI}testpaths = 'checks'\n", "checks/a_test.py": ""}, ("checks",)),
        ({"toy/tests/test_b.py": ""}, ("tests", "toy/tests")),
        ({"tox.ini": "[testenv]\ncommands = pytest benchmark\n", "benchmark/benchmark.py": ""}, ("tests",)),
    ],
)  # fmt: skip
def test_where_the_tests_are(tmp_path: Path, files: dict[str, str], expected: tuple[str, ...]) -> None:
    assert find_test_paths(make(tmp_path, files)) == expected


def test_tests_that_only_ci_names(tmp_path: Path) -> None:
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks/test_a.py").write_text("")
    (tmp_path / "tox.ini").write_text(
        "[testenv]\ncommands =\n    python -m pytest -q checks/test_a.py::test_b && echo\n"
    )
    assert pytest_commands(tmp_path) == [("tox.ini", ["-q", "checks/test_a.py::test_b"])]
    assert find_test_paths(tmp_path) == ("checks/test_a.py",)


def test_src_layout_and_own_name(tmp_path: Path) -> None:
    make(
        tmp_path,
        {"src/own/__init__.py": "", "tests/test_own.py": "import own, toy\n", "tox.ini": "[testenv]\ndeps = own\n"},
    )
    recipe = discover_recipe(tmp_path)
    assert recipe.python_path == ("src",)
    assert recipe.requirements == ("pytest",)


def test_undeclared_imports_of_tests_only_where_the_name_is_known(tmp_path: Path) -> None:
    make(tmp_path, {"tests/test_toy.py": "import yaml, unheard_of\n", "docs/conf.py": "import dateutil\n"})
    assert discover_recipe(tmp_path).found == {"pytest": "needed to run the tests", "pyyaml": "imported by the tests"}


def test_tests_beside_the_modules(tmp_path: Path) -> None:
    for name in ("tests.py", "toy.py", "toy_test.py"):
        (tmp_path / name).write_text("")
    assert find_test_paths(tmp_path) == ("tests.py", "toy_test.py")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pyproject.toml": "[build-system]\nbuild-backend = 'maturin'\n"}, "maturin compiles Rust"),
        ({"toy/fast.pyx": ""}, r"compiled parts \(toy/fast.pyx\)"),
        ({}, "^$"),
    ],
)
def test_compiled_packages(tmp_path: Path, files: dict[str, str], message: str) -> None:
    assert re.search(message, why_not_buildable(make(tmp_path, files)))


def test_unreadable_requirements_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, {"requirements-test.txt": "mock\n./local\n!!\nhttps://localhost/x.whl\n"})
    assert [item.requirement for item in declarations(tmp_path)] == ["mock"]


def test_recipe_out_and_in(tmp_path: Path) -> None:
    recipe = Recipe(
        requirements=("pytest", 'x; python_version > "3"'),
        test_paths=("tests", "ü b"),
        pytest_arguments=("--deselect", "t.py::a[\\n]"),
        python_path=("src",),
        environment={"TZ": "UTC", "A B": 'q"'},
        found={"pytest": "here"},
    )
    write_recipe(tmp_path / "recipe.toml", recipe, "toy 1")
    assert read_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("requirements = ['pytest']\n", "test_paths: Field required"),
        ("test_paths = []\n", "test_paths"),
        ("test_paths = ['t']\nrequirement = []\n", "requirement: Extra inputs"),
        ("x = = 1", "is not TOML"),
        (None, "cannot read"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(tmp_path / "recipe.toml")
    assert "\n" not in str(caught.value)
