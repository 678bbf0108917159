from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from swegym.core.errors import CheckpointError
from swegym.train.train_state import latest, load_train_state, save_train_state, step_of


def state(value: float = 1.0) -> dict[str, Any]:
    return {
        "weights": torch.full((3, 5), value),
        "loop": {"next_task": 7, "seed": 3, "name": "x", "betas": (0.9, 0.95)},
    }


def test_round_trip(tmp_path: Path) -> None:
    path = save_train_state(tmp_path / "new" / "folder", 12, state())
    assert path.name == "step-00000012.pt"
    step, loaded = load_train_state(path)
    assert step == step_of(path) == 12
    assert torch.equal(loaded["weights"], state()["weights"])
    assert loaded["loop"] == state()["loop"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_newest_by_number_and_old_ones_go(tmp_path: Path) -> None:
    for step in (3, 20, 100):
        save_train_state(tmp_path, step, state(step), keep=2)
    assert sorted(step_of(path) for path in tmp_path.iterdir()) == [20, 100]
    newest = latest(tmp_path)
    assert newest is not None
    assert load_train_state(newest)[0] == 100


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save_train_state(tmp_path, 4, state(1.0))
    path = save_train_state(tmp_path, 4, state(2.0))
    assert float(load_train_state(path)[1]["weights"][0, 0]) == 2.0


def test_nothing_there_starts_fresh(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    (tmp_path / "notes.txt").write_text("step-1")
    (tmp_path / "step-00000009.pt.part").write_bytes(b"PK")
    assert latest(tmp_path) is None


def test_torn_files_are_passed_over_at_every_length(tmp_path: Path) -> None:
    good = save_train_state(tmp_path, 1, state())
    whole = good.read_bytes()
    for length in range(0, len(whole), 97):
        (tmp_path / "step-00000002.pt").write_bytes(whole[:length])
        assert latest(tmp_path) == good


def test_a_torn_file_named_outright_is_one_clear_error(tmp_path: Path) -> None:
    path = save_train_state(tmp_path, 1, state())
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*step-00000001\.pt"):
        load_train_state(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_train_state(tmp_path / "step-00000005.pt")
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="no training checkpoint of format 1"):
        load_train_state(path)


def test_code_is_never_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (os.system, (f"touch {tmp_path}/owned",))

    path = tmp_path / "step-00000001.pt"
    torch.save({"schema_version": 1, "step": 1, "state": Evil()}, path)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_train_state(path)
    assert not (tmp_path / "owned").exists()


def test_an_unsafe_state_fails_when_saved_not_when_needed(tmp_path: Path) -> None:
    save_train_state(tmp_path, 1, state())
    with pytest.raises(CheckpointError):
        save_train_state(tmp_path, 2, {"path": tmp_path})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    save_train_state(tmp_path, 1, state())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the kernel refuses what goes beyond
    try:
        with pytest.raises(CheckpointError, match="cannot write checkpoint"):
            save_train_state(tmp_path, 2, {"weights": torch.zeros(300, 301)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


@pytest.mark.parametrize("unsafe", [lambda: 0, object()])
def test_what_cannot_be_pickled_is_a_checkpoint_error(tmp_path: Path, unsafe: object) -> None:
    with pytest.raises(CheckpointError):
        save_train_state(tmp_path, 2, {"loop": unsafe})
    assert not list(tmp_path.iterdir())


SAVE_FOR_EVER = """
import sys, torch
from swegym.train.train_state import save_train_state
step = 0
while True:
    step += 1
    save_train_state(sys.argv[1], step, {"weights": torch.full((700, 701), float(step)), "loop": {"step": step}})
    print(step, flush=True)
"""


@pytest.mark.chaos
def test_killed_while_saving_the_last_whole_one_loads(tmp_path: Path) -> None:
    for round_number, delay_s in enumerate((0.0, 0.003, 0.007, 0.011)):
        folder = tmp_path / str(round_number)
        saver = subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(folder)], stdout=subprocess.PIPE, text=True)
        assert saver.stdout is not None
        announced = [int(saver.stdout.readline()) for _ in range(2)][-1]
        time.sleep(delay_s)
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        saver.stdout.close()
        newest = latest(folder)
        assert newest is not None
        step, loaded = load_train_state(newest)
        assert step >= announced
        assert loaded["loop"]["step"] == step
        assert torch.equal(loaded["weights"], torch.full((700, 701), float(step)))
        save_train_state(folder, step + 1, state())  # and the next run's first save clears what was left lying
        assert not list(folder.glob(".*"))
