"""Rows of each public format -> public and secret half of a task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from swegym.core.errors import TaskError
from swegym.core.task import Provenance, SweSecret, SweTask, Task, TaskLimits
from swegym.envs.tasksets.formats.fields import RowProblem, ids_of, task_id_of, text_of
from swegym.envs.tasksets.formats.patches import edits_of_patch, files_of_patch, reverse_patch
from swegym.envs.tasksets.formats.specs import CONDA, TestSpec, spec_of_tests

__all__ = ["FORMATS", "Format", "detect_format"]

TEST_TIMEOUT_S = 1800.0
PROTECTED = ("conftest.py", "pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml")
SWESMITH_COMMAND = "pytest --disable-warnings --color=no --tb=no --verbose"
R2E_COMMAND = ".venv/bin/python -W ignore -m pytest -rA r2e_tests"
Row = Mapping[str, Any]
Halves = tuple[Task, SweSecret]


@dataclass(frozen=True, slots=True)
class Format:
    """One public format."""

    name: str
    keys: frozenset[str]
    """All of them are in a row of this format."""
    convert: Callable[[Row], Halves] | None
    """None: its rows must be built first (`swegym tasks import`)."""
    any_of: frozenset[str] = frozenset()
    """At least one of them is too."""

    def fits(self, values: Row) -> bool:
        """Whether a row looks like one of these."""
        return self.keys <= values.keys() and (not self.any_of or not self.any_of.isdisjoint(values))


def detect_format(values: Row) -> str:
    """Name of the first format whose keys a row has; "" when there is none."""
    return next((item.name for item in FORMATS.values() if item.fits(values)), "")


def _image(values: Row, default: str) -> str:
    for field in ("image", "docker_image", "image_name"):
        if name := text_of(values, field, is_required=False):
            return _tagged(name)
    return _tagged(default)


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] or "@" in name else f"{name}:latest"


def _halves(
    values: Row, source: str, *, task_id: str, payload: SweTask, secret: Mapping[str, Any], labels: Mapping[str, str]
) -> Halves:
    task = Task(
        task_id=task_id,
        statement=text_of(values, "problem_statement"),
        limits=TaskLimits(test_timeout_s=TEST_TIMEOUT_S),
        provenance=Provenance(
            source=source,
            license=text_of(values, "license", is_required=False) or "unknown",
            created_at=str(values.get("created_at") or ""),
        ),
        payload=payload,
        labels={key: value for key, value in labels.items() if value},
    )
    return task, SweSecret(task_id=task_id, **secret)


def _from_swebench(values: Row, *, source: str, account: str, separator: str) -> Halves:
    instance_id = text_of(values, "instance_id")
    task_id = task_id_of(instance_id)
    repo = text_of(values, "repo")
    test_patch = text_of(values, "test_patch", is_required=False)
    spec = spec_of_tests(values)
    gold = text_of(values, "patch")
    _check_diff("patch", gold)
    payload = SweTask(
        repo=repo,
        base_commit=text_of(values, "base_commit"),
        version=str(values.get("version") or ""),
        image=_image(values, f"{account}/sweb.eval.x86_64.{task_id.lower().replace('__', separator)}"),
        setup_commands=(CONDA,),
        environment=_environment(repo),
        test_command=spec.test_command,
        protected_paths=PROTECTED,
    )
    labels = {"repo": repo, "format": source, "instance_id": instance_id if instance_id != task_id else ""}
    labels["difficulty"] = str(values.get("difficulty") or "") if isinstance(values.get("difficulty"), str) else ""
    secret = _secret(values, spec, gold, test_patch)
    return _halves(values, source, task_id=task_id, payload=payload, secret=secret, labels=labels)


def _secret(values: Row, spec: TestSpec, gold: str, test_patch: str) -> dict[str, Any]:
    return {
        "patch": gold,
        "test_patch": test_patch,
        "FAIL_TO_PASS": ids_of(values, "FAIL_TO_PASS"),
        "PASS_TO_PASS": ids_of(values, "PASS_TO_PASS", is_required=False),
        "test_files": spec.test_files,
        "log_parser": spec.log_parser,
        "eval_command": spec.eval_command,
    }


def _environment(repo: str) -> dict[str, str]:
    if repo != "django/django":
        return {}
    return {"LANG": "en_US.UTF-8", "LC_ALL": "en_US.UTF-8", "PYTHONIOENCODING": "utf8"}


def _check_diff(field: str, patch: str) -> None:
    try:
        files = files_of_patch(patch)
    except TaskError as error:
        raise RowProblem(field, str(error)) from None
    if not files and "diff --git " not in patch and "\n+++ " not in patch:
        raise RowProblem(field, "is no unified diff")


def _swebench(values: Row) -> Halves:
    return _from_swebench(values, source="swe-bench", account="swebench", separator="_1776_")


def _swegym(values: Row) -> Halves:
    return _from_swebench(values, source="swe-gym", account="xingyaoww", separator="_s_")


def _live(values: Row) -> Halves:
    return _from_swebench(values, source="swe-bench-live", account="starryzhang", separator="_1776_")


def _swesmith(values: Row) -> Halves:
    """The row's patch is the bug: it becomes start edits, and read backwards it is the cure."""
    task_id = task_id_of(text_of(values, "instance_id"))
    bug = text_of(values, "patch")
    image = text_of(values, "image_name")
    fail_to_pass = ids_of(values, "FAIL_TO_PASS")
    pass_to_pass = ids_of(values, "PASS_TO_PASS", is_required=False)
    try:
        edits, gold = edits_of_patch(bug), reverse_patch(bug)
    except TaskError as error:
        raise RowProblem("patch", str(error)) from None
    test_files = tuple(dict.fromkeys(test.split("::")[0] for test in (*fail_to_pass, *pass_to_pass)))
    repo = text_of(values, "repo")
    payload = SweTask(
        repo=repo,
        image=_tagged(image if "/" in image else f"jyangballin/{image.replace('__', '_1776_')}"),
        start_edits=edits,
        setup_commands=(CONDA,),
        test_command=SWESMITH_COMMAND,
        protected_paths=(*PROTECTED, *test_files),
    )
    secret = {"patch": gold, "FAIL_TO_PASS": fail_to_pass, "PASS_TO_PASS": pass_to_pass, "test_files": test_files}
    labels = {"repo": repo, "format": "swe-smith"}
    return _halves(
        values, "swe-smith", task_id=task_id, payload=payload, secret=secret | {"log_parser": "pytest"}, labels=labels
    )


