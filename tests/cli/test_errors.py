"""The user's mistakes: one line that says what is wrong and how to mend it, exit status 2, no traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swegym.cli.compose import extra
from swegym.core.errors import DependencyMissing
from swegym.envs.sandboxes import list_sandboxes
from tests.cli.conftest import Swegym

TINY = ("--env", "swegym/Tiny-v0", "--sandbox", "local")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "rl", "--algo.grup_size=4", "--dry-run"), "did you mean 'algo.group_size'?"),
        (("train", "rl", "--algo.group_size=1", "--dry-run"), "algo.group_size"),
        (("train", "rl", "--algo.group_size", "--dry-run"), "has no value"),
        (("train", "rl", "--config", "absent.toml", "--dry-run"), "no config file absent.toml"),
        (("train", "rl", "--config", "paprika", "--dry-run"), "no recipe named 'paprika'; did you mean paper?"),
        (("demo", "--algo.grup_size=4"), "did you mean 'algo.group_size'?"),
        (("train", "sft", "--batch_size=0", "--dry-run"), "batch_size"),
        (("eval", "--policy", "oracle"), "say which tasks"),
        (("eval", "--env", "swegym/Tinny-v0", "--policy", "oracle"), "did you mean swegym/Tiny-v0, "),
        (("eval", "--env", "CartPole-v1", "--policy", "oracle"), "is not over a swegym task set"),
        (("eval", "--env", "no_such_module:acme/Fix-v0", "--policy", "oracle"), "no module named 'no_such_module'"),
        (("eval", "--taskset", "tinny", "--policy", "oracle"), "did you mean tiny?"),
        (("eval", "--taskset", "./absent", "--policy", "oracle"), "no task set folder ./absent"),
        (("eval", "--taskset", "tiny", "--policy", "oracel"), "did you mean oracle?"),
        (("eval", "--taskset", "tiny", "--policy", "openai"), "--policy openai needs --model"),
        (("eval", "--taskset", "tiny", "--policy", "scripted"), "needs --source FILE"),
        (("eval", "--taskset", "tiny", "--policy", "scripted", "--source", "absent"), "cannot read the script absent"),
        (("eval", "--taskset", "tiny", "--policy", "replay", "--source", "absent"), "absent is not a run folder"),
        (("eval", "--taskset", "tiny", "--policy", "torch", "--model", "absent"), "no config.json in absent"),
        (("eval", "--taskset", "tiny", "--policy", "oracle", "--profile", "cmw"), "did you mean cwm?"),
        (("eval", "--taskset", "tiny", "--policy", "oracle", "--protocol", "tag"), "did you mean tags?"),
        (("eval", "--taskset", "tiny", "--policy", "oracle", "--task", "tiny-warp"), "did you mean tiny-wrap"),
        (("eval", "--taskset", "tiny", "--policy", "oracle", "--split", "test"), "no such task of split 'test'"),
        (
            ("eval", "--taskset", "tiny", "--policy", "oracle", "-k", "3", "--samples", "2"),
            "pass@3 needs at least as many samples per task: --samples 3",
        ),
        (("eval", "--taskset", "tiny", "--policy", "oracle", "--sandbox", "dokcer"), "did you mean docker?"),
        (("rollout", "--taskset", "tiny", "--policy", "oracle", "--reward", "test"), "did you mean tests?"),
        (("rollout", "--taskset", "tiny", "--policy", "oracle", "--reward", "tests=x"), "'x' is not a number"),
        (("replay", "absent", "abc"), "absent is not a run folder"),
        (("regrade", "absent"), "absent is not a run folder"),
        (("episodes", "ls", "absent"), "absent is not a run folder"),
        (("tasks", "show", "tiny", "tiny-warp"), "did you mean tiny-wrap"),
        (("tasks", "build", "./absent", "--out", "made", "--sandbox", "local"), "no folder ./absent"),
    ],
)
def test_mistake_is_one_line(swegym: Swegym, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = swegym(*arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("run folder: ")]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("swegym: ")
    assert message in lines[0]
    assert list((tmp_path / "runs").glob("*")) == []  # nothing began, so nothing is left


@pytest.mark.parametrize("arguments", [("evall",), ("eval", "--no-such-option"), ("replay",), ("eval", "-k", "x")])
def test_usage_error_ends_with_2(swegym: Swegym, arguments: tuple[str, ...]) -> None:
    done = swegym(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("rollout", *TINY, "--policy", "oracle"), ("eval", *TINY, "--policy", "oracle"), ("train", "rl")]
)
def test_a_run_folder_is_never_written_over(swegym: Swegym, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("1")
    done = swegym(*arguments, "--run", "taken")
    assert done.returncode == 2
    assert "run folder taken exists already; choose another with --run" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["precious"]


def test_unknown_episode(swegym: Swegym) -> None:
    assert swegym("rollout", *TINY, "--policy", "oracle", "--num-tasks", "1", "--run", "r").returncode == 0
    done = swegym("replay", "r", "zzz")
    assert done.returncode == 2
    assert done.stderr.startswith("swegym: no episode named 'zzz'; known: ")


def test_missing_engine_is_named_with_the_cure(swegym: Swegym, no_engine: dict[str, str]) -> None:
    done = swegym("eval", "--taskset", "tiny", "--policy", "oracle", "--sandbox", "docker", env=no_engine)
    assert done.returncode == 2
    assert "engine" in done.stderr
    assert "Traceback" not in done.stderr


def test_auto_takes_local_where_no_engine_answers(swegym: Swegym, no_engine: dict[str, str]) -> None:
    done = swegym("eval", "--taskset", "tiny", "--policy", "oracle", "--num-tasks", "1", env=no_engine)
    assert done.returncode == 0, done.stderr
    assert "in local sandboxes" in done.stderr


def test_absent_package_names_the_extra() -> None:
    message = r"package swegym_absent is not installed.*swegym\[train\]"
    with pytest.raises(DependencyMissing, match=message), extra("train", "swegym_absent"):
        import swegym_absent  # type: ignore[import-not-found] # noqa: F401


def test_absence_of_anything_else_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError) as caught, extra("train", "torch"):
        import swegym_absent  # noqa: F401
    assert not isinstance(caught.value, DependencyMissing)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_with_130_and_leaves_nothing(tmp_path: Path, signal_number: int) -> None:
    command = [sys.executable, "-m", "swegym", "rollout", *TINY, "--policy", "human", "--run", "r"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stderr is not None
        while "submit" not in (line := process.stderr.readline()):  # the person's help text: the episode has begun
            assert line, "the rollout ended before its first turn"
        assert _owned_by(process.pid)
        process.send_signal(signal_number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.rstrip().endswith("swegym: interrupted; what was finished is kept")
    assert "Traceback" not in errors
    assert not _owned_by(process.pid)


def _owned_by(pid: int) -> list[str]:
    return [item.sandbox_id for item in list_sandboxes() if item.owner.partition(":")[0] == str(pid)]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="mounting a small disk needs root")
def test_full_disk_is_one_line_and_keeps_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    swegym = f"{sys.executable} -m swegym rollout {' '.join(TINY)} --policy oracle --samples 40 --run small/run"
    script = f"mount -t tmpfs -o size=32k tmpfs small && {swegym}; status=$?; wc -l small/run/episodes/*; exit $status"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=240
    )
    assert done.returncode == 2, done.stderr
    assert "swegym: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert int(done.stdout.split()[0]) >= 1
