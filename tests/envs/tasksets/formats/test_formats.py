"""Rows of public formats: found by their keys, converted, and named one by one when they are malformed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from swegym.core.errors import ConfigError, DependencyMissing, TaskError, UnknownName
from swegym.core.task import TaskSet
from swegym.envs import FolderTaskSet, resolve_task_set
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.formats.convert import FORMATS, detect_format
from swegym.envs.tasksets.formats.patches import edits_of_patch, files_of_patch, reverse_patch
from swegym.envs.tasksets.formats.taskset import FormatTaskSet, load_format, save_format
from swegym.envs.workspace import apply_line_edits

DATA = Path(os.environ.get("SWEGYM_SHARED_DATA", Path(__file__).parents[5] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "swebench_lite").is_dir(), reason="needs the shared data")
BEFORE, AFTER = "a\nb\nc\nd\n", "a\nB\nc\nd\ne\n"
PATCH = unified_diff("pkg/mod.py", BEFORE, AFTER)
TEST_PATCH = unified_diff("tests/test_mod.py", "x\n", "y\n")

SWEBENCH: dict[str, Any] = {
    "instance_id": "Owner__name-12",
    "repo": "owner/name",
    "base_commit": "0" * 40,
    "patch": PATCH,
    "test_patch": TEST_PATCH,
    "problem_statement": "It breaks.\u2028Always.",
    "hints_text": "",
    "created_at": "2024-01-01",
    "version": "1.0",
    "FAIL_TO_PASS": '["tests/test_mod.py::test_a[x y]"]',
    "PASS_TO_PASS": '["tests/test_mod.py::test_b", "[100%]"]',
    "environment_setup_commit": "1" * 40,
}
SWEGYM = {key: value for key, value in SWEBENCH.items() if key != "environment_setup_commit"} | {
    "FAIL_TO_PASS": ["tests/test_mod.py::test_a"],
    "PASS_TO_PASS": [],
}
LIVE = SWEGYM | {"test_cmds": ["pytest -rA tests/test_mod.py"], "log_parser": "pytest", "pull_number": "3"}
EVALUATED = SWEBENCH | {
    "image": "somebody/thing:v5",
    "log_parser": "parse_log_pytest_v2",
    "eval_script": "git apply x\n: '>>>>> Start Test Output'\n"
    "pytest -rA tests/test_mod.py\n: '>>>>> End Test Output'\n",
}
SWESMITH = {
    "instance_id": "owner__name.abc.func_pm_1",
    "repo": "swesmith/owner__name.abc",
    "patch": PATCH,
    "FAIL_TO_PASS": "['tests/test_mod.py::test_a']",
    "PASS_TO_PASS": "['tests/test_mod.py::test_b']",
    "image_name": "swesmith.x86_64.owner__name.abc",
    "base_commit": "2" * 40,
    "problem_statement": "It breaks.",
}
R2E = {
    "repo_name": "name",
    "docker_image": "somebody/name_final:abc",
    "commit_hash": "abcdef0123456789",
    "problem_statement": "It breaks.",
    "expected_output_json": '{"TestA.test_b": "PASSED", "test_c - why": "PASSED", "test_d": "FAILED"}',
    "execution_result_content": '{"test_file_names": ["test_1.py"], "test_file_codes": ["def test_c(): pass"]}',
}
ROWS = {
    "swebench": SWEBENCH,
    "swegym": SWEGYM,
    "swebench-live": LIVE,
    "swesmith": SWESMITH,
    "r2e": R2E,
}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("name", ROWS)
def test_each_format_is_found_by_its_keys_and_loads(tmp_path: Path, name: str) -> None:
    assert detect_format(ROWS[name]) == name
    loaded = resolve_task_set(write(tmp_path / "rows.jsonl", ROWS[name]))
    assert isinstance(loaded, FormatTaskSet)
    assert isinstance(loaded, TaskSet)
    assert (loaded.format, loaded.bad_rows, len(loaded)) == (name, [], 1)
    (task,) = loaded
    secret = loaded.secret(task.task_id)
    assert secret.FAIL_TO_PASS
    assert secret.log_parser
    assert secret.patch not in task.model_dump_json() or not secret.patch
    assert not set(secret.FAIL_TO_PASS) & set(task.model_dump_json().split('"'))


def test_image_names_follow_the_convention_of_each_format(tmp_path: Path) -> None:
    images = {}
    for name, row in (ROWS | {"evaluated": EVALUATED}).items():
        (task,) = resolve_task_set(write(tmp_path / f"{name}.jsonl", row))
        images[name] = task.payload.image
    assert images == {
        "swebench": "swebench/sweb.eval.x86_64.owner_1776_name-12:latest",
        "swegym": "xingyaoww/sweb.eval.x86_64.owner_s_name-12:latest",
        "swebench-live": "starryzhang/sweb.eval.x86_64.owner_1776_name-12:latest",
        "swesmith": "jyangballin/swesmith.x86_64.owner_1776_name.abc:latest",
        "r2e": "somebody/name_final:abc",
        "evaluated": "somebody/thing:v5",
    }


def test_how_tests_are_run_stays_in_the_half_that_it_belongs_to(tmp_path: Path) -> None:
    (task,) = found = resolve_task_set(write(tmp_path / "a.jsonl", SWEBENCH))
    secret = found.secret(task.task_id)
    assert task.payload.test_command == "pytest -rA"
    assert secret.test_files == ("tests/test_mod.py",)
    assert secret.PASS_TO_PASS == ("tests/test_mod.py::test_b",)  # B6: a progress mark is no test
    for number, row in enumerate((EVALUATED, LIVE)):
        (task,) = found = resolve_task_set(write(tmp_path / f"{number}.jsonl", row))
        secret = found.secret(task.task_id)
        assert secret.eval_command == "pytest -rA tests/test_mod.py"
        assert "test_mod" not in task.payload.test_command
    django = SWEBENCH | {"repo": "django/django", "test_patch": unified_diff("tests/a/test_b.py", "x\n", "y\n")}
    (task,) = found = resolve_task_set(write(tmp_path / "django.jsonl", django))
    assert found.secret(task.task_id).test_files == ("a.test_b",)
    assert found.secret(task.task_id).log_parser == "django"


def test_the_bug_of_a_swe_smith_row_becomes_start_edits_and_its_reverse_the_cure(tmp_path: Path) -> None:
    (task,) = found = resolve_task_set(write(tmp_path / "rows.jsonl", SWESMITH))
    broken = apply_line_edits(BEFORE.encode(), list(task.payload.start_edits))
    assert broken.decode() == AFTER
    assert found.secret(task.task_id).patch == unified_diff("pkg/mod.py", AFTER, BEFORE)
    assert '"b\\n' not in task.model_dump_json()


def test_hidden_tests_of_an_r2e_row_are_written_by_the_grader(tmp_path: Path) -> None:
    (task,) = found = resolve_task_set(write(tmp_path / "rows.jsonl", R2E))
    secret = found.secret(task.task_id)
    assert secret.FAIL_TO_PASS == ("TestA.test_b", "test_c")
    assert secret.hidden_files == {"r2e_tests/test_1.py": "def test_c(): pass"}
    assert task.task_id == "name-abcdef012345"


BAD = [
    ({"patch": None}, "patch: is missing|patch: is empty"),
    ({"patch": "what is this"}, "patch: is no unified diff"),
    ({"patch": 3}, "patch: is a int, not a string"),
    ({"FAIL_TO_PASS": "[]"}, "FAIL_TO_PASS: names no test"),
    ({"FAIL_TO_PASS": '["[100%]"]'}, "FAIL_TO_PASS: names no test"),
    ({"FAIL_TO_PASS": "nonsense["}, "FAIL_TO_PASS: is a string that is neither"),
    ({"FAIL_TO_PASS": {"a": 1}}, "FAIL_TO_PASS: is not a list of test ids"),
    ({"instance_id": "two words"}, "instance_id: 'two words' is no id"),
    ({"problem_statement": ""}, "problem_statement: is empty"),
    ({"log_parser": "parse_log_nobody"}, "log_parser: no parser for"),
    ({"log_parser": "def parser(log):\n    return {}"}, "log_parser: is code"),
    ({"test_patch": unified_diff("a/b.rb", "x\n", "y\n")}, "test_cmd: the row does not say how to test|version: "),
]


@pytest.mark.parametrize(("change", "problem"), BAD)
def test_malformed_rows_are_named_and_the_rest_load(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    bad = SWEBENCH | change
    source = write(tmp_path / "rows.jsonl", SWEBENCH, bad | ({"instance_id": "bad"} | change))
    loaded = load_format(source)
    assert loaded.ids() == ["Owner__name-12"]
    (row,) = loaded.bad_rows
    assert row.number == 2
    assert any(part in str(row) for part in problem.split("|")), row
    with pytest.raises(ConfigError, match=r"rows\.jsonl: row 2"):
        load_format(source, strict=True)


def test_lines_that_are_no_rows_are_named_by_their_line(tmp_path: Path) -> None:
    twin = SWEBENCH | {"instance_id": "Owner/name-12"}
    source = write(tmp_path / "rows.jsonl", "{", SWEBENCH, "", [1], '{"a": 1}', SWEBENCH, twin | {"instance_id": "x/y"})
    loaded = load_format(source)
    assert [row.number for row in loaded.bad_rows] == [1, 4, 5, 6]
    assert "not JSON" in str(loaded.bad_rows[0])
    assert str(loaded.bad_rows[3]) == "row 6 (Owner__name-12): instance_id: occurs twice; the first one is kept"
    assert loaded.ids() == ["Owner__name-12", "x__y"]
    assert loaded.get("x__y").labels["instance_id"] == "x/y"


def test_json_documents_and_lists_load_too(tmp_path: Path) -> None:
    for number, document in enumerate(([SWEBENCH], SWEBENCH, {"first": SWEBENCH})):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps(document, indent=1))
        assert load_format(str(path)).ids() == ["Owner__name-12"]


def test_parquet_and_datasets_folders_load(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist([SWEGYM, SWEGYM | {"instance_id": "b"}]), tmp_path / "rows.parquet")
    assert resolve_task_set(str(tmp_path / "rows.parquet")).ids() == ["Owner__name-12", "b"]
    datasets = pytest.importorskip("datasets")
    splits = {name: datasets.Dataset.from_list([SWEBENCH | {"instance_id": name}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    assert load_format(str(tmp_path / "saved")).ids() == ["test"]
    assert load_format(str(tmp_path / "saved"), split="train").ids() == ["train"]
    assert resolve_task_set(f"swebench:{tmp_path / 'saved'}").ids() == ["test"]
    with pytest.raises(ConfigError, match="no split 'dev'"):
        load_format(str(tmp_path / "saved"), split="dev")


def test_what_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no file"):
        resolve_task_set(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="rows of no known format"):
        resolve_task_set(write(tmp_path / "odd.jsonl", {"question": "?"}))
    with pytest.raises(ConfigError, match="holds no rows"):
        resolve_task_set(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UnknownName, match="task format"):
        load_format(write(tmp_path / "rows.jsonl", SWEBENCH), "swe")
    with pytest.raises(ConfigError, match="swegym tasks import"):
        mirror = {"task_id": "a", "package": "b", "sdist_sha256": "c", "fix_patch": "d"}
        resolve_task_set(write(tmp_path / "mirror.jsonl", mirror))
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(DependencyMissing, match=r"swegym\[formats\]"):
        resolve_task_set(str(tmp_path / "rows.parquet"))


def test_a_loaded_set_can_be_kept_as_a_folder(tmp_path: Path) -> None:
    loaded = load_format(write(tmp_path / "rows.jsonl", SWEBENCH, {"instance_id": "x"}))
    saved = save_format(loaded, tmp_path / "set", "rows.jsonl")
    again = FolderTaskSet(tmp_path / "set")
    assert again.ids() == loaded.ids() == saved.ids()
    assert again.secret("Owner__name-12") == loaded.secret("Owner__name-12")
    assert again.manifest.statistics["malformed rows"] == [str(row) for row in loaded.bad_rows]


def test_patches_read_backwards_and_as_edits() -> None:
    no_newline = unified_diff("a.py", "x\ny", "x\nz\n")
    assert reverse_patch(no_newline) == unified_diff("a.py", "x\nz\n", "x\ny")
    assert reverse_patch(reverse_patch(PATCH)) == PATCH
    two = PATCH + unified_diff("other.py", "--- x\n", "+++ y\n")
    assert reverse_patch(two) == unified_diff("pkg/mod.py", AFTER, BEFORE) + unified_diff(
        "other.py", "+++ y\n", "--- x\n"
    )
    odd = unified_diff("a.py", "x\x0cy\u2028z\r\nb\n", "x\x0cY\r\nb\n")
    assert reverse_patch(odd) == unified_diff("a.py", "x\x0cY\r\nb\n", "x\x0cy\u2028z\r\nb\n")
    assert files_of_patch(two) == ("pkg/mod.py", "other.py")
    new_file = "diff --git a/n.py b/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/n.py\n@@ -0,0 +1 @@\n+x\n"
    for refused in (new_file, "", "no diff at all"):
        with pytest.raises(TaskError):
            edits_of_patch(refused)


@needs_data
def test_all_shared_rows_load() -> None:
    counts = {}
    for path in (
        "swebench_lite/lite_test.jsonl",
        "swebench_lite/lite_dev.jsonl",
        "swesmith_logs/pandas-dev__pandas.95280573.pr_53652.json",
    ):
        loaded = load_format(str(DATA / path))
        counts[path] = (len(loaded), len(loaded.bad_rows), loaded.format)
        for task in loaded:
            secret = loaded.secret(task.task_id)
            assert secret.patch.strip() not in task.model_dump_json()
            assert secret.test_files
    assert list(counts.values()) == [(300, 0, "swebench"), (23, 0, "swebench"), (1, 0, "swesmith")]
    assert set(FORMATS) >= {"mirror", "swebench", "swebench-live", "swegym", "swesmith", "r2e"}
