"""An env without a sandbox, for tests of the loops around it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from swegym.core.action import Observation, StepResult, ToolCall
from swegym.core.outcome import Outcome, TestStatus
from swegym.core.task import Provenance, SweTask, Task, TaskLimits

MakeTask = Callable[..., Task]


class EchoEnv:
    """Answers bash with its body. A body names a fault to have: see `act`. A task id names faults of the reset."""

    env_id = "test/Echo-v0"
    running = 0
    peak = 0
    made = 0
    closed = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.task: Task | None = None
        self.num_turns = 0
        self.is_closed = False
        self.patch: str | None = None

    async def start(self, task: Task, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        await asyncio.sleep(0)
        fault = FAULTS.get(task.task_id)
        if fault is not None:
            raise fault
        self._stop()
        self.task, self.num_turns, self.patch = task, 0, ""
        type(self).running += 1
        type(self).peak = max(type(self).peak, type(self).running)
        return Observation(text=task.statement, remaining_turns=task.limits.max_turns), {"sandbox": "none"}

    async def act(self, call: ToolCall | None, *, error: str = "") -> StepResult:
        assert self.task is not None
        self.num_turns += 1
        if call is not None and call.tool == "submit":
            self.patch = call.body
            return StepResult(Observation(text="Submitted."), 0.0, True, False, {"end_reason": "submitted"})
        body = error if call is None else call.body
        if body in FAULTS:
            raise FAULTS[body]
        if body == "sleep":
            await asyncio.sleep(3600)
        is_last = self.num_turns >= self.task.limits.max_turns
        info: dict[str, Any] = {"duration_s": 0.5, "end_reason": "turn_limit"} if is_last else {"duration_s": 0.25}
        return StepResult(Observation(text=body, exit_code=0), 0.0, False, is_last, info)

    async def submission(self) -> str | None:
        await asyncio.sleep(0)
        return self.patch

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        if not self.is_closed:
            self.is_closed = True
            type(self).closed += 1
        self._stop()

    def _stop(self) -> None:
        if self.task is not None:
            type(self).running -= 1
        self.task = None


FAULTS: dict[str, BaseException] = {}


class PatchGrader:
    """Resolved when the patch is "good"."""

    name = "patch"

    def __init__(self) -> None:
        self.num_running = 0
        self.peak = 0
        self.gate: asyncio.Event | None = None

    async def grade(self, task: Task, patch: str) -> Outcome:
        self.num_running += 1
        self.peak = max(self.peak, self.num_running)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        self.num_running -= 1
        if patch in FAULTS:
            raise FAULTS[patch]
        is_good = patch == "good"
        status = TestStatus.PASSED if is_good else TestStatus.FAILED
        reason = "resolved" if is_good else "tests_failed"
        return Outcome(task_id=task.task_id, resolved=is_good, reason=reason, tests={"t": status}, patch=patch)

    async def close(self) -> None:
        """Nothing."""


@pytest.fixture
def echo_env() -> type[EchoEnv]:
    """A fresh subclass, so that counts are those of one test."""
    FAULTS.clear()
    return type("EchoEnv", (EchoEnv,), {"running": 0, "peak": 0, "made": 0, "closed": 0})


@pytest.fixture
def faults(echo_env: type[EchoEnv]) -> dict[str, BaseException]:
    return FAULTS


@pytest.fixture
def grader() -> PatchGrader:
    return PatchGrader()


@pytest.fixture
def make_task() -> MakeTask:
    def make(task_id: str = "t-0", **limits: Any) -> Task:
        return Task(
            task_id=task_id,
            statement=f"statement of {task_id}",
            limits=TaskLimits(**limits),
            provenance=Provenance(source="test"),
            payload=SweTask(repo="r", image="i"),
        )

    return make
