"""From a report to a verdict. Pure: no sandbox, no clock."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from swegym.core.outcome import TestStatus
from swegym.envs.graders.pytest_run import PytestReport
from swegym.envs.graders.twins import Twin, function_of

__all__ = ["Sentinels", "Verdict", "Requirements", "judge"]

TESTS_FAILED_EXIT = 1
"""pytest's exit code of every honest run here, because the must-fail sentinels fail."""
HAS_FAILED = (TestStatus.FAILED, TestStatus.ERROR)
_ABSENT = {"timeout": TestStatus.TIMEOUT, "oom": TestStatus.OOM}


class Sentinels:
    """A hidden test file with random names: some tests must pass, some must fail, and some would tell of a patched
    `assert`, `==`, `raise` or unittest.
    """

    _TEXT = """import unittest


class {box}:
    pass


def {passes}():
    assert {box}() != {box}()


def {raises}():
    raise AssertionError


def {asserts}():
    assert [{box}()] == [{box}()]


class {group}(unittest.TestCase):
    def {holds}(self):
        self.assertNotEqual({box}(), {box}())

    def {compares}(self):
        self.assertEqual({box}(), {box}())
"""

    def __init__(self, folder: str) -> None:
        """Args: folder: where the file will lie, "" or ending in "/"."""
        names = {key: f"test_{secrets.token_hex(4)}" for key in ("passes", "raises", "asserts", "holds", "compares")}
        names |= {"box": f"Box{secrets.token_hex(4)}", "group": f"Test{secrets.token_hex(4)}"}
        self.path = f"{folder}test_{secrets.token_hex(6)}.py"
        self.text = self._TEXT.format(**names)
        plain, method = f"{self.path}::", f"{self.path}::{names['group']}::"
        self.must_pass = (plain + names["passes"], method + names["holds"])
        self.must_fail = (plain + names["raises"], plain + names["asserts"], method + names["compares"])

    def hold(self, statuses: Mapping[str, TestStatus]) -> bool:
        """Whether all came out right."""
        passed = all(statuses.get(test_id) is TestStatus.PASSED for test_id in self.must_pass)
        return passed and all(statuses.get(test_id) is TestStatus.FAILED for test_id in self.must_fail)


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run must show."""

    tests: tuple[str, ...]
    """Ids of the hidden tests, as the task names them."""
    twins: tuple[Twin, ...] = ()
    sentinels: Sentinels = field(default_factory=lambda: Sentinels(""))

    def ids_of(self, test_id: str) -> tuple[str, ...]:
        """Ids that stand for a hidden test in the run: itself, or the sound copies of a twin."""
        twin = self._twin_of(test_id)
        return (test_id,) if twin is None else twin.ids(twin.sound, test_id)

    def altered_ids_of(self, test_id: str) -> tuple[str, ...]:
        """Ids of the copies that must fail."""
        twin = self._twin_of(test_id)
        return () if twin is None else twin.ids(twin.altered, test_id)

    def _twin_of(self, test_id: str) -> Twin | None:
        place = function_of(test_id)
        return next((twin for twin in self.twins if (twin.path, twin.function) == place), None)

    def original_names(self, text: str) -> str:
        """Names of copies put back to the name of their test: they differ from grade to grade."""
        for twin in self.twins:
            for name in (*twin.sound, *twin.altered):
                text = re.sub(rf"\b{re.escape(name)}\b", twin.function, text)
        return text

    def stop_ids(self) -> tuple[str, ...]:
        """Tests that end the run when they do not pass."""
        return tuple(copy for test_id in self.tests for copy in self.ids_of(test_id))

    def statuses(self, report: PytestReport) -> dict[str, TestStatus]:
        """Status of every hidden test, of the worst copy; those that did not run are named by the reason why."""
        absent = _ABSENT.get(report.killed_by or "", TestStatus.MISSING)
        statuses: dict[str, TestStatus] = {}
        for test_id in self.tests:
            seen = [report.statuses.get(copy, absent) for copy in self.ids_of(test_id)]
            ran = [status for status in seen if status is not absent]
            wrong = [status for status in ran if status is not TestStatus.PASSED]
            statuses[test_id] = wrong[0] if wrong else absent if absent in seen else TestStatus.PASSED
        return statuses


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a report amounts to."""

    reason: str
    """As `Outcome.reason`; "resolved" with `accusations` is not resolved yet."""
    tests: dict[str, TestStatus]
    notices: tuple[str, ...] = ()
    accusations: tuple[str, ...] = ()
    """What makes it tampering, unless the gold patch shows it too."""
    is_ambiguous: bool = False
    """A hidden test failed after copies of it had run: they may have disturbed it."""


