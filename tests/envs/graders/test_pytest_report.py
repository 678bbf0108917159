"""Reading the runner's report: hand-written bytes in, statuses and suspicions out."""

from __future__ import annotations

import pytest

from swegym.core.errors import TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import ExecResult, KilledBy
from swegym.envs.graders.pytest_run import PytestReport, parse_report, split_test_command, time_limits_s

TOKEN = "c0ffee"


def parse(*lines: str, exit_code: int = 1, killed_by: KilledBy | None = None) -> PytestReport:
    text = "".join(line + "\n" for line in lines).replace("T ", f"{TOKEN} ")
    return parse_report(ExecResult(text.encode(), exit_code, 0.5, killed_by=killed_by), TOKEN)


def test_an_honest_report() -> None:
    report = parse('T ids ["a.py::x", "a.py::y[b c]"]', "T test 0 passed 12", "T test 1 error 3", "T end 1")
    assert report.statuses == {"a.py::x": TestStatus.PASSED, "a.py::y[b c]": TestStatus.ERROR}
    assert report.durations_s == {"a.py::x": 0.012, "a.py::y[b c]": 0.003}
    assert report.ended
    assert report.suspicions == ()


@pytest.mark.parametrize(
    ("lines", "exit_code", "suspicion"),
    [
        (["T ids []", "PASSED a.py::x", "T end 1"], 1, "foreign_report_line"),
        (['T ids ["a"]', "T test 0 passed 1", "T test 0 failed 1", "T end 1"], 1, "result_reported_twice"),
        (['T ids ["a"]', "T test 7 passed 1", "T end 1"], 1, "foreign_report_line"),
        (['T ids ["a"]', "T test 0 splendid 1", "T end 1"], 1, "foreign_report_line"),
        (["T ids ]", "T end x", "T nonsense"], 1, "foreign_report_line"),
        (['T ids ["a"]', "T notice tests_out_of_order 3", "T end 1"], 1, "tests_out_of_order 3"),
        (['T ids ["a"]', 'T ids ["b"]', "T end 1"], 1, "collected_twice"),
        (["T ids []", "T end 1"], 0, "exit_code_differs"),
    ],
)
def test_suspicions(lines: list[str], exit_code: int, suspicion: str) -> None:
    assert parse(*lines, exit_code=exit_code).suspicions == (suspicion,)


def test_no_end_is_no_end() -> None:
    assert not parse('T ids ["a"]', "T test 0 passed 1", exit_code=0).ended


def test_a_killed_run_may_end_in_half_a_line() -> None:
    report = parse('T ids ["a"]', "c0ff", exit_code=124, killed_by="timeout")
    assert report.suspicions == ()
    assert report.killed_by == "timeout"


@pytest.mark.parametrize(
    ("reason", "waiting_s", "killed_by", "is_starved"),
    [
        ("cpu", 9.0, "timeout", False),
        ("wall", 1.0, "timeout", False),
        ("wall", 9.0, "timeout", True),
        ("stop", 9.0, None, False),
    ],
)
def test_ends_by_the_runner(reason: str, waiting_s: float, killed_by: str | None, is_starved: bool) -> None:
    usage = f'T usage {{"cpu_s": 1.0, "waiting_s": {waiting_s}, "wall_s": 10.0}}'
    report = parse("T ids []", f"T killed {reason}", usage, exit_code=137)
    assert (report.killed_by, report.is_starved, report.suspicions) == (killed_by, is_starved, ())


def test_what_a_gold_patch_may_excuse_is_kept_apart() -> None:
    report = parse(
        'T ids ["a"]', "T notice outcome_rewritten a", "T notice patched x.y", "T test 0 passed 1", "T end 1"
    )
    assert report.deviations == ("outcome_rewritten a", "patched x.y")
    assert report.suspicions == ()


@pytest.mark.parametrize(
    ("baseline_s", "timeout_s", "expected"),
    [(0.3, 300.0, (3.0, 14.0)), (2.0, 300.0, (11.0, 38.0)), (10.0, 30.0, (30.0, 30.0)), (0.0, 60.0, (60.0, 60.0))],
)
def test_time_limits(baseline_s: float, timeout_s: float, expected: tuple[float, float]) -> None:
    assert time_limits_s(baseline_s, timeout_s) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m pytest -o addopts=", (["python"], ["-o", "addopts="])),
        ("python3.11 -m pytest", (["python3.11"], [])),
        ("/opt/python -bb -W ignore -m pytest -x", (["/opt/python", "-bb", "-W", "ignore"], ["-x"])),
        ("pytest -k 'a or b'", (["python"], ["-k", "a or b"])),
    ],
)
def test_split_test_command(command: str, expected: tuple[list[str], list[str]]) -> None:
    assert split_test_command(command) == expected


@pytest.mark.parametrize("command", ["tox", "python runtests.py", "pytest 'x", ""])
def test_other_test_commands_are_refused(command: str) -> None:
    with pytest.raises(TaskError, match="test command"):
        split_test_command(command)
