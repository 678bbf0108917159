"""What a report amounts to, from reports made by hand."""

from __future__ import annotations

import pytest

from swegym.core.outcome import TestStatus
from swegym.envs.graders.judge import Requirements, judge
from swegym.envs.graders.pytest_run import PytestReport
from swegym.envs.graders.twins import Twin

TEST = "tests/test_a.py::test_a"
TWIN = Twin("tests/test_a.py", "test_a", sound=("test_s", "test_t"), altered=("test_x",), site="3: 2")
FAILED, PASSED = TestStatus.FAILED, TestStatus.PASSED


@pytest.mark.parametrize(
    ("sound", "altered", "is_accused"),
    [
        pytest.param(FAILED, PASSED, False, id="a-wrong-value-may-be-the-altered-one"),
        pytest.param(PASSED, PASSED, True, id="both-cannot-be"),
        pytest.param(PASSED, FAILED, False, id="as-it-should-be"),
    ],
)
def test_a_copy_that_had_to_fail(sound: TestStatus, altered: TestStatus, is_accused: bool) -> None:
    statuses = {f"tests/test_a.py::{name}": sound for name in TWIN.sound} | {"tests/test_a.py::test_x": altered}
    order = {test_id: place for place, test_id in enumerate(statuses)}
    report = PytestReport(statuses=statuses, order=order, exit_code=1, reported_exit_code=1)
    verdict = judge(report, Requirements(tests=(TEST,), twins=(TWIN,)))
    assert verdict.tests == {TEST: sound}
    assert ("altered_test_passed tests/test_a.py::test_a line 3: 2" in verdict.notices) is is_accused
