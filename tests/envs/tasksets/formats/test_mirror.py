"""Real commits taken back on sdists: rows read, fixes reversed, tests measured in real sandboxes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swegym.core.errors import ConfigError, TaskError
from swegym.core.sandbox import SandboxProvider
from swegym.envs import FolderTaskSet, SweGrader
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.formats import mirror_build
from swegym.envs.tasksets.formats.mirror import MirrorRow, junit_name, line_edits, read_mirror_rows, reverse_fix
from swegym.envs.tasksets.formats.mirror_build import build_mirror
from swegym.envs.tasksets.formats.rows import read_rows
from swegym.envs.tasksets.sources import SourceTree
from swegym.envs.workspace import apply_line_edits

DATA = Path(os.environ.get("SWEGYM_SHARED_DATA", Path(__file__).parents[5] / "shared" / "data"))
TAIL = "\n\ndef tail(items):\n    return items[1:]\n"
TOP = '"""Things."""\n\nimport os\n\n\n'
BROKEN = TOP + "def head(items):\n    return items[0]\n" + TAIL
FIXED = TOP + "def head(items):\n    # of nothing: nothing\n    return items[0] if items else None\n" + TAIL
TESTS = """import pytest
from thing import head, tail


class TestHead:
    def test_some(self):
        assert head([1, 2]) == 1

    @pytest.mark.parametrize("items", [[], ()])
    def test_none(self, items):
        assert head(items) is None


def test_tail():
    assert tail([1, 2]) == [2]


def test_never():
    assert False