def judge(report: PytestReport, required: Requirements) -> Verdict:
    """Resolved only if nothing at all speaks against it."""
    statuses = required.statuses(report)
    deviations = dict.fromkeys(required.original_names(deviation) for deviation in report.deviations)
    accusations = (*deviations, *_forged_twins(report, required))
    notices = (*report.suspicions, *accusations)
    wrong = [test_id for test_id, status in statuses.items() if _is_wrong(report, required, test_id, status)]

    def verdict(reason: str, *more: str, is_ambiguous: bool = False) -> Verdict:
        kept = accusations if reason == "resolved" else ()
        return Verdict(reason, statuses, (*notices, *more), kept, is_ambiguous)

    if report.killed_by == "timeout":
        return verdict("tests_timed_out")
    if report.killed_by == "oom":
        return verdict("tests_out_of_memory")
    if report.suspicions:
        return verdict("tampered")
    if wrong:
        return verdict("tests_failed", is_ambiguous=_came_after_copies(report, required, wrong))
    if not report.order or (not report.statuses and set(required.stop_ids()) <= report.order.keys()):
        return verdict("no_tests_ran")
    if not all(copy in report.order for copy in required.stop_ids()):
        return verdict("tests_missing")
    if not report.ended:
        return verdict("tests_aborted", "pytest did not come to its end")
    if not all(copy in report.statuses for copy in required.stop_ids()):
        return verdict("tests_missing")
    if report.exit_code != TESTS_FAILED_EXIT or not required.sentinels.hold(report.statuses):
        return verdict("tampered", "sentinel tests came out wrong")
    return verdict("resolved")


def _is_wrong(report: PytestReport, required: Requirements, test_id: str, status: TestStatus) -> bool:
    """A hidden test that ran and did not pass."""
    return status is not TestStatus.PASSED and any(
        report.statuses.get(copy, TestStatus.PASSED) is not TestStatus.PASSED for copy in required.ids_of(test_id)
    )


def _forged_twins(report: PytestReport, required: Requirements) -> Sequence[str]:
    """Copies that had to fail and did not, though the test itself passed.

    Where that fails, a wrong value may happen to be the one that a copy expects.
    """
    found: dict[str, None] = {}
    for test_id in required.tests:
        if any(report.statuses.get(copy) in HAS_FAILED for copy in required.ids_of(test_id)):
            continue
        for copy in required.altered_ids_of(test_id):
            status = report.statuses.get(copy)
            if status not in HAS_FAILED and (report.ended or status is not None):
                twin = next(twin for twin in required.twins if (twin.path, twin.function) == function_of(test_id))
                found[f"altered_test_passed {twin.path}::{twin.function} line {twin.site}"] = None
    return tuple(found)


def _came_after_copies(report: PytestReport, required: Requirements, wrong: Sequence[str]) -> bool:
    copies = [copy for twin in required.twins for copy in report.statuses if _is_copy_of(copy, twin)]
    first_failure = min(
        report.order[copy]
        for test_id in wrong
        for copy in required.ids_of(test_id)
        if report.statuses.get(copy, TestStatus.PASSED) is not TestStatus.PASSED
    )
    return any(report.order[copy] < first_failure for copy in copies)


def _is_copy_of(test_id: str, twin: Twin) -> bool:
    path, function = function_of(test_id)
    return path == twin.path and function in (*twin.sound, *twin.altered)
