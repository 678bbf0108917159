"""pytest behind another program (`coverage run -m pytest`, `xvfb-run pytest`): results from its JUnit file.

The runner cannot take the place of `-m pytest` there, so there is no supervising parent and no watch over pytest's
functions; the file is written by the process under test. Copies of tests, sentinels and the exit code still hold.
JUnit knows no `xpass`: a test that passes against its `xfail` mark counts as passed.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath
from xml.etree import ElementTree

from swegym.core.outcome import TestStatus
from swegym.core.sandbox import ExecResult, Sandbox

__all__ = ["JunitResult", "is_python", "parse_junit", "run_junit", "wraps_pytest"]

_WORST_LAST = (TestStatus.PASSED, TestStatus.XFAIL, TestStatus.SKIPPED, TestStatus.FAILED, TestStatus.ERROR)
JunitResult = tuple[dict[str, TestStatus], dict[str, float]]
"""Test id -> status, and test id -> seconds; in the order they ran."""


def wraps_pytest(command: str) -> bool:
    """Whether a program other than Python starts pytest."""
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    names = [PurePosixPath(word).name for word in words]
    return any(name in ("pytest", "py.test") for name in names[1:]) and not is_python(words) and names[0] != "pytest"


def is_python(words: Sequence[str]) -> bool:
    """Whether these are an interpreter, its options, `-m pytest` and more."""
    if not words or not PurePosixPath(words[0]).name.startswith(("python", "pypy")) or "-m" not in words:
        return False
    place = words.index("-m")
    return list(words[place + 1 : place + 2]) == ["pytest"]


async def run_junit(
    sandbox: Sandbox, command: str, arguments: Sequence[str], *, workdir: str, log_path: str, timeout_s: float
) -> tuple[ExecResult, JunitResult | None]:
    """Run a command with these arguments to pytest added.

    Returns:
        How the command ended, and what its file says; None when it wrote none that can be read.
    """
    path = f"/tmp/swegym-{secrets.token_hex(8)}.xml"
    added = shlex.join([f"--junitxml={path}", "-o", "junit_family=xunit1", *arguments])
    script = f"( cd {shlex.quote(workdir)} && unset PYTEST_ADDOPTS && {command} {added} >{log_path} 2>&1 </dev/null )"
    result = await sandbox.run(script, timeout_s=timeout_s)
    try:
        return result, parse_junit(await sandbox.read_file(path))
    except (FileNotFoundError, ValueError):
        return result, None


def parse_junit(data: bytes) -> JunitResult:
    """Results of a JUnit file of pytest's `xunit1` family.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(f"not a JUnit file: {error}") from None
    statuses: dict[str, TestStatus] = {}
    durations_s: dict[str, float] = {}
    for case in root.iter("testcase"):
        test_id = _test_id(case)
        status = _status(case)
        before = statuses.get(test_id, TestStatus.PASSED)  # a failing teardown is a second entry of the same test
        statuses[test_id] = max(before, status, key=_WORST_LAST.index)
        durations_s[test_id] = durations_s.get(test_id, 0.0) + float(case.get("time") or 0.0)
    return statuses, durations_s


def _test_id(case: ElementTree.Element) -> str:
    file, name = case.get("file") or "", case.get("name") or ""
    module = file.removesuffix(".py").replace("/", ".")
    classes = (case.get("classname") or "").removeprefix(module).strip(".")
    return "::".join([file, *(classes.split(".") if classes else []), name])


def _status(case: ElementTree.Element) -> TestStatus:
    kinds = {child.tag: child.get("type") or "" for child in case}
    if "error" in kinds:
        return TestStatus.ERROR
    if "failure" in kinds:
        return TestStatus.FAILED
    if "skipped" in kinds:
        return TestStatus.XFAIL if "xfail" in kinds["skipped"] else TestStatus.SKIPPED
    return TestStatus.PASSED
