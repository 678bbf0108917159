"""Building a task set from a source folder: validated, deterministic, resumable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError, SandboxError, TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.graders import SweGrader
from swegym.envs.graders.pytest_run import PytestReport
from swegym.envs.tasksets import FolderTaskSet
from swegym.envs.tasksets.baseline import Baseline, FileBaseline
from swegym.envs.tasksets.build import BuildReport, build_mutate_fix
from swegym.envs.tasksets.candidates import Candidate, choose_candidates, normalise_line
from swegym.envs.tasksets.mutations import Mutation
from swegym.envs.tasksets.verdicts import verdict_of

SOURCE = """def f(a, b):
    if a < b and b > 0:
        return a - b
    return a is None or b + 1


def g(a):
    return a + 1 if a else 0
"""


def baseline(*files: FileBaseline) -> Baseline:
    return Baseline(files=files, num_tests=1, num_unstable=0, suite_s=1.0)


def test_only_covered_lines_and_the_most_specific_tests_first() -> None:
    slow = FileBaseline(path="tests/a.py", duration_s=3.0, stable=("tests/a.py::x",), lines={"m.py": (3,)})
    wide = FileBaseline(path="tests/b.py", duration_s=0.2, stable=("tests/b.py::x",), lines={"m.py": (2, 3, 4)})
    narrow = FileBaseline(path="tests/c.py", duration_s=0.3, stable=("tests/c.py::x",), lines={"m.py": (2, 3)})
    chosen = choose_candidates({"m.py": SOURCE}, baseline(slow, wide, narrow), num_train=5, num_heldout=0, seed=0)
    by_line = {(c.mutation.line, c.mutation.column): [item.path for item in c.test_files] for c in chosen}
    assert {line for line, _ in by_line} == {2, 3, 4}
    assert by_line[3, 17] == ["tests/c.py", "tests/b.py", "tests/a.py"]
    assert by_line[2, 13] == ["tests/c.py", "tests/b.py"]
    assert chosen[-1].mutation.line == 3, "what needs slow tests is tried last"


def test_no_line_in_both_splits() -> None:
    functions = "".join(f"def f{n}(a, b):\n    x = a + {n % 40}\n    return a < b\n" for n in range(400))
    covering = FileBaseline(path="t.py", duration_s=0.1, stable=("t.py::x",), lines={"m.py": tuple(range(1, 1201))})
    chosen = choose_candidates({"m.py": functions}, baseline(covering), num_train=20, num_heldout=10, seed=3)
    lines: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for candidate in chosen:
        change = candidate.mutation
        lines[candidate.split] |= {normalise_line(change.before_line), normalise_line(change.after_line)}
    assert lines["train"]
    assert lines["heldout"]
    assert not lines["train"] & lines["heldout"]
    pairs = [(normalise_line(c.mutation.before_line), normalise_line(c.mutation.after_line)) for c in chosen]
    assert len(pairs) == len(set(pairs))
    again = choose_candidates({"m.py": functions}, baseline(covering), num_train=20, num_heldout=10, seed=3)
    other = choose_candidates({"m.py": functions}, baseline(covering), num_train=20, num_heldout=10, seed=4)
    assert again == chosen
    assert other != chosen


def candidate_of(*files: FileBaseline) -> Candidate:
    return Candidate(Mutation("m.py", 1, 2, "a < b", "a > b", "<", ">", "comparison"), "train", files)


def test_verdicts_by_hand() -> None:
    first = FileBaseline(path="a.py", duration_s=0.25, stable=("a.py::x", "a.py::y"))
    second = FileBaseline(path="b.py", duration_s=0.5, stable=("b.py::x",))
    third = FileBaseline(path="c.py", duration_s=4.0, stable=("c.py::x",))
    passed = dict.fromkeys(("a.py::x", "a.py::y", "b.py::x", "c.py::x"), TestStatus.PASSED)
    candidate = candidate_of(first, second, third)

    def verdict(exit_code: int, **statuses: TestStatus) -> PytestReport:
        changed = {name.replace("_py__", ".py::"): status for name, status in statuses.items()}
        return PytestReport(statuses=passed | changed, exit_code=exit_code, reported_exit_code=exit_code)

    assert verdict_of(candidate, verdict(0)).status == "survived"
    broken = verdict_of(candidate, verdict(1, b_py__x=TestStatus.ERROR))
    assert (broken.status, broken.fail_to_pass) == ("broken", ("b.py::x",))
    assert broken.pass_to_pass == ("a.py::x", "a.py::y")
    assert broken.test_files == ("a.py", "b.py")
    assert broken.baseline_s == 0.75
    gone = PytestReport(statuses={"b.py::x": TestStatus.PASSED}, exit_code=2, reported_exit_code=2)
    assert verdict_of(candidate, gone).fail_to_pass == ("a.py::x", "a.py::y")  # the file could not be imported
    assert verdict_of(candidate, PytestReport(exit_code=0)).status == "aborted"
    assert verdict_of(candidate, PytestReport(exit_code=124, killed_by="timeout")).status == "timed_out"


async def build(provider: SandboxProvider, source: str, out: Path, seed: int = 1) -> BuildReport:
    return await build_mutate_fix(source, out, num_train=6, num_heldout=3, seed=seed, jobs=2, provider=provider)


def rows(out: Path, name: str) -> list[str]:
    return (out / name).read_text().splitlines()


async def test_build_is_validated_deterministic_and_resumable(
    provider: SandboxProvider, tiny: FolderTaskSet, tmp_path: Path
) -> None:
    source = f"{tiny.folder()}/workspace"
    report = await build(provider, source, tmp_path / "one")
    taskset = FolderTaskSet(tmp_path / "one")
    assert (report.num_train, report.num_heldout) == (len(taskset.ids("train")), len(taskset.ids("heldout")))
    assert 3 <= len(taskset) <= 9
    assert report.num_stable_tests == 18
    assert "| broken |" in (tmp_path / "one/report.md").read_text()

    grader = SweGrader(provider, taskset)
    for task in list(taskset)[:3]:
        secret = taskset.secret(task.task_id)
        assert (await grader.grade(task, secret.patch)).resolved
        comment = f"+# {task.task_id}"
        idle = f"diff --git a/n.py b/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n{comment}\n"
        outcome = await grader.grade(task, idle)
        assert outcome.reason == "tests_failed"
        hints = task.payload.hints
        line = (tmp_path / "one/workspace" / hints["file"]).read_text().splitlines()[int(hints["line"]) - 1]
        assert hints["text"] != line.strip()
        assert hints["text"] in task.statement
        assert line.strip() not in task.model_dump_json()

    journal = (tmp_path / "one/build/journal.jsonl").read_bytes()
    (tmp_path / "one/manifest.json").unlink()
    (tmp_path / "one/build/journal.jsonl").write_bytes(journal[: len(journal) // 2])  # as if it had been killed
    await build(provider, source, tmp_path / "one")
    await build(provider, source, tmp_path / "two")
    assert rows(tmp_path / "one", "tasks.jsonl") == rows(tmp_path / "two", "tasks.jsonl")
    first, second = (
        [{**json.loads(row), "baseline_s": 0} for row in rows(tmp_path / name, "secrets.jsonl")]
        for name in ("one", "two")
    )
    assert first == second


async def test_folder_of_another_source_is_refused(
    provider: SandboxProvider, tiny: FolderTaskSet, tmp_path: Path
) -> None:
    (tmp_path / "src/tests").mkdir(parents=True)
    (tmp_path / "src/tests/test_m.py").write_text("def test_a(): pass\n")
    with pytest.raises(ConfigError, match="breaks a stable test"):
        await build(provider, str(tmp_path / "src"), tmp_path / "out")
    with pytest.raises(ConfigError, match="holds tasks of folder:src"):
        await build(provider, f"{tiny.folder()}/workspace", tmp_path / "out")


async def test_failure_of_a_sandbox_is_raised_as_it_is(tiny: FolderTaskSet, tmp_path: Path) -> None:
    class Full:
        name = "full"

        async def create(self, spec: SandboxSpec) -> Sandbox:
            raise SandboxError("no space left")

        async def close(self) -> None: ...

    with pytest.raises(SandboxError, match="no space left"):
        await build(Full(), f"{tiny.folder()}/workspace", tmp_path / "out")


async def test_tests_that_notice_nothing(provider: SandboxProvider, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "tests").mkdir(parents=True)
    (source / "m.py").write_text(SOURCE)
    (source / "tests/test_m.py").write_text("import m\n\ndef test_a():\n    m.f(1, 2)\n")
    with pytest.raises(ConfigError, match="breaks a stable test"):
        await build(provider, str(source), tmp_path / "out")
    (source / "tests/test_m.py").write_text("def test_a():\n    assert False\n")
    with pytest.raises(TaskError, match="no test of src passes"):
        await build(provider, str(source), tmp_path / "out2")
