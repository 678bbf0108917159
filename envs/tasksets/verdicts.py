"""What a run of the tests says about a candidate. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from swegym.core.outcome import TestStatus
from swegym.core.task import LineEdit
from swegym.envs.graders.pytest_run import PytestReport
from swegym.envs.tasksets.baseline import FileBaseline
from swegym.envs.tasksets.journal import JournalRecord

__all__ = ["Judged", "Rules", "Verdict", "agreed", "limited", "verdict_of"]


class Verdict(JournalRecord):
    """What became of one candidate."""

    status: str
    """broken (a task) | survived | timed_out | out_of_memory | aborted | flaky | part_survived | too_few_fail |
    too_many_fail"""
    test_files: tuple[str, ...] = ()
    """Files up to the first one with a failing test."""
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()
    baseline_s: float = 0.0
    """Wall time of these files on the sound tree."""


class Judged(Protocol):
    """What a candidate of any kind says of itself."""

    @property
    def key(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def test_files(self) -> tuple[FileBaseline, ...]: ...
    @property
    def edits(self) -> tuple[LineEdit, ...]: ...
    @property
    def parts(self) -> tuple[tuple[LineEdit, ...], ...]:
        """The edits of each bug when there are several; each has to break a test on its own."""
        ...

    @property
    def baseline_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What a candidate needs to become a task."""

    confirm: bool = False
    """Run what is broken once more with another hash seed; only tests that come out the same both times count."""
    min_broken: int = 1
    max_broken: int | None = None

    def needs_all(self, candidate: Judged) -> bool:
        """Whether the failing tests of all files count: to number them, or to see every one of several bugs."""
        return bool(candidate.parts) or self.min_broken > 1 or self.max_broken is not None


def agreed(first: Verdict, second: Verdict) -> Verdict:
    """What two runs of the same tree agree on; flaky when no test fails in both."""
    if second.status != "broken":
        return second.model_copy(update={"status": "flaky" if second.status == "survived" else second.status})
    failed = tuple(test for test in first.fail_to_pass if test in second.fail_to_pass)
    passed = tuple(test for test in first.pass_to_pass if test in second.pass_to_pass)
    if not failed:
        return Verdict(key=first.key, status="flaky")
    return first.model_copy(update={"fail_to_pass": failed, "pass_to_pass": passed})


def limited(verdict: Verdict, rules: Rules) -> Verdict:
    """Too many or too few tests fail for the difficulty that is asked for."""
    if verdict.status != "broken":
        return verdict
    number = len(verdict.fail_to_pass)
    if number < rules.min_broken:
        return Verdict(key=verdict.key, status="too_few_fail")
    if rules.max_broken is not None and number > rules.max_broken:
        return Verdict(key=verdict.key, status="too_many_fail")
    return verdict


def verdict_of(candidate: Judged, report: PytestReport, *, whole: bool = False) -> Verdict:
    """Read a run: broken when a stable test of some file did not pass and pytest came to its own end.

    Args:
        candidate: what was tried.
        report: what its test files did.
        whole: count the failing tests of all files, not only those of the first that has one.
    """
    if report.killed_by is not None:
        return Verdict(key=candidate.key, status={"oom": "out_of_memory"}.get(report.killed_by, "timed_out"))
    if not report.ended:
        return Verdict(key=candidate.key, status="aborted")
    failed: dict[str, list[str]] = {}
    for item in candidate.test_files:
        if names := [test for test in item.stable if report.statuses.get(test) is not TestStatus.PASSED]:
            failed[item.path] = names
    if not failed:
        return Verdict(key=candidate.key, status="survived")
    paths = [item.path for item in candidate.test_files]
    run_files = candidate.test_files if whole else candidate.test_files[: paths.index(next(iter(failed))) + 1]
    fail_to_pass = [test for file in run_files for test in failed.get(file.path, ())]
    gone = set(fail_to_pass)
    return Verdict(
        key=candidate.key,
        status="broken",
        test_files=tuple(file.path for file in run_files),
        fail_to_pass=tuple(fail_to_pass),
        pass_to_pass=tuple(test for file in run_files for test in file.stable if test not in gone),
        baseline_s=sum(file.duration_s for file in run_files),
    )
