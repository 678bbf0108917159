"""Fields of foreign rows, whatever form a data set gives them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["RowProblem", "command_of", "task_id_of", "ids_of", "text_of"]

_ARTEFACT = re.compile(r"\[(?:\s*\d+%?\].*)?")
_ID = re.compile(r"[^\s/\x00-\x1f]+")


class RowProblem(Exception):
    """Raised for a row that is no task: which field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


def text_of(values: Mapping[str, Any], field: str, *, is_required: bool = True) -> str:
    """A string; "" when it is absent and not required.

    Raises:
        RowProblem: it is absent, or not a string.
    """
    value = values.get(field)
    if value is None or value == "":
        if is_required:
            raise RowProblem(field, "is missing" if field not in values else "is empty")
        return ""
    if not isinstance(value, str):
        raise RowProblem(field, f"is a {type(value).__name__}, not a string")
    return value


def command_of(values: Mapping[str, Any], field: str) -> str:
    """A command, or a list of commands that are run in order; "" when it is absent."""
    value = values.get(field)
    if isinstance(value, list | tuple):
        return "\n".join(str(item) for item in value)
    return text_of(values, field, is_required=False)


def ids_of(values: Mapping[str, Any], field: str, *, is_required: bool = True) -> tuple[str, ...]:
    """Test ids: a list, or one written as JSON or as Python. Progress marks that were taken for tests are left out.

    Raises:
        RowProblem: absent, not such a list, or (required) without a test.
    """
    value = values.get(field)
    if value is None:
        if is_required:
            raise RowProblem(field, "is missing")
        return ()
    if isinstance(value, str):
        value = _list_in(field, value)
    if hasattr(value, "tolist"):
        value = value.tolist()  # Parquet readers give arrays
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise RowProblem(field, "is not a list of test ids")
    found = tuple(dict.fromkeys(item for item in value if item.strip() and not _ARTEFACT.fullmatch(item.strip())))
    if is_required and not found:
        raise RowProblem(field, "names no test: nothing could be shown by it")
    return found


def _list_in(field: str, text: str) -> object:
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise RowProblem(field, "is a string that is neither a JSON nor a Python list") from None


def task_id_of(text: str, field: str = "instance_id") -> str:
    """An id that can be a file's name: `/` becomes `__`.

    Raises:
        RowProblem: it holds blanks or control characters.
    """
    task_id = text.replace("/", "__")
    if not _ID.fullmatch(task_id) or task_id in (".", ".."):
        raise RowProblem(field, f"{text!r} is no id: blanks and control characters cannot be in it")
    return task_id
