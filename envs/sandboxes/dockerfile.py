"""What a Dockerfile builds on, read without an engine: its images decide the tag; missing ones are pulled first."""

from __future__ import annotations

import re
from collections.abc import Mapping

from swegym.core.errors import ConfigError

__all__ = ["base_images"]

_INSTRUCTION = re.compile(r"(FROM|ARG|COPY)\s+(.*)", re.IGNORECASE | re.DOTALL)
_FROM = re.compile(r"(?:--platform=\S+\s+)?(\S+)(?:\s+AS\s+(\S+))?\s*$", re.IGNORECASE | re.DOTALL)
_COPY_FROM = re.compile(r"--from=(\S+)")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::([-+])([^}]*))?\})")


def _instructions(text: str) -> list[tuple[str, str]]:
    """FROM, ARG and COPY with their arguments; comments dropped, continued lines joined."""
    escape = re.match(r"(?:#[^\n]*\n)*#\s*escape\s*=\s*`", text, re.IGNORECASE)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"`[ \t]*\n" if escape else r"\\[ \t]*\n", " ", "\n".join(lines) + "\n")
    found = (_INSTRUCTION.match(line.strip()) for line in joined.splitlines())
    return [(match.group(1).upper(), match.group(2).strip()) for match in found if match]


def _expand(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, sign, other = match.group(1) or match.group(2), match.group(3), match.group(4) or ""
        known = variables.get(name, "")
        return (known or other) if sign == "-" else (other if known else "") if sign == "+" else known

    return _VARIABLE.sub(value, text).strip("\"'")


def base_images(text: str, arguments: Mapping[str, str]) -> list[str]:
    """Names of the images that a Dockerfile takes from outside, in order, each once.

    Args:
        text: the Dockerfile.
        arguments: build arguments.

    Raises:
        ConfigError: there is no FROM, or one has no image.
    """
    variables: dict[str, str] = {}
    stages: set[str] = set()
    images: list[str] = []
    num_stages = 0
    for instruction, rest in _instructions(text):
        if instruction == "ARG" and not num_stages:  # only these may stand in FROM
            for name, _, default in (part.partition("=") for part in rest.split()):
                variables[name] = arguments.get(name, _expand(default, variables))
        elif instruction == "FROM":
            match = _FROM.match(rest)
            image = _expand(match.group(1), variables) if match else ""
            if not image:
                raise ConfigError(
                    f"the Dockerfile's line 'FROM {rest}' names no image; give its ARG a value with --arg"
                )
            if image.lower() not in stages and image != "scratch":
                images.append(image)
            num_stages += 1
            if match and match.group(2):
                stages.add(match.group(2).lower())
        elif instruction == "COPY" and (match := _COPY_FROM.search(rest)):
            image = match.group(1)
            if image.lower() not in stages and not image.isdigit():
                images.append(image)
    if not num_stages:
        raise ConfigError("the Dockerfile has no FROM line")
    return list(dict.fromkeys(images))
