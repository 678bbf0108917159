"""QuixBugs rows become tasks whose cases were seen to tell the wrong program from the fixed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swegym.core.sandbox import SandboxProvider
from swegym.envs import SweGrader
from swegym.envs.tasksets.formats.quixbugs import build_quixbugs
from swegym.envs.tasksets.formats.rows import RawRow

FLAT: dict[str, Any] = {
    "id": "flat",
    "buggy": "def flat(items):\n    for item in items:\n        yield items\n",
    "fixed": "def flat(items):\n    for item in items:\n        yield item\n",
    "cases": [[[[1, 2]], [1, 2]], [[[]], []]],
}
FOREVER: dict[str, Any] = {
    "id": "half",
    "buggy": "def half(x, e):\n    while x > 1:\n        pass\n    return x\n",
    "fixed": "def half(x, e):\n    return x / 3\n",
    "cases": [[[1, 0.5], 0.333], [[6, 0.01], 2.0]],
}
SAME: dict[str, Any] = {
    "id": "same",
    "buggy": "def same(x):\n    return x\n",
    "fixed": "def same(x):\n    return  x\n",
    "cases": [[[1], 1]],
}


async def test_programs_become_graded_tasks(tmp_path: Path, provider: SandboxProvider) -> None:
    rows = [RawRow(n, row) for n, row in enumerate((FLAT, FOREVER, SAME, {**FLAT, "cases": None}, FLAT), start=1)]
    taskset, bad = await build_quixbugs(rows, tmp_path / "set", provider)
    assert taskset.ids() == ["quixbugs-flat", "quixbugs-half"]
    assert sorted((row.number, row.field) for row in bad) == [(3, "cases"), (4, "cases"), (5, "id")]
    flat = taskset.secret("quixbugs-flat")
    assert (len(flat.FAIL_TO_PASS), len(flat.PASS_TO_PASS)) == (1, 1)
    assert len(taskset.secret("quixbugs-half").FAIL_TO_PASS) == 2
    grader = SweGrader(provider, taskset)
    for task in taskset:
        assert (await grader.grade(task, taskset.secret(task.task_id).patch)).resolved
    await grader.close()
