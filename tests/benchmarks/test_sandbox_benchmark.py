"""benchmarks/sandbox.py runs, compares what it says it compares, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> Any:
    """A module of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


measure = load("measure")


def command(tmp_path: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(FOLDER / "sandbox.py"), "--peers", str(tmp_path / "no-peers"), *arguments]


def run(tmp_path: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """Rows and printed text of a quick run."""
    file = tmp_path / "rows.json"
    arguments = ("--quick", "--json", str(file), *arguments)
    done = subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def processes_with(variable: str) -> list[str]:
    """Command lines of processes that have this in their environment (zombies have none)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
    return found


# --- measuring --------------------------------------------------------------------------------------------------------


async def test_contenders_take_turns_and_warm_up_is_not_counted() -> None:
    calls: list[str] = []

    def action(name: str) -> Any:
        async def call() -> float:
            calls.append(name)
            return float(len(calls))

        return call

    samples = await measure.interleave(
        {"a": action("a"), "b": action("b")}, 6, every={"b": 3}, burst=2, num_warmups=1, seed=1
    )
    assert calls[:2] == ["a", "b"]
    assert (len(samples["a"]), len(samples["b"])) == (12, 4)
    assert min(samples["a"] + samples["b"]) == 3.0
    assert {tuple(sorted(calls[2:6]))} == {("a", "a", "b", "b")}


def test_a_ratio_above_one_means_that_we_are_better(tmp_path: Path) -> None:
    results = measure.Results(tmp_path / "rows.json")
    results.compare("time", [1.0, 2.0, 9.0], [4.0, 4.0], "peer", "ms", aim=3.0)
    results.compare("rate", 10.0, 5.0, "peer", "commands/s", more_is_better=True)
    results.leave_out("time", "absent", "not installed")
    results.write()
    time, rate, absent = json.loads((tmp_path / "rows.json").read_text())
    assert (time["ours"], time["against"], time["ratio"], time["samples"]) == (2.0, 4.0, 2.0, [3, 2])
    assert rate["ratio"] == 2.0
    assert (absent["peer"], absent["left_out"], absent["ratio"]) == ("absent", "not installed", None)


def test_outputs_may_differ_in_line_ends_only() -> None:
    measure.same_output(b"a\r\nb\r\n", b"a\nb", "peer")
    with pytest.raises(measure.WrongAnswer, match=r"peer: outputs of 2 and 3 bytes differ at byte 1: .*'b'.*'xb'"):
        measure.same_output(b"ab", b"axb", "peer")
    with pytest.raises(measure.WrongAnswer, match="differ at byte 2"):
        measure.same_output(b"ab", b"abc", "peer")


# --- the script -------------------------------------------------------------------------------------------------------


def test_quick_run_over_local(tmp_path: Path) -> None:
    rows, printed = run(tmp_path, "--backends", "local", "--only", "latency/true")
    assert {row["measure"] for row in rows} == {"latency/true (local)"}
    by_peer = {row["peer"]: row for row in rows}
    bound = by_peer["raw host shell"]
    assert bound["ours"] > 0
    assert bound["against"] > 0
    assert bound["ratio"] == pytest.approx(bound["against"] / bound["ours"], rel=1e-2)
    assert bound["samples"] == [8, 8]
    assert by_peer["SWE-ReX session"]["left_out"] == "docker is not in --backends"
    assert "left out: mini-swe-agent" in printed


def test_environments_of_the_local_back_end_cost_little_memory(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "--backends", "local", "--only", "memory")
    assert [row["peer"] for row in rows] == ["the limit of 1 MB"]
    assert rows[0]["ratio"] > 1


def test_ctrl_c_removes_everything(tmp_path: Path) -> None:
    """Also the sandboxes' folders, and the processes in them."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    arguments = command(tmp_path, "--backends", "local", "--only", "latency")
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    with process:
        while "latency/true" not in process.stdout.readline():
            assert process.poll() is None, process.stderr
        assert len(processes_with(f"TMPDIR={tmp_path}")) > 1
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    left = [path for path in tmp_path.rglob("swegym-*") if path.name != f"swegym-{os.getuid()}"]
    assert left == []
    assert processes_with(f"TMPDIR={tmp_path}") == []


def test_an_unknown_measure_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "--only", "speed"), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--only speed: measures begin with latency, reset, fork, rate, memory")


@pytest.mark.docker
def test_quick_run_over_docker_without_peers(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, "--backends", "docker", "--only", "latency/cat")
    by_peer = {row["peer"]: row for row in rows}
    assert {peer for peer, row in by_peer.items() if not row["left_out"]} == {
        "raw attached shell",
        "SDK exec_run",
        "docker exec",
    }
    assert "run with --install-peers" in by_peer["mini-swe-agent"]["left_out"]
    assert all(row["ratio"] > 0 for row in rows if not row["left_out"])
