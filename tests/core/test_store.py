import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError, UnknownName
from swegym.core.store import EpisodeStore
from swegym.core.trajectory import Trajectory

MakeTrajectory = Callable[..., Trajectory]


def only_part(folder: Path) -> Path:
    (part,) = folder.glob("part-*.jsonl")
    return part


def test_what_is_written_is_read_back_equal(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    written = [make_trajectory("aaaa"), make_trajectory("bbbb", reward=-1.0, rewards={"cwm.outcome": -1.0})]
    store = EpisodeStore(tmp_path / "episodes")
    for trajectory in written:
        store.append(trajectory)
    store.close()
    store.close()
    assert list(EpisodeStore(tmp_path / "episodes", create=False)) == written


def test_a_file_torn_at_any_byte_of_its_last_line_keeps_all_the_others(
    tmp_path: Path, make_trajectory: MakeTrajectory
) -> None:
    store = EpisodeStore(tmp_path)
    first, second, third = make_trajectory("aaaa"), make_trajectory("bbbb", seed=3), make_trajectory("cccc")
    store.append(first)
    whole = only_part(tmp_path).stat().st_size
    store.append(second)
    store.close()
    part = only_part(tmp_path)
    content = part.read_bytes()
    for size in range(whole, len(content)):
        part.write_bytes(content[:size])
        assert list(EpisodeStore(tmp_path)) == [first]
    later = EpisodeStore(tmp_path)  # a run that goes on after the kill
    later.append(third)
    later.close()
    assert list(EpisodeStore(tmp_path)) == [first, third]


def test_every_line_says_its_schema_version(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_trajectory())
    store.close()
    assert json.loads(only_part(tmp_path).read_text())["schema_version"] == 1


def test_a_line_of_version_1_means_the_same_for_ever(tmp_path: Path) -> None:
    """Fields left out of a line are defaults of version 1: changing a default is a new schema version."""
    line = (
        '{"schema_version":1,"episode_id":"e","task_id":"t","env_id":"v","first_observation":{"text":"x"},'
        '"turns":[{"index":0}]}\n'
    )
    (tmp_path / "part-0.jsonl").write_text(line)
    (trajectory,) = EpisodeStore(tmp_path)
    turn = trajectory.turns[0]
    assert (turn.finish_reason, turn.sampling.temperature, turn.sampling.top_p) == ("stop", 1.0, 1.0)
    assert (turn.sampling.max_tokens, turn.sampling.stop_token_ids, turn.sampling.seed) == (4096, (), None)
    assert (turn.action, turn.observation, turn.text, turn.format_error) == (None, None, "", "")
    assert (trajectory.validity.value, trajectory.reward, trajectory.rewards) == ("valid", None, {})
    assert (trajectory.terminated, trajectory.truncated, trajectory.end_reason) == (False, False, "")
    assert (trajectory.contexts, trajectory.outcome, trajectory.submission) == ((), None, None)
    assert trajectory.first_observation.exit_code is None


def test_foreign_lines_are_passed_over(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_trajectory("aaaa"))
    store.close()
    with only_part(tmp_path).open("ab") as file:
        file.write(b'\n\x00\xff\n{"episode_id":"zzzz"}\n[1]\n{"episode_id": "yyyy", "schema_version": 2}\n')
    assert [item.episode_id for item in EpisodeStore(tmp_path)] == ["aaaa"]
    with pytest.raises(UnknownName):
        EpisodeStore(tmp_path).get("zzzz")


def test_an_episode_written_again_counts_once(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_trajectory("aaaa"))
    store.append(make_trajectory("bbbb"))
    store.close()
    regraded = EpisodeStore(tmp_path)
    regraded.append(make_trajectory("aaaa", reward=1.0))
    regraded.close()
    assert sorted((item.episode_id, item.reward) for item in EpisodeStore(tmp_path)) == [("aaaa", 1.0), ("bbbb", None)]
    assert EpisodeStore(tmp_path).get("aa").reward == 1.0
    assert EpisodeStore(tmp_path).ids() == ["aaaa", "bbbb"]


def test_get_takes_a_prefix_and_refuses_an_ambiguous_one(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    for episode_id in ("abc1", "abc2", "abc"):
        store.append(make_trajectory(episode_id))
    assert store.get("abc2").episode_id == "abc2"
    assert store.get("abc").episode_id == "abc"  # exact beats prefix
    with pytest.raises(ConfigError, match="ambiguous: abc, abc1, abc2"):
        store.get("ab")
    with pytest.raises(UnknownName, match="no episode named 'x'"):
        store.get("x")


def test_a_parent_reference_is_not_taken_for_the_id(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_trajectory("child", parent={"episode_id": "aaaa", "turn": 2}))
    assert store.ids() == ["child"]
    with pytest.raises(UnknownName):
        store.get("aaaa")


def test_no_store_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no episode store"):
        EpisodeStore(tmp_path / "none", create=False)
    assert list(EpisodeStore(tmp_path / "none")) == []


def append_many(folder: str, name: str, line: str, count: int) -> None:
    store = EpisodeStore(folder)
    trajectory = Trajectory.model_validate_json(line)
    for index in range(count):
        store.append(trajectory.model_copy(update={"episode_id": f"{name}-{index}"}))


def test_several_processes_write_side_by_side(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    context = multiprocessing.get_context("fork")
    own = EpisodeStore(tmp_path)
    own.append(make_trajectory("own-0"))
    line = make_trajectory().model_dump_json()
    workers = [context.Process(target=append_many, args=(str(tmp_path), f"w{index}", line, 7)) for index in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    own.append(make_trajectory("own-1"))
    expected = {f"w{worker}-{index}" for worker in range(3) for index in range(7)} | {"own-0", "own-1"}
    assert set(EpisodeStore(tmp_path).ids()) == expected
    assert len(list(tmp_path.glob("part-*"))) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="fork and RLIMIT_FSIZE")
def test_a_child_of_a_fork_gets_a_part_of_its_own(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    store = EpisodeStore(tmp_path)
    store.append(make_trajectory("parent"))

    def in_child() -> None:
        store.append(make_trajectory("child"))
        store.close()

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    store.append(make_trajectory("parent2"))
    assert len(list(tmp_path.glob("part-*"))) == 2
    assert set(store.ids()) == {"parent", "child", "parent2"}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_FSIZE")
def test_a_full_disk_raises_and_harms_no_other_line(tmp_path: Path, make_trajectory: MakeTrajectory) -> None:
    def in_child() -> None:
        store = EpisodeStore(tmp_path)
        store.append(make_trajectory("first"))
        size = only_part(tmp_path).stat().st_size
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
        try:
            store.append(make_trajectory("second"))
        except OSError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            store.append(make_trajectory("third"))
            os._exit(7)

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(60)
    assert child.exitcode == 7
    assert EpisodeStore(tmp_path).ids()[0] == "first"
    assert {item.episode_id for item in EpisodeStore(tmp_path)} == {"first", "third"}
