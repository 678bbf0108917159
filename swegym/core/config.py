"""Configuration: defaults < TOML files, left to right < dotted overrides such as `--algo.group_size=4`.

Unknown keys are refused. A field exists only if something reads it.
"""

from __future__ import annotations

import json
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from swegym.core.errors import ConfigError

__all__ = ["Section", "known_keys", "load_config", "parse_override", "read_toml"]


class Section(BaseModel):
    """Base of every configuration section. The docstring under a field states its meaning and unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


S = TypeVar("S", bound=Section)


def read_toml(path: Path) -> dict[str, Any]:
    """Raises ConfigError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"no config file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read config file {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """`algo.group_size=4` -> ("algo.group_size", 4). Values are JSON where they parse as such, text otherwise."""
    key, equals, value = text.removeprefix("--").partition("=")
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not of the form --section.key=value")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        is_other_variant = (
            isinstance(value, dict) and isinstance(old, dict) and value.get("type") not in (None, old.get("type"))
        )
        merged[key] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) and not is_other_variant else value
        )
    return merged


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    nested: Any = value
    for part in reversed(dotted.split(".")):
        nested = {part: nested}
    return dict(nested)


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Every dotted key of a section and its subsections."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _explain(error: ValidationError, section: type[BaseModel], where: str) -> str:
    problems = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = get_close_matches(key, known_keys(section), n=1)
            problems.append(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        else:
            problems.append(
                f"{key or 'config'}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r:.80})"
            )
    return f"{where}: " + "; ".join(problems)


def load_config(section: type[S], files: list[Path] | None = None, overrides: list[str] | None = None) -> S:
    """Resolve a configuration.

    Raises:
        ConfigError: names the key, the file or flag that holds it, and what would be right.
    """
    layers = [(str(path), read_toml(path)) for path in files or []]
    for override in overrides or []:
        key, value = parse_override(override)
        layers.append((f"--{key}", _nested(key, value)))
    data: dict[str, Any] = {}
    config = section()
    for where, layer in layers:
        data = _merge(data, layer)
        try:
            config = section.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_explain(error, section, where)) from None
    return config
