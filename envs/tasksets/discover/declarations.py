"""Requirements and test commands that a package's files declare, each with the place where it stands.

Read: PKG-INFO, pyproject.toml (project, extras, dependency groups, tox, hatch, pdm, uv, poetry), setup.cfg, setup.py
(literals), tox.ini, requirements files, and the run steps of CI workflows. A file that cannot be read says nothing.
"""

from __future__ import annotations

import ast
import configparser
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

__all__ = ["Declaration", "declarations", "pytest_commands", "read_pyproject"]

TEST_GROUP = re.compile(r"(?i)^(unit[-_]?)?(tests?|testing|tests?[-_].*|.*[-_]tests?|pytest)$")
DEV_GROUP = re.compile(r"(?i)^(dev|develop|development|all|full|ci)$")
REQUIREMENT_FILES = (
    "requirements*test*.txt", "test*requirements*.txt", "requirements/*test*.txt", "tests/requirements*.txt",
    "requirements*dev*.txt", "dev*requirements*.txt", "requirements/*dev*.txt", "requirements.txt",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Declaration:
    """One requirement somewhere."""

    requirement: str
    where: str
    role: str
    """run (always needed) | test | dev | extra (any other group)"""


def role_of(group: str) -> str:
    """What a group of this name is for."""
    if TEST_GROUP.match(group):
        return "test"
    return "dev" if DEV_GROUP.match(group) else "extra"


def declarations(folder: Path) -> list[Declaration]:
    """Everything that the files declare, in the order in which they are to be believed."""
    found = [
        *_from_metadata(folder),
        *_from_pyproject(read_pyproject(folder)),
        *_from_setup_cfg(_read_ini(folder / "setup.cfg")),
        *_from_setup_py(folder / "setup.py"),
        *_from_tox(folder, _read_ini(folder / "tox.ini"), "tox.ini"),
        *_from_requirement_files(folder),
        *_from_workflows(folder),
    ]
    return [item for item in found if _is_requirement(item.requirement)]


def _is_requirement(text: str) -> bool:
    try:
        Requirement(text)
    except InvalidRequirement:
        return False
    return True


def _from_metadata(folder: Path) -> Iterator[Declaration]:
    path = folder / "PKG-INFO"
    if not path.is_file():
        return
    for line in HeaderParser().parsestr(path.read_text("utf-8", "replace")).get_all("Requires-Dist", []):
        match = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        if match is None:
            yield Declaration(line, "PKG-INFO", "run")
        else:
            name, _, marker = line.partition(";")
            rest = re.sub(r"\s*(and\s*)?extra\s*==\s*['\"][^'\"]+['\"]", "", marker).strip()
            text = f"{name.strip()}; {rest}" if rest else name.strip()
            yield Declaration(text, f"PKG-INFO, extra {match[1]}", role_of(match[1]))


def read_pyproject(folder: Path) -> dict[str, Any]:
    """{} when there is none or it is no TOML."""
    try:
        return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}


def _table(values: Any, *names: str) -> dict[str, Any]:
    for name in names:
        values = values.get(name, {}) if isinstance(values, Mapping) else {}
    return dict(values) if isinstance(values, Mapping) else {}


def _texts(values: Any) -> list[str]:
    return [item for item in values if isinstance(item, str)] if isinstance(values, list | tuple) else []


def _from_pyproject(values: dict[str, Any]) -> Iterator[Declaration]:
    name = "pyproject.toml"
    for text in _texts(_table(values, "project").get("dependencies")):
        yield Declaration(text, f"{name}, dependencies", "run")
    groups: list[tuple[str, str, Any]] = []
    groups += [
        (f"extra {key}", key, value) for key, value in _table(values, "project", "optional-dependencies").items()
    ]
    members = _table(values, "dependency-groups")
    groups += [(f"group {key}", key, _included(members, key)) for key in members]
    groups += [
        (f"tool.pdm {key}", key, value) for key, value in _table(values, "tool", "pdm", "dev-dependencies").items()
    ]
    groups.append(("tool.uv", "dev", _table(values, "tool", "uv").get("dev-dependencies")))
    for key, env in _table(values, "tool", "hatch", "envs").items():
        for field in ("dependencies", "extra-dependencies"):
            groups.append((f"tool.hatch.envs.{key}", "dev" if key == "default" else key, _table(env).get(field)))
    groups.append(("tool.tox", "test", _table(values, "tool", "tox", "env_run_base").get("deps")))
    for where, key, items in groups:
        for text in _texts(items):
            yield Declaration(text, f"{name}, {where}", role_of(key))
    yield from _from_poetry(_table(values, "tool", "poetry"))


def _included(groups: dict[str, Any], name: str, depth: int = 0) -> list[str]:
    """A dependency group with the groups that it includes."""
    found: list[str] = []
    for item in groups.get(name) or []:
        if isinstance(item, str):
            found.append(item)
        elif isinstance(item, Mapping) and depth < 8:
            found += _included(groups, str(item.get("include-group", "")), depth + 1)
    return found


def _from_poetry(poetry: dict[str, Any]) -> Iterator[Declaration]:
    groups = [("run", "dependencies", _table(poetry, "dependencies"))]
    groups += [("dev", "dev-dependencies", _table(poetry, "dev-dependencies"))]
    for key in _table(poetry, "group"):
        groups.append((role_of(key), f"group {key}", _table(poetry, "group", key, "dependencies")))
    for role, where, members in groups:
        for name, version in members.items():
            is_optional = isinstance(version, Mapping) and bool(version.get("optional"))
            if name != "python":
                # Poetry's own version syntax is not pip's: the newest one is taken.
                yield Declaration(name, f"pyproject.toml, poetry {where}", "extra" if is_optional else role)


