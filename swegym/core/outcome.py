"""Outcome: what a grader saw. Facts only; rewards are computed from it and can be computed again."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pydantic import Field

from swegym.core.records import Record
from swegym.core.task import Task

__all__ = ["Grader", "Outcome", "TestStatus", "Validity"]


class TestStatus(StrEnum):
    """Status of one test id. `missing`: expected but never reported."""

    __test__ = False  # its name makes pytest take it for a test class
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAIL = "xfail"
    XPASS = "xpass"
    MISSING = "missing"
    TIMEOUT = "timeout"
    OOM = "oom"


class Validity(StrEnum):
    """Whether a result may teach anything. Everything but VALID is kept out of rewards, baselines and losses."""

    VALID = "valid"
    INFRASTRUCTURE = "infrastructure"
    """The sandbox, the engine or the host failed."""
    GRADER = "grader"
    """The grader could not decide."""
    TASK = "task"
    """The task itself is broken."""


class Outcome(Record):
    """One grading of one patch."""

    task_id: str
    resolved: bool
    validity: Validity = Validity.VALID
    reason: str = ""
    """resolved | empty_patch | patch_does_not_apply | tests_failed | tests_timed_out | no_tests_ran | tampered | ..."""
    patch: str = ""
    tests: dict[str, TestStatus] = Field(default_factory=dict)
    """Every hidden test id that decided the result."""
    similarity: float | None = None
    """Likeness to the gold patch, 0..1 (CWM paper 5.3.1); computed by the grader, which alone knows the gold."""
    notices: tuple[str, ...] = ()
    """Suspicious things that were seen, e.g. a restored test file."""
    patch_applied_by: str = ""
    """Which way of applying fitted: "git apply" is the exact one; "" when the patch was not applied."""
    log_tail: str = ""
    grader: str = ""
    """Name and version."""
    duration_s: float = 0.0
    cached: bool = False


class Grader(Protocol):
    """A stage of its own: (task, patch) -> Outcome. Never raises for what the patch does."""

    name: str

    async def grade(self, task: Task, patch: str) -> Outcome: ...

    async def close(self) -> None: ...
