"""What is no verdict, what the gold patch excuses, and the other ways to apply and to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.core.outcome import TestStatus, Validity
from swegym.core.sandbox import SandboxProvider
from swegym.envs.graders import SweGrader
from swegym.envs.graders.protect import LENIENT
from swegym.envs.tasksets.diff import unified_diff

from .one_task import BROKEN, GOLD, IDS, SOUND, WRONG, CountingProvider, one_task, one_task_with_gold


async def test_row_g1_test_that_passes_by_chance_is_no_verdict(provider: SandboxProvider, tmp_path: Path) -> None:
    """It passed before the patch, fails now, and passes when it is run again: nobody's fault, nobody's reward."""
    tests = (
        "from m import double\n\ndef test_a():\n    assert double(1) == 2\n\ndef test_chance():\n    assert CHANCE\n"
    )
    taskset = one_task(tmp_path / "set", tests, fail_to_pass=IDS, PASS_TO_PASS=("tests/test_m.py::test_chance",))
    path = tmp_path / "set/workspace/tests/test_m.py"
    counting = CountingProvider(provider)
    counting.on_create = lambda number: path.write_text(tests.replace("CHANCE", str(number % 2 == 0)))
    grader = SweGrader(counting, taskset)
    outcome = await grader.grade(taskset.get("t"), GOLD)
    assert (outcome.resolved, outcome.validity, outcome.reason) == (False, Validity.GRADER, "flaky_tests")
    path.write_text(tests.replace("CHANCE", "True"))
    counting.on_create = None
    assert (await grader.grade(taskset.get("t"), GOLD)).resolved  # it was not remembered


async def test_tests_that_a_patch_breaks_every_time_count(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = (
        "import m\n\ndef test_a():\n    assert m.double(1) == 2\n\ndef test_b():\n    assert not hasattr(m, 'extra')\n"
    )
    taskset = one_task(tmp_path, tests, fail_to_pass=IDS, PASS_TO_PASS=("tests/test_m.py::test_b",))
    patch = unified_diff("m.py", BROKEN, SOUND + "extra = 1\n")
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), patch)
    assert (outcome.reason, outcome.validity) == ("tests_failed", Validity.VALID)
    assert outcome.tests["tests/test_m.py::test_b"] is TestStatus.FAILED


COUNTING = """
from m import double

calls = []

def test_a():
    calls.append(1)
    assert len(calls) == 1
    assert double(1) == 2
"""


async def test_copies_that_disturb_a_test_are_given_up(provider: SandboxProvider, tmp_path: Path) -> None:
    """The test can only run once in a process. The gold patch shows that, and the task is graded without copies."""
    taskset = one_task(tmp_path, COUNTING, fail_to_pass=IDS)
    grader = SweGrader(provider, taskset)
    assert (await grader.grade(taskset.get("t"), GOLD)).resolved
    counting = CountingProvider(provider)
    grader._provider = counting
    again = GOLD.replace("+    return x * 2", "+    return 2 * x")
    assert (await grader.grade(taskset.get("t"), again)).resolved
    assert counting.num_created == 1, "that copies disturb this task should be known by now"


async def test_what_the_gold_patch_does_too_is_no_tampering(provider: SandboxProvider, tmp_path: Path) -> None:
    """A repository that patches pytest for its own good reasons."""
    patching = "import _pytest.python as p\n\nold = p.Function.runtest\np.Function.runtest = lambda self: old(self)\n"
    tests = "from m import double\n\ndef test_a():\n    assert double(1) == 2\n"
    taskset = one_task(tmp_path, tests, fail_to_pass=IDS, sound=(SOUND + "\n" + patching).encode())
    gold = unified_diff("m.py", f"{BROKEN}\n{patching}", f"{SOUND}\n{patching}")
    taskset = one_task_with_gold(taskset, gold)
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), gold.replace("x * 2", "2 * x"))
    assert outcome.resolved, outcome
    assert "patched _pytest.python.Function.runtest" in outcome.notices


async def test_strategies(provider: SandboxProvider, tmp_path: Path) -> None:
    tests = "from m import double\n\ndef test_a():\n    assert double(1) == 2\n"
    taskset = one_task(tmp_path, tests, fail_to_pass=IDS)
    stale = GOLD.replace("@@ -1,2 +1,2 @@", "@@ -1,3 +1,5 @@")
    assert (await SweGrader(provider, taskset).grade(taskset.get("t"), stale)).reason == "patch_does_not_apply"
    outcome = await SweGrader(provider, taskset, strategies=LENIENT).grade(taskset.get("t"), stale)
    assert (outcome.resolved, outcome.patch_applied_by) == (True, "git apply --recount")
    with pytest.raises(ConfigError, match="git apply"):
        SweGrader(provider, taskset, strategies=("hope",))


async def test_wrapped_test_command(provider: SandboxProvider, tmp_path: Path) -> None:
    """Graded by its JUnit file, with copies and sentinels all the same."""
    tests = "from m import double\n\ndef test_a():\n    assert double(1) == 2\n"
    taskset = one_task(tmp_path, tests, fail_to_pass=IDS)
    task = taskset.get("t")
    task = task.model_copy(update={"payload": task.payload.model_copy(update={"test_command": "env X=1 pytest"})})
    grader = SweGrader(provider, taskset)
    assert (await grader.grade(task, GOLD)).resolved is False  # pytest is no program in this sandbox
    task = task.model_copy(
        update={"payload": task.payload.model_copy(update={"test_command": "env X=1 python -m pytest"})}
    )
    assert (await grader.grade(task, GOLD)).resolved
    assert (await grader.grade(task, WRONG)).reason == "tests_failed"
    yes = "class Yes(int):\n    def __eq__(self, other): return True\n\n\ndef double(x):\n    return Yes()\n"
    assert (await grader.grade(task, unified_diff("m.py", BROKEN, yes))).reason == "tampered"


async def test_hidden_tests_that_come_as_a_patch(provider: SandboxProvider, tmp_path: Path) -> None:
    """Applied over the submission, whose own version of the file is undone first."""
    before, after = "def test_a(): pass\n", "from m import double\n\ndef test_a():\n    assert double(1) == 2\n"
    taskset = one_task(tmp_path, before, fail_to_pass=IDS, test_patch=unified_diff("tests/test_m.py", before, after))
    grader = SweGrader(provider, taskset)
    own = unified_diff("tests/test_m.py", before, "def test_a(): assert True\n")
    assert (await grader.grade(taskset.get("t"), GOLD + own)).resolved
    assert (await grader.grade(taskset.get("t"), WRONG + own)).reason == "tests_failed"
    bad = one_task(tmp_path / "bad", after, fail_to_pass=IDS, test_patch=unified_diff("tests/test_m.py", before, after))
    outcome = await SweGrader(provider, bad).grade(bad.get("t"), GOLD)
    assert (outcome.validity, outcome.reason) == (Validity.TASK, "broken_task")