def _read_ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    with suppress(OSError, configparser.Error, UnicodeDecodeError):  # absent, or its own tool could not read it either
        parser.read_string(path.read_text("utf-8"))
    return parser


def _lines(text: str) -> list[str]:
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _from_setup_cfg(parser: configparser.ConfigParser) -> Iterator[Declaration]:
    for key, role in (("install_requires", "run"), ("tests_require", "test")):
        for text in _lines(parser.get("options", key, fallback="")):
            yield Declaration(text, f"setup.cfg, {key}", role)
    if parser.has_section("options.extras_require"):
        for key, value in parser.items("options.extras_require"):
            for text in _lines(value):
                yield Declaration(text, f"setup.cfg, extra {key}", role_of(key))


def _from_setup_py(path: Path) -> Iterator[Declaration]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.keyword) or node.arg not in ("install_requires", "tests_require", "extras_require"):
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue  # computed when it runs, which is not done here
        groups = value.items() if isinstance(value, dict) else [(node.arg, value)]
        for key, items in groups:
            role = {"install_requires": "run", "tests_require": "test"}.get(str(key)) or role_of(str(key))
            for text in _texts([items] if isinstance(items, str) else list(items)):
                yield Declaration(text, f"setup.py, {key}", role)


def _from_tox(folder: Path, parser: configparser.ConfigParser, name: str) -> Iterator[Declaration]:
    for section in ("testenv", "testenv:tests", "testenv:test"):
        for line in _lines(parser.get(section, "deps", fallback="")):
            text = re.sub(r"^[\w,!{}-]+:\s+", "", line)  # `py311: requirement`
            if included := re.match(r"-r\s*(.+)", text):
                path = included[1].strip().replace("{toxinidir}/", "")
                yield from _from_requirement_file(folder / path, f"{name}, {path}", "test")
            else:
                yield Declaration(text, f"{name}, [{section}]", "test")


def _from_requirement_files(folder: Path) -> Iterator[Declaration]:
    for pattern in REQUIREMENT_FILES:
        role = "test" if "test" in pattern else "dev" if "dev" in pattern else "extra"
        for path in sorted(folder.glob(pattern)):
            yield from _from_requirement_file(path, path.relative_to(folder).as_posix(), role)


def _from_requirement_file(path: Path, where: str, role: str, depth: int = 0) -> Iterator[Declaration]:
    try:
        text = path.read_text("utf-8").replace("\\\n", " ")
    except (OSError, UnicodeDecodeError):
        return
    for line in _lines(text):
        if included := re.match(r"(?:-r|--requirement)[ =]*(.+)", line):
            if depth < 4:
                yield from _from_requirement_file(path.parent / included[1].strip(), where, role, depth + 1)
        elif not line.startswith("-"):
            yield Declaration(re.sub(r"\s+--hash.*", "", line), where, role)


def _run_steps(folder: Path) -> Iterator[tuple[str, str]]:
    """(workflow file, one line of a run step). YAML is read by its indentation: the package for it is not needed."""
    for path in sorted([*folder.glob(".github/workflows/*.yml"), *folder.glob(".github/workflows/*.yaml")]):
        lines = path.read_text("utf-8", "replace").splitlines()
        block: int | None = None
        for line in lines:
            indent = len(line) - len(line.lstrip())
            if block is not None and line.strip() and indent <= block:
                block = None
            if block is not None:
                yield path.name, line.strip()
            elif match := re.match(r"(\s*(?:- )?)run:\s*(.*)", line):
                block = len(match[1]) if match[2].strip() in ("|", ">", "|-", ">-") else None
                if block is None:
                    yield path.name, match[2].strip()


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return []


def _from_workflows(folder: Path) -> Iterator[Declaration]:
    for name, line in _run_steps(folder):
        words = _words(line)
        if "install" not in words or not any(word in ("pip", "pip3", "uv") for word in words[: words.index("install")]):
            continue
        rest = iter(words[words.index("install") + 1 :])
        for word in rest:
            if word in ("-r", "--requirement"):
                path = next(rest, "")
                yield from _from_requirement_file(folder / path, f"{name}, {path}", "test")
            elif not word.startswith((".", "-", "/")):
                yield Declaration(word, f"CI workflow {name}", "dev")


def pytest_commands(folder: Path) -> list[tuple[str, list[str]]]:
    """(where, arguments) of every call of pytest in tox.ini and the CI workflows."""
    sources: list[tuple[str, str]] = [
        ("tox.ini", line) for line in _lines(_read_ini(folder / "tox.ini").get("testenv", "commands", fallback=""))
    ]
    sources += _run_steps(folder)
    return [(where, arguments) for where, line in sources if (arguments := _pytest_arguments(_words(line))) is not None]


def _pytest_arguments(words: Iterable[str]) -> list[str] | None:
    """What follows `pytest` in a command, up to the next command; None: it is not called."""
    found: list[str] | None = None
    for word in words:
        if found is None:
            found = [] if word in ("pytest", "py.test") else None
        elif word in ("&&", ";", "||", "|"):
            break
        else:
            found.append(word)
    return found