"""
ROW: dict[str, Any] = {
    "task_id": "thing-1.0__abc",
    "repo": "somebody/thing",
    "commit": "abc",
    "license": "MIT",
    "package": "thing",
    "version": "1.0",
    "sdist_sha256": "0" * 64,
    "message": "head of nothing is nothing",
    "fix_patch": unified_diff("thing.py", BROKEN, FIXED),
    "src_files": ["thing.py"],
    "test_files": ["tests/test_thing.py"],
    "fail_to_pass": ["tests.test_thing.TestHead::test_none[items0]", "tests.test_thing::test_gone"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "sdist"
    (folder / "tests").mkdir(parents=True)
    (folder / "thing.py").write_text("# A shifted line: offsets are found.\n\n" + FIXED)
    (folder / "tests" / "test_thing.py").write_text(TESTS)
    return folder


def read(tmp_path: Path, *rows: object) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_mirror_rows(read_rows(str(path)))


def test_a_fix_comes_off_at_an_offset(tree: Path) -> None:
    reversal = reverse_fix(tree, MirrorRow.model_validate(ROW))
    sound = (tree / "thing.py").read_bytes()
    broken = apply_line_edits(sound, list(reversal.start_edits))
    assert broken.decode().endswith(BROKEN)
    assert reversal.gold_patch == unified_diff("thing.py", broken.decode(), sound.decode())
    assert (tree / "thing.py").read_bytes() == sound
    assert "of nothing: nothing" not in "".join(edit.model_dump_json() for edit in reversal.start_edits)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fix_patch": unified_diff("thing.py", "x\n", "y\n")}, "does not come off"),
        ({"src_files": ["other.py"]}, "no file 'other.py'"),
        ({"src_files": ["../../etc/hostname"]}, "no file"),
        (
            {"fix_patch": unified_diff("thing.py", BROKEN, FIXED) + unified_diff("b.py", "a\n", "b\n")},
            "does not come off",
        ),
    ],
)
def test_what_does_not_come_off_is_said(tree: Path, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(TaskError, match=problem):
        reverse_fix(tree, MirrorRow.model_validate(ROW | change))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\nb\n", "a\n"),
        ("a\n", "a\nb\n"),
        ("a\nb", "a\nc"),
        ("a\r\nb\r\n", "a\r\nc\r\n"),
        ("a\n\x0cb\n", "\x0cb\n"),
        ("", "a\n"),
    ],
)
def test_line_edits_lead_from_one_text_to_the_other(before: str, after: str) -> None:
    edits = line_edits("a.py", before.encode(), after.encode())
    assert apply_line_edits(before.encode(), edits) == after.encode()


def test_ids_are_compared_as_junit_names_them() -> None:
    assert junit_name("tests/a/test_b.py::TestC::test_d[x::y/z.py]") == "tests.a.test_b.TestC::test_d[x::y/z.py]"
    assert junit_name("test_b.py::test_d") == "test_b::test_d"


def test_malformed_rows_are_named(tmp_path: Path) -> None:
    bad = [{**ROW, "sdist_sha256": "abc"}, ROW | {"task_id": "a/b"}, {"task_id": "c"}, ROW, {**ROW, "fail_to_pass": []}]
    rows, problems = read(tmp_path, ROW, *bad)
    assert [row.task_id for row in rows] == ["thing-1.0__abc"]
    assert [(item.number, item.field) for item in problems] == [
        (2, "sdist_sha256"),
        (3, "task_id"),
        (4, "repo"),
        (5, "task_id"),
        (6, "fail_to_pass"),
    ]


async def test_rows_become_tasks_that_the_grader_agrees_with(
    tree: Path, tmp_path: Path, provider: SandboxProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(requirement: str, sha256: str) -> SourceTree:
        fetched.append((requirement, sha256))
        return SourceTree("thing", "1.0", tree, "pypi:thing==1.0", "MIT")

    monkeypatch.setattr(mirror_build, "fetch_sdist", fetch)
    stale = ROW | {"task_id": "stale", "fix_patch": unified_diff("thing.py", "x\n", "y\n")}
    harmless = FIXED.replace("# of nothing: nothing", "# or nothing")
    idle = ROW | {"task_id": "idle", "fix_patch": unified_diff("thing.py", harmless, FIXED)}
    rows, _ = read(tmp_path, ROW, stale, idle)
    out = tmp_path / "set"
    report = await build_mirror(rows, out, provider, jobs=2)
    assert fetched == [("thing==1.0", "0" * 64)]
    assert report.num_tasks == 1
    assert set(report.problems) == {"stale", "idle"}
    assert "no test fails without the fix" in report.problems["idle"]
    remark = "1 of the row's 2 fail_to_pass tests are not so here: tests.test_thing::test_gone"
    assert report.remarks == {"thing-1.0__abc": remark}
    taskset = FolderTaskSet(out)
    task, secret = taskset.get("thing-1.0__abc"), taskset.secret("thing-1.0__abc")
    prefix = "tests/test_thing.py::"
    assert [test.removeprefix(prefix) for test in secret.FAIL_TO_PASS] == [
        "TestHead::test_none[items0]",
        "TestHead::test_none[items1]",
    ]
    assert [test.removeprefix(prefix) for test in secret.PASS_TO_PASS] == ["TestHead::test_some", "test_tail"]
    assert "of nothing" not in task.model_dump_json()
    grader = SweGrader(provider, taskset)
    broken = apply_line_edits((tree / "thing.py").read_bytes(), list(task.payload.start_edits)).decode()
    gold = await grader.grade(task, secret.patch)
    other = await grader.grade(task, unified_diff("thing.py", broken, broken + "\n# nothing\n"))
    await grader.close()
    assert gold.resolved, gold
    assert other.reason == "tests_failed"
    before = (out / "build" / "journal.jsonl").read_bytes()
    again = await build_mirror(rows, out, provider, jobs=2)
    assert (again.num_tasks, (out / "build" / "journal.jsonl").read_bytes()) == (1, before)
    with pytest.raises(ConfigError, match="none of 1 rows became a task"):
        await build_mirror(rows[1:2], tmp_path / "none", provider)


@pytest.mark.skipif(not (DATA / "swe_mirror_tasks").is_dir(), reason="needs the shared data")
def test_all_shared_rows_are_well_formed() -> None:
    rows, problems = read_mirror_rows(read_rows(str(DATA / "swe_mirror_tasks" / "tasks.jsonl")))
    assert (len(rows), problems, len({row.requirement for row in rows})) == (98, [], 12)
