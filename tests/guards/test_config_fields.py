"""A setting exists only if something reads it."""

from __future__ import annotations

import ast
from pathlib import Path

from pydantic import BaseModel

from swegym.train.config import RlConfig, SftConfig

ROOT = Path(__file__).parents[2]
ROOMS = ("swegym/core", "swegym/run", "swegym/cli", "envs", "agents", "rewards", "train")
MAX_FIELDS = 80


def leaves(section: type[BaseModel], prefix: str = "") -> dict[str, type[BaseModel]]:
    """Dotted key -> the section class that holds it."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= leaves(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = section
    return found


def attributes_read() -> set[str]:
    """Names that some code of ours reads as an attribute, outside `self.X` in the sections' own validators."""
    read = set()
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
                    if not (is_own and path.name == "config.py"):
                        read.add(node.attr)
    return read


def test_every_setting_is_read() -> None:
    read = attributes_read()
    unread = [key for config in (RlConfig, SftConfig) for key in leaves(config) if key.rpartition(".")[2] not in read]
    assert unread == []


def test_number_of_settings_stays_bounded() -> None:
    assert len(leaves(RlConfig)) <= MAX_FIELDS


def test_every_setting_is_explained() -> None:
    silent = [
        key
        for config in (RlConfig, SftConfig)
        for key, section in leaves(config).items()
        if not section.model_fields[key.rpartition(".")[2]].description
    ]
    assert silent == []