def _r2e(values: Row) -> Halves:
    image, commit = text_of(values, "docker_image"), text_of(values, "commit_hash")
    repo = text_of(values, "repo_name")
    expected = _json_of(values, "expected_output_json")
    if not isinstance(expected, dict):
        raise RowProblem("expected_output_json", "is not an object of test -> status")
    required = tuple(name.split(" - ")[0] for name, status in expected.items() if name and status == "PASSED")
    if not required:
        raise RowProblem("expected_output_json", "has no test that passes")
    results = _json_of(values, "execution_result_content") if values.get("execution_result_content") else {}
    if not isinstance(results, dict):
        raise RowProblem("execution_result_content", "is not an object")
    names, codes = results.get("test_file_names") or [], results.get("test_file_codes") or []
    hidden = {f"r2e_tests/{name}": code for name, code in zip(names, codes, strict=False)}
    payload = SweTask(
        repo=repo,
        image=_tagged(image),
        setup_commands=("export PATH=/testbed/.venv/bin:$PATH", "rm -rf r2e_tests"),
        test_command=R2E_COMMAND,
        protected_paths=(*PROTECTED, "r2e_tests"),
    )
    secret = {"patch": _r2e_gold(values), "hidden_files": hidden, "FAIL_TO_PASS": required, "log_parser": "r2e"}
    labels = {"repo": repo, "format": "r2e-gym"}
    return _halves(
        values,
        f"r2e-gym {repo}@{commit}",
        task_id=task_id_of(f"{repo}-{commit[:12]}", "commit_hash"),
        payload=payload,
        secret=secret,
        labels=labels,
    )


def _json_of(values: Row, field: str) -> object:
    value = values.get(field)
    if not isinstance(value, str):
        if value is None:
            raise RowProblem(field, "is missing")
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise RowProblem(field, f"is not JSON: {error}") from None


def _r2e_gold(values: Row) -> str:
    """The commit's diff where the row has it as text; its parsed form is not turned back into one."""
    patch = values.get("patch") or values.get("gold_patch") or ""
    return patch if isinstance(patch, str) else ""


_TASK_KEYS = frozenset({"instance_id", "repo", "patch", "problem_statement", "FAIL_TO_PASS"})
FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format("mirror", frozenset({"task_id", "package", "sdist_sha256", "fix_patch"}), None),
        Format("quixbugs", frozenset({"id", "buggy", "fixed"}), None),
        Format("r2e", frozenset({"docker_image", "commit_hash"}), _r2e, frozenset({"expected_output_json"})),
        Format(
            "swebench-live",
            _TASK_KEYS | {"base_commit"},
            _live,
            frozenset({"test_cmds", "pull_number", "commit_urls", "rebuild_cmds"}),
        ),
        Format(
            "swebench",
            _TASK_KEYS | {"base_commit"},
            _swebench,
            frozenset({"environment_setup_commit", "eval_script", "image"}),
        ),
        Format("swesmith", _TASK_KEYS | {"image_name"}, _swesmith),
        Format("swegym", _TASK_KEYS | {"base_commit", "test_patch"}, _swegym),
    )
}
"""Name -> format, in the order in which a row is held against them."""
