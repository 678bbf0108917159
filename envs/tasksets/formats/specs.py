"""How the tests of a foreign row are run and read: from the row, from what is commonly known, or from `swebench`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swegym.envs.graders.log_parsers.registry import PARSERS, parser_name
from swegym.envs.tasksets.formats.fields import RowProblem, command_of, text_of
from swegym.envs.tasksets.formats.patches import files_of_patch

__all__ = ["TestSpec", "spec_of_tests"]

PYTEST_COMMAND = "pytest -rA"
CONDA = "source /opt/miniconda3/bin/activate && conda activate testbed"
NOT_TESTS = (".json", ".png", ".csv", ".txt", ".md", ".jpg", ".jpeg", ".pkl", ".yml", ".yaml", ".toml")
_START, _END = ">>>>> Start Test Output", ">>>>> End Test Output"
_EXIT_CODE = re.compile(r"^\s*(?:SWEBENCH_TEST_EXIT_CODE=|: '?>>>>>|echo .*>>>>>).*$")
_OWN_RUNNERS = {
    "django/django": ("./tests/runtests.py --verbosity 2 --settings=test_sqlite --parallel 1", "django"),
    "sympy/sympy": ("bin/test -C --verbose", "sympy"),
    "sphinx-doc/sphinx": ("tox --current-env -epy39 -v --", "pytest"),
}
"""Repositories of SWE-bench whose tests pytest does not run by itself."""


@dataclass(frozen=True, slots=True)
class TestSpec:
    """What is run and how its output is read."""

    __test__ = False  # its name makes pytest take it for a test class
    log_parser: str
    test_command: str = PYTEST_COMMAND
    """Public: without names of hidden tests."""
    eval_command: str = ""
    """Secret: run instead, when the row brings a script of its own."""
    test_files: tuple[str, ...] = ()
    """Added to the test command."""


def spec_of_tests(values: Mapping[str, Any], *, is_python: bool = True) -> TestSpec:
    """What a row says about its tests.

    Raises:
        RowProblem: nothing says how to run them, or the log parser that it names is unknown.
    """
    test_patch = text_of(values, "test_patch", is_required=False)
    repo = text_of(values, "repo")
    named = _parser_of(values)
    if script := text_of(values, "eval_script", is_required=False):
        return TestSpec(named or "pytest", eval_command=_command_in(script))
    if command := command_of(values, "test_cmds") or command_of(values, "test_cmd"):
        return TestSpec(named or "pytest", eval_command=command)
    if repo in _OWN_RUNNERS:
        command, parser = _OWN_RUNNERS[repo]
        return TestSpec(named or parser, command, test_files=_directives(repo, test_patch))
    if is_python and not _is_foreign_language(test_patch):
        return TestSpec(named or "pytest", test_files=_directives(repo, test_patch))
    return _from_swebench(repo, text_of(values, "version", is_required=False), named)


def _parser_of(values: Mapping[str, Any]) -> str:
    name = text_of(values, "log_parser", is_required=False)
    if not name:
        return ""
    if "\n" in name:
        raise RowProblem("log_parser", "is code; swegym runs no code of a data set: name a parser")
    if not (known := parser_name(name)):
        raise RowProblem("log_parser", f"no parser for {name!r}; known: {', '.join(PARSERS)}")
    return known


def _command_in(script: str) -> str:
    """The test command of an evaluation script: what stands between its marks, or all of it."""
    lines = script.split("\n")
    marks = [place for place, line in enumerate(lines) if _START in line or _END in line]
    inner = lines[marks[0] + 1 : marks[-1]] if len(marks) >= 2 else lines
    return "\n".join(line for line in inner if not _EXIT_CODE.match(line)).strip()


def _directives(repo: str, test_patch: str) -> tuple[str, ...]:
    """What the runner is told to run: the files of the test patch."""
    files = [path for path in files_of_patch(test_patch) if not path.endswith(NOT_TESTS)] if test_patch else []
    if repo == "django/django":
        files = [path.removeprefix("tests/").removesuffix(".py").replace("/", ".") for path in files]
    return tuple(dict.fromkeys(files))


def _is_foreign_language(test_patch: str) -> bool:
    files = files_of_patch(test_patch) if test_patch else ()
    code = [path for path in files if not path.endswith(NOT_TESTS)]
    return bool(code) and not any(path.endswith((".py", ".rst")) for path in code)


def _from_swebench(repo: str, version: str, named: str) -> TestSpec:
    hint = "take rows with an eval_script, or pip install 'swegym[swebench]'"
    try:
        from swebench.harness.constants import MAP_REPO_VERSION_TO_SPECS
        from swebench.harness.log_parsers import MAP_REPO_TO_PARSER
    except ImportError:
        raise RowProblem("test_cmd", f"the row does not say how to test {repo}; {hint}") from None
    spec = MAP_REPO_VERSION_TO_SPECS.get(repo, {}).get(version)
    parser = named or _parser_of({"log_parser": getattr(MAP_REPO_TO_PARSER.get(repo), "__name__", "")})
    if not spec or not parser:
        raise RowProblem("version", f"swebench has no test command for {repo} {version}; {hint}")
    return TestSpec(parser, eval_command=command_of(spec, "test_cmd"))
