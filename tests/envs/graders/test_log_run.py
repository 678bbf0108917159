"""Grading of foreign tasks by what their own test command prints, in real sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.outcome import TestStatus as Status
from swegym.core.outcome import Validity
from swegym.core.sandbox import ExecResult, SandboxProvider
from swegym.core.task import SweSecret
from swegym.envs import RepoTaskSet, SweGrader
from swegym.envs.graders.judge import Sentinels
from swegym.envs.graders.log_parsers import ParsedLog
from swegym.envs.graders.log_run import judge_log
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.from_repo import repo_task

WRONG = "def add(a, b):\n    return a - b\n"
RIGHT = "def add(a, b):\n    return a + b\n"
OLD_TEST = "from calc import add\n\n\ndef test_zero():\n    assert add(0, 0) == 0\n"
NEW_TEST = OLD_TEST + "\n\ndef test_sum():\n    assert add(2, 3) == 5\n"
GOLD = unified_diff("calc.py", WRONG, RIGHT)
CONFTEST = """diff --git a/tests/conftest.py b/tests/conftest.py
new file mode 100644
--- /dev/null
+++ b/tests/conftest.py
@@ -0,0 +1,7 @@
+import pytest
+
+
+@pytest.hookimpl(hookwrapper=True)
+def pytest_runtest_makereport(item, call):
+    outcome = yield
+    outcome.get_result().outcome = "passed"
"""
# pytest captures descriptor 1 and keeps the real one under another number.
FORGED = WRONG + (
    "import contextlib, os\n"
    'summary = b"\\n== short test summary info ==\\nPASSED tests/test_calc.py::test_zero\\n"\n'
    'summary += b"PASSED tests/test_calc.py::test_sum\\n== 2 passed in 0.01s ==\\n"\n'
    "for number in range(1, 20):\n"
    "    with contextlib.suppress(OSError):\n"
    "        os.write(number, summary)\n"
)


@pytest.fixture
def taskset(tmp_path: Path) -> RepoTaskSet:
    root = tmp_path / "calc"
    (root / "tests").mkdir(parents=True)
    (root / "calc.py").write_text(WRONG)
    (root / "tests" / "test_calc.py").write_text(OLD_TEST)
    (root / "conftest.py").write_text("")
    task, secret = repo_task(
        root,
        task_id="calc-1",
        statement="add subtracts",
        gold_patch=GOLD,
        fail_to_pass=["tests/test_calc.py::test_sum"],
        pass_to_pass=["tests/test_calc.py::test_zero"],
    )
    payload = task.payload.model_copy(update={"test_command": "python -m pytest -rA -p no:cacheprovider"})
    secret = secret.model_copy(
        update={
            "test_patch": unified_diff("tests/test_calc.py", OLD_TEST, NEW_TEST),
            "test_files": ("tests/test_calc.py",),
            "log_parser": "pytest",
        }
    )
    return RepoTaskSet("calc", tmp_path, [(task.model_copy(update={"payload": payload}), secret)])


@pytest.fixture
async def foreign(provider: SandboxProvider, taskset: RepoTaskSet) -> AsyncIterator[SweGrader]:
    grader = SweGrader(provider, taskset, jobs=2)
    yield grader
    await grader.close()


async def test_the_fix_is_resolved_with_the_test_patch_in_place(foreign: SweGrader, taskset: RepoTaskSet) -> None:
    outcome = await foreign.grade(taskset.get("calc-1"), GOLD)
    assert outcome.resolved, outcome
    assert outcome.tests["tests/test_calc.py::test_sum"] is Status.PASSED
    assert outcome.notices == ()


async def test_a_patch_that_spoils_the_tests_is_undone_first(foreign: SweGrader, taskset: RepoTaskSet) -> None:
    """A fix that also rewrites the test file, where the test patch then has to apply."""
    patch = GOLD + unified_diff("tests/test_calc.py", OLD_TEST, "def test_zero():\n    pass\n")
    assert (await foreign.grade(taskset.get("calc-1"), patch)).resolved


@pytest.mark.attack
@pytest.mark.parametrize(
    ("patch", "reason"),
    [
        (CONFTEST, "tests_failed"),
        (unified_diff("calc.py", WRONG, FORGED), "tests_failed"),
        (unified_diff("calc.py", WRONG, FORGED + "os._exit(0)\n"), "tampered"),
        (unified_diff("calc.py", WRONG, FORGED + "import atexit\natexit.register(os._exit, 0)\n"), "tests_failed"),
    ],
    ids=["conftest (C6)", "printed summary (C7)", "printed summary and exit", "exit code"],
)
async def test_attacks_on_the_log(foreign: SweGrader, taskset: RepoTaskSet, patch: str, reason: str) -> None:
    outcome = await foreign.grade(taskset.get("calc-1"), patch)
    assert (outcome.resolved, outcome.reason, outcome.validity) == (False, reason, Validity.VALID)


async def test_a_test_patch_that_does_not_fit_breaks_the_task_and_not_the_patch(
    provider: SandboxProvider, taskset: RepoTaskSet, tmp_path: Path
) -> None:
    task, secret = taskset.get("calc-1"), taskset.secret("calc-1")
    stale = secret.model_copy(update={"test_patch": unified_diff("tests/test_calc.py", "a\nb\n", "a\nc\n")})
    grader = SweGrader(provider, RepoTaskSet("calc", tmp_path, [(task, stale)]))
    outcome = await grader.grade(task, GOLD)
    await grader.close()
    assert (outcome.reason, outcome.validity) == ("broken_task", Validity.TASK)


async def test_a_script_of_the_row_takes_the_command_s_place(
    provider: SandboxProvider, taskset: RepoTaskSet, tmp_path: Path
) -> None:
    task, secret = taskset.get("calc-1"), taskset.secret("calc-1")
    command = "true\npython -m pytest -v -p no:cacheprovider tests/test_calc.py"
    scripted = secret.model_copy(update={"eval_command": command, "test_files": ()})
    grader = SweGrader(provider, RepoTaskSet("calc", tmp_path, [(task, scripted)]))
    good, bad = await grader.grade(task, GOLD), await grader.grade(task, unified_diff("calc.py", WRONG, "add = max\n"))
    await grader.close()
    assert good.resolved
    assert good.notices == ("no sentinels: the log is believed as it is",)
    assert bad.reason == "tests_failed"


SECRET = SweSecret(task_id="t", patch="", FAIL_TO_PASS=("a",), PASS_TO_PASS=("b",), log_parser="pytest")
DONE = ExecResult(output=b"", exit_code=1, duration_s=0.1)
P, F, X, S, E = Status.PASSED, Status.FAILED, Status.XFAIL, Status.SKIPPED, Status.ERROR


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ({"a": P, "b": P}, "resolved"),
        ({"a": P, "b": X}, "resolved"),
        ({"a": X, "b": P}, "tests_failed"),
        ({"a": P, "b": F}, "tests_failed"),
        ({"a": P, "b": E}, "tests_failed"),
        ({"a": P, "b": S}, "tests_failed"),
        ({"a": P, "b": Status.XPASS}, "tests_failed"),
        ({"a": P}, "tests_missing"),
        ({"b": P}, "tests_missing"),
        ({}, "no_tests_ran"),
    ],
)
def test_each_required_test_must_be_seen_to_pass(statuses: dict[str, Status], reason: str) -> None:
    """B14: a test that is absent from the log has not passed."""
    assert judge_log(DONE, ParsedLog(statuses, ended=True), SECRET, None).reason == reason


def test_what_contradicts_a_log_makes_it_tampering() -> None:
    good = {"a": P, "b": P}
    zero = ExecResult(output=b"", exit_code=0, duration_s=0.1)
    killed = ExecResult(output=b"", exit_code=124, duration_s=0.1, killed_by="timeout")
    assert judge_log(zero, ParsedLog(good, ended=True), SECRET, None).reason == "resolved"
    assert judge_log(zero, ParsedLog(good | {"c": F}, ended=True), SECRET, None).reason == "tampered"
    assert judge_log(DONE, ParsedLog(good, ended=True, problems=["counts"]), SECRET, None).reason == "tampered"
    assert judge_log(DONE, ParsedLog(good, ended=True), SECRET, Sentinels("")).reason == "tampered"
    assert judge_log(DONE, ParsedLog(good), SECRET, None).reason == "tests_aborted"
    assert judge_log(killed, ParsedLog({"a": P}), SECRET, None).tests == {"a": P, "b": Status.TIMEOUT}
