"""recipe.toml: how a package is installed and tested. Written by a build, edited by people, read by the next build."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from pydantic import Field, ValidationError

from swegym.core.errors import ConfigError
from swegym.core.records import Record

__all__ = ["Recipe", "read_recipe", "write_recipe"]

COMMENTS = {
    "requirements": "installed with pip into dependencies/",
    "test_paths": "files and folders with tests, relative to the root",
    "pytest_arguments": "after `python -m pytest`; `-p NAME` loads a plugin, `--deselect ID` leaves a test out",
    "python_path": "folders of the source that go on PYTHONPATH, besides the root",
    "environment": "of the tests",
    "excluded": "folders and files that are not mutated",
    "found": "where each requirement was found; not read",
}


class Recipe(Record):
    """How a package is installed and tested."""

    requirements: tuple[str, ...] = ("pytest",)
    test_paths: tuple[str, ...] = Field(min_length=1)
    pytest_arguments: tuple[str, ...] = ("-o", "addopts=")
    python_path: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    found: dict[str, str] = Field(default_factory=dict)


def write_recipe(path: Path, recipe: Recipe, title: str) -> None:
    """Write the file with a comment for every field. TOML's basic strings are written as JSON's."""
    lines = [f"# How {title} is installed and tested. Edit it and build again: --recipe {path.name}"]
    tables = []
    for name, value in recipe.model_dump(mode="json").items():
        comment = f"# {COMMENTS[name]}"
        if isinstance(value, dict):
            tables += ["", f"[{name}]  {comment}"]
            tables += [f"{json.dumps(key)} = {json.dumps(item, ensure_ascii=False)}" for key, item in value.items()]
        else:
            items = "".join(f"    {json.dumps(item, ensure_ascii=False)},\n" for item in value)
            lines += [comment, f"{name} = [\n{items}]" if items else f"{name} = []"]
    try:
        path.write_text("\n".join([*lines, *tables]) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def read_recipe(path: Path) -> Recipe:
    """Raises ConfigError: absent, no TOML, or an unknown or missing key."""
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text("utf-8")))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise ConfigError(f"{path}: {where}: {problem['msg']}") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
