"""Grading in real sandboxes: statuses, limits, caching, and failures that are nobody's patch's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError, SandboxLost, UnknownName
from swegym.core.outcome import TestStatus, Validity
from swegym.core.sandbox import SandboxProvider
from swegym.envs.graders import SweGrader
from swegym.envs.tasksets import FolderTaskSet
from swegym.envs.tasksets.diff import unified_diff

from .one_task import GOLD, IDS, SOUND, WRONG, CountingProvider, one_task


async def test_gold_resolves_and_nothing_does_not(tiny: FolderTaskSet, grader: SweGrader) -> None:
    for task in tiny:
        gold = await grader.grade(task, tiny.secret(task.task_id).patch)
        assert (gold.resolved, gold.reason, gold.similarity) == (True, "resolved", 1.0), gold
        assert set(gold.tests.values()) == {TestStatus.PASSED}
        empty = await grader.grade(task, "\n")
        assert (empty.resolved, empty.reason) == (False, "empty_patch")


async def test_empty_patch_starts_no_sandbox(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    counting = CountingProvider(provider)
    outcome = await SweGrader(counting, tiny).grade(tiny.get("tiny-lru"), "")
    assert outcome.reason == "empty_patch"
    assert counting.num_created == 0


async def test_patch_that_does_not_apply(tiny: FolderTaskSet, grader: SweGrader) -> None:
    outcome = await grader.grade(tiny.get("tiny-wrap"), tiny.secret("tiny-merge").patch.replace("merged", "gone"))
    assert (outcome.resolved, outcome.reason, outcome.validity) == (False, "patch_does_not_apply", Validity.VALID)
    assert "does not apply" in outcome.log_tail


async def test_wrong_patch_names_the_failing_tests(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = (
        "from m import double\n\ndef test_a():\n    assert double(0) == 0\n\ndef test_b():\n    assert double(1) == 2\n"
    )
    ids = ("tests/test_m.py::test_b",)
    taskset = one_task(tmp_path, tests, fail_to_pass=ids, PASS_TO_PASS=("tests/test_m.py::test_a",))
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), WRONG)
    assert outcome.tests == {ids[0]: TestStatus.FAILED, "tests/test_m.py::test_a": TestStatus.PASSED}
    assert outcome.reason == "tests_failed"
    assert "test_b" in outcome.log_tail


async def test_every_status(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = """
import pytest
from m import double

@pytest.fixture
def bad_setup():
    raise RuntimeError

@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError

def test_setup(bad_setup): pass
def test_teardown(bad_teardown): pass
def test_skip(): pytest.skip()
@pytest.mark.xfail
def test_xfail(): assert False
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(run=False)
def test_not_run(): pass
@pytest.mark.parametrize("text", ["a - PASSED b", "[x] y"])
def test_odd(text): assert double(1) == 2
"""
    expected = {
        "test_odd[a - PASSED b]": TestStatus.PASSED,
        "test_setup": TestStatus.ERROR,
        "test_teardown": TestStatus.ERROR,
        "test_skip": TestStatus.SKIPPED,
        "test_xfail": TestStatus.XFAIL,
        "test_xpass": TestStatus.XPASS,
        "test_not_run": TestStatus.XFAIL,
        "test_odd[[x] y]": TestStatus.PASSED,
        "test_gone": TestStatus.MISSING,
    }
    for number, (name, status) in enumerate(expected.items()):
        # One required test at a time: grading stops at the first that does not pass.
        taskset = one_task(tmp_path / str(number), tests, fail_to_pass=(f"tests/test_m.py::{name}",))
        outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), GOLD)
        assert outcome.tests == {f"tests/test_m.py::{name}": status}
        assert outcome.resolved == (status is TestStatus.PASSED), outcome


async def test_failing_subtest_fails_its_test(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = """
import unittest
from m import double

class TestM(unittest.TestCase):
    def test_all(self):
        for x in (0, 1):
            with self.subTest(x=x):
                self.assertEqual(double(x), 2 * x)
"""
    taskset = one_task(tmp_path, tests, fail_to_pass=("tests/test_m.py::TestM::test_all",))
    grader = SweGrader(provider, taskset)
    assert (await grader.grade(taskset.get("t"), GOLD)).resolved
    assert not (await grader.grade(taskset.get("t"), WRONG)).resolved


async def test_hidden_files_are_written_over_the_patch(provider: SandboxProvider, tmp_path: Path) -> None:
    hidden = {"tests/test_hidden.py": "from m import double\n\ndef test_h():\n    assert double(2) == 4\n"}
    ids = ("tests/test_hidden.py::test_h",)
    taskset = one_task(tmp_path, "", fail_to_pass=ids, hidden_files=hidden)
    grader = SweGrader(provider, taskset)
    path = "tests/test_hidden.py"
    header = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    decoy = f"{header}@@ -0,0 +1 @@\n+def test_h(): pass\n"
    assert (await grader.grade(taskset.get("t"), GOLD + decoy)).resolved
    assert not (await grader.grade(taskset.get("t"), decoy)).resolved


async def test_windows_line_ends_survive(provider: SandboxProvider, tmp_path: Path) -> None:
    crlf = SOUND.replace("\n", "\r\n")
    tests = """
import pathlib
from m import double

def test_a():
    assert double(1) == 2
    assert pathlib.Path("m.py").read_bytes().count(bytes([13, 10])) == 2
