import json
from pathlib import Path

import pytest

from swegym.core.config import Section
from swegym.core.errors import ConfigError
from swegym.core.runfolder import RunFolder, write_atomically


class Config(Section):
    seed: int = 5


def test_a_new_folder_holds_config_and_versions(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "a" / "run", Config())
    assert json.loads((run.path / "config.json").read_text()) == {"seed": 5}
    versions = json.loads((run.path / "versions.json").read_text())
    assert {"python", "pydantic"} & set(versions) == {"python"}
    assert {"swegym", "gymnasium", "commit", "command"} <= set(versions)
    assert RunFolder.open(run.path).path == run.path


def test_a_folder_that_exists_is_refused_unless_empty(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "empty").path.joinpath("x").write_text("")
    with pytest.raises(ConfigError, match="exists already; choose another"):
        RunFolder.create(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="exists already"):
        RunFolder.create(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot make run folder"):
        RunFolder.create(tmp_path / "file" / "below")


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        RunFolder.open(tmp_path)


def test_metrics_survive_a_torn_line(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.log(1, {"reward": 0.25})
    run.log(2, {"reward": 0.5})
    path = run.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    run.log(3, {"reward": 0.75})
    assert [(row["step"], row["reward"]) for row in run.metrics()] == [(1, 0.25), (3, 0.75)]


def test_summary_is_replaced_whole(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.summary() == {}
    run.write_summary({"a": 1, "b": 2})
    run.write_summary({"a": 3})
    assert run.summary() == {"a": 3}


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_run_that_never_began_leaves_its_name_free(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.discard_unused()
    assert not run.path.exists()
    run = RunFolder.create(tmp_path / "run")
    run.log(1, {"loss": 0.5})
    run.discard_unused()
    assert (run.path / "metrics.jsonl").is_file()
