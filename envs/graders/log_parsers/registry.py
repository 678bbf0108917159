"""Log parsers by name, and the names that data sets use for them."""

from __future__ import annotations

from swegym.core.errors import UnknownName
from swegym.envs.graders.log_parsers import other_languages as other
from swegym.envs.graders.log_parsers.base import LogParser, ParsedLog, clean_text
from swegym.envs.graders.log_parsers.pytest_log import parse_pytest, parse_r2e
from swegym.envs.graders.log_parsers.unittest_log import parse_django, parse_sympy

__all__ = ["PARSERS", "parse_log", "parser_name"]

PARSERS: dict[str, LogParser] = {
    "pytest": parse_pytest,
    "r2e": parse_r2e,
    "unittest": parse_django,
    "django": parse_django,
    "sympy": parse_sympy,
    "go": other.parse_go,
    "cargo": other.parse_cargo,
    "jest": other.parse_jest,
    "vitest": other.parse_jest,
    "mocha": other.parse_mocha,
    "tap": other.parse_tap,
    "gradle": other.parse_gradle,
    "maven": other.parse_maven,
    "ant": other.parse_ant,
}
"""Name -> reader of clean text."""

_OTHER_NAMES = {"gotest": "go", "gradle_custom": "gradle", "pytest_v2": "pytest", "pytest_options": "pytest"}
_OTHER_NAMES |= dict.fromkeys(("matplotlib", "seaborn", "sphinx", "astropy", "scikit", "flask", "xarray"), "pytest")
_OTHER_NAMES |= dict.fromkeys(("requests", "pylint", "pydicom", "astroid", "marshmallow", "pvlib", "pyvista"), "pytest")
_OTHER_NAMES |= {"sqlfluff": "pytest"}


def parser_name(name: str) -> str:
    """Ours for a data set's name such as `parse_log_pytest_v2`; "" when there is none."""
    short = name.removeprefix("parse_log_").removeprefix("parse_").lower()
    short = _OTHER_NAMES.get(short, short)
    return short if short in PARSERS else ""


def parse_log(name: str, data: bytes | str) -> ParsedLog:
    """Read what a test runner printed.

    Raises:
        UnknownName: there is no such parser.
    """
    if name not in PARSERS:
        raise UnknownName("log parser", name, list(PARSERS))
    return PARSERS[name](clean_text(data))