"""
    (tmp_path / "set").mkdir()
    taskset = one_task(tmp_path / "set", tests, fail_to_pass=("tests/test_m.py::test_a",), sound=crlf.encode())
    (tmp_path / "set/workspace/.gitattributes").write_text("* text=auto\n")
    gold = unified_diff("m.py", crlf.replace("2\r", "3\r"), crlf)
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), gold)
    assert outcome.resolved, outcome


async def test_waiting_tests_time_out(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = "import time\n\ndef test_a():\n    time.sleep(600)\n"
    taskset = one_task(tmp_path, tests, fail_to_pass=("tests/test_m.py::test_a",))
    task = taskset.get("t")
    task = task.model_copy(update={"limits": task.limits.model_copy(update={"test_timeout_s": 2.0})})
    outcome = await SweGrader(provider, taskset).grade(task, GOLD)
    assert (outcome.reason, outcome.validity) == ("tests_timed_out", Validity.VALID)
    assert outcome.tests == {"tests/test_m.py::test_a": TestStatus.TIMEOUT}


async def test_equal_requests_run_once(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    counting = CountingProvider(provider)
    grader = SweGrader(counting, tiny, jobs=4)
    task, patch = tiny.get("tiny-lru"), tiny.secret("tiny-lru").patch
    outcomes = await asyncio.gather(*(grader.grade(task, patch) for _ in range(5)))
    assert [outcome.resolved for outcome in outcomes] == [True] * 5
    assert sorted(outcome.cached for outcome in outcomes) == [False, True, True, True, True]
    assert counting.num_created == 1
    assert (await grader.grade(task, patch)).cached
    assert counting.num_created == 1


async def test_cancelled_waiter_does_not_cancel_the_others(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    counting = CountingProvider(provider)
    grader = SweGrader(counting, tiny)
    task, patch = tiny.get("tiny-lru"), tiny.secret("tiny-lru").patch
    first = asyncio.create_task(grader.grade(task, patch))
    second = asyncio.create_task(grader.grade(task, patch))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).resolved
    assert counting.num_created == 1


async def test_cache_file_survives_a_crash(provider: SandboxProvider, tiny: FolderTaskSet, tmp_path: Path) -> None:
    path = tmp_path / "grades.jsonl"
    task, patch = tiny.get("tiny-lru"), tiny.secret("tiny-lru").patch
    assert (await SweGrader(provider, tiny, cache_path=path).grade(task, patch)).resolved
    with path.open("ab") as stream:
        stream.write(b'{"key": "half a li')
    counting = CountingProvider(provider)
    again = SweGrader(counting, tiny, cache_path=path)
    assert (await again.grade(task, patch)).cached
    assert not (await again.grade(task, WRONG)).resolved  # appended behind the torn line
    assert counting.num_created == 1
    assert (await SweGrader(counting, tiny, cache_path=path).grade(task, WRONG)).cached


async def test_lost_sandbox_is_tried_again(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    counting = CountingProvider(provider, [SandboxLost("gone")])
    outcome = await SweGrader(counting, tiny).grade(tiny.get("tiny-lru"), tiny.secret("tiny-lru").patch)
    assert outcome.resolved
    assert counting.num_created == 2


async def test_broken_host_is_never_a_verdict(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    counting = CountingProvider(provider, [SandboxError("no space left"), SandboxLost("gone")])
    grader = SweGrader(counting, tiny)
    task, patch = tiny.get("tiny-lru"), tiny.secret("tiny-lru").patch
    outcome = await grader.grade(task, patch)
    assert (outcome.resolved, outcome.validity, outcome.log_tail) == (False, Validity.INFRASTRUCTURE, "no space left")
    assert (await grader.grade(task, patch)).resolved  # and it is not remembered


async def test_task_without_failing_tests_is_broken(provider: SandboxProvider, tmp_path: Path) -> None:
    taskset = one_task(tmp_path, "def test_a(): pass\n", fail_to_pass=())
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), GOLD)
    assert (outcome.resolved, outcome.validity) == (False, Validity.TASK)


async def test_unknown_task(tiny: FolderTaskSet, grader: SweGrader) -> None:
    with pytest.raises(UnknownName, match="tiny"):
        await grader.grade(tiny.get("tiny-lru").model_copy(update={"task_id": "tiny-lro"}), "x")


async def test_row_b14_c11_a_test_that_never_ran_is_no_pass(provider: SandboxProvider, tmp_path: Path) -> None:
    """Only one of the two hidden tests exists; a patch being there is nothing either."""
    tests = "from m import double\n\ndef test_a():\n    assert double(1) == 2\n"
    ids = ("tests/test_m.py::test_a", "tests/test_m.py::test_absent")
    taskset = one_task(tmp_path, tests, fail_to_pass=ids)
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), GOLD)
    assert (outcome.resolved, outcome.reason) == (False, "tests_missing")
    assert outcome.tests[ids[1]] is TestStatus.MISSING


async def test_row_c6_conftest_only_patch(provider: SandboxProvider, tmp_path: Path) -> None:
    hook = "import pytest\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_runtest_makereport():\n"
    hook += "    result = yield\n    result.get_result().outcome = 'passed'\n"
    body = "".join(f"+{line}\n" for line in hook.splitlines())
    header = "diff --git a/conftest.py b/conftest.py\nnew file mode 100644\n--- /dev/null\n+++ b/conftest.py\n"
    taskset = one_task(tmp_path, "from m import double\n\ndef test_a():\n    assert double(1) == 2\n", fail_to_pass=IDS)
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), f"{header}@@ -0,0 +1,6 @@\n{body}")
    assert (outcome.resolved, outcome.reason) == (False, "tests_failed")
    assert outcome.notices == ("protected path in patch: conftest.py",)
