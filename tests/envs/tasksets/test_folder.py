"""Task set folders: what loads, and what is said about what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.registries import tasksets
from swegym.core.task import ImageRecipe, TaskSet
from swegym.envs.tasksets import FolderTaskSet, Manifest, resolve_task_set, sandbox_spec, save_task_set


@pytest.fixture
def copy(tiny: FolderTaskSet, tmp_path: Path) -> Path:
    shutil.copytree(tiny.folder(), tmp_path / "set")
    return tmp_path / "set"


def test_tiny_ships_and_is_registered() -> None:
    taskset = resolve_task_set("tiny")
    assert isinstance(taskset, TaskSet)
    assert taskset.ids() == ["tiny-merge", "tiny-wrap", "tiny-lru"]
    assert taskset.ids("train") == ["tiny-merge", "tiny-wrap"]
    assert taskset.ids("heldout") == ["tiny-lru"]
    assert [task.task_id for task in taskset] == taskset.ids()
    assert len(taskset) == 3


def test_public_half_says_nothing_of_the_cure(tiny: FolderTaskSet) -> None:
    for task in tiny:
        cure = [line[1:] for line in tiny.secret(task.task_id).patch.splitlines() if line.startswith("+  ")]
        assert cure
        assert all(line.strip() not in task.model_dump_json() for line in cure)


def test_secret_file_is_read_only_when_asked(copy: Path) -> None:
    (copy / "secrets.jsonl").unlink()
    taskset = FolderTaskSet(copy)
    assert len(taskset) == 3
    with pytest.raises(ConfigError, match=r"secrets\.jsonl"):
        taskset.secret("tiny-lru")


def test_unknown_names(tiny: FolderTaskSet) -> None:
    with pytest.raises(UnknownName, match="did you mean tiny-wrap"):
        tiny.get("tiny-rap")
    with pytest.raises(UnknownName, match="tiny"):
        resolve_task_set("tinny")
    with pytest.raises(ConfigError, match="no task set folder"):
        resolve_task_set("./nowhere")


def test_bad_rows_are_named_one_by_one(copy: Path) -> None:
    rows = (copy / "tasks.jsonl").read_text().splitlines()
    unknown_key = json.dumps({**json.loads(rows[1]), "gold": "x"})
    (copy / "tasks.jsonl").write_text("\n".join([rows[0], "{half", "", unknown_key, rows[2]]) + "\n")
    with pytest.raises(ConfigError) as caught:
        FolderTaskSet(copy)
    first, second = str(caught.value).splitlines()
    assert "tasks.jsonl:2: Invalid JSON" in first
    assert "tasks.jsonl:4: gold: Extra inputs are not permitted" in second
    rest = FolderTaskSet(copy, strict=False)
    assert rest.ids() == ["tiny-merge", "tiny-lru"]
    assert len(rest.bad_rows) == 2


def test_doubled_id(copy: Path) -> None:
    path = copy / "tasks.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(ConfigError, match="'tiny-merge' occurs twice"):
        FolderTaskSet(copy)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (None, "no manifest"),
        ('{"name": "x", "colour": 1}', "colour: Extra inputs"),
        ('{"name": "x", "schema_version": 2}', "schema_version"),
        ("{", "cannot be read"),
    ],
)
def test_bad_manifests(copy: Path, manifest: str | None, message: str) -> None:
    (copy / "manifest.json").unlink()
    if manifest is not None:
        (copy / "manifest.json").write_text(manifest)
    with pytest.raises(ConfigError, match=message):
        FolderTaskSet(copy)


def test_toml_manifest_and_two_manifests(copy: Path) -> None:
    (copy / "manifest.toml").write_text('name = "mine"\nlicense = "MIT"\n')
    with pytest.raises(ConfigError, match="two manifests"):
        FolderTaskSet(copy)
    (copy / "manifest.json").unlink()
    assert FolderTaskSet(copy).manifest.license == "MIT"


def test_save_and_load(tiny: FolderTaskSet, tmp_path: Path) -> None:
    secrets = [tiny.secret(name) for name in tiny.ids()]
    saved = save_task_set(tmp_path / "new", Manifest(name="new"), tiny, reversed(secrets))
    assert list(saved) == list(tiny)
    assert saved.secret("tiny-wrap") == tiny.secret("tiny-wrap")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "manifest.json",
        "secrets.jsonl",
        "tasks.jsonl",
    ]
    with pytest.raises(ConfigError, match="no secret for task 'tiny-lru'"):
        save_task_set(tmp_path / "other", Manifest(name="x"), tiny, secrets[:2])
    with pytest.raises(ConfigError, match="cannot write"):
        save_task_set("/proc/nowhere", Manifest(name="x"), tiny, secrets)


def test_registered_functions_and_paths(copy: Path) -> None:
    tasksets.register("test-folder", "swegym.envs.tasksets.folder:tiny_task_set")
    tasksets.register("test-object", FolderTaskSet(copy))
    tasksets.register("test-nonsense", "pathlib:Path.cwd")
    assert resolve_task_set("test-folder").name == "tiny"
    assert resolve_task_set("test-object").folder() == str(copy)
    assert resolve_task_set(str(copy)).folder() == str(copy)
    assert resolve_task_set("swegym.envs.tasksets.folder:tiny_task_set").name == "tiny"
    with pytest.raises(ConfigError, match="no attribute"):
        resolve_task_set("test-nonsense")


def test_sandbox_spec(copy: Path) -> None:
    taskset = FolderTaskSet(copy)
    task = taskset.get("tiny-lru")
    spec = sandbox_spec(task, taskset)
    assert spec.workspace == str(copy / "workspace")
    assert spec.dependencies is not None
    assert (Path(spec.dependencies) / "pytest" / "__init__.py").is_file()
    assert spec.environment["PYTHONDONTWRITEBYTECODE"] == "1"

    def with_recipe(**recipe: str) -> None:
        payload = task.payload.model_copy(update={"recipe": ImageRecipe.model_validate(recipe)})
        sandbox_spec(task.model_copy(update={"payload": payload}), taskset)

    with pytest.raises(ConfigError, match="lies outside"):
        with_recipe(workspace="../elsewhere")
    with pytest.raises(ConfigError, match="no folder"):
        with_recipe(workspace="workspace", dependencies="gone")
