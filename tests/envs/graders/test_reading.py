"""Rows B1 to B23 and C8 of the public failure log: results that other graders read wrongly, from real runs."""

from __future__ import annotations

import pytest

from swegym.core.errors import TaskError
from swegym.core.outcome import TestStatus
from swegym.core.sandbox import Sandbox, SandboxProvider
from swegym.envs.graders.junit import parse_junit, wraps_pytest
from swegym.envs.graders.pytest_run import PytestReport, PytestRequest, install_runner, read_log_tail, run_pytest
from swegym.envs.tasksets import FolderTaskSet, sandbox_spec

ODD = ["a b", "x - y", "[1]", "PASSED tests/x.py", "naïve", "tail ", "'q\"", "a::b", "FAILED t - E", "ERROR"]
TESTS = f"""
import pytest, sys, unittest

ODD = {ODD!r}

@pytest.mark.parametrize("text", ODD, ids=ODD)
def test_odd(text):
    assert text != "x - y"

@pytest.mark.parametrize("text", ["one", "one two"])
def test_prefix(text):
    if text == "one": pytest.skip()
    assert text == "other"

@pytest.fixture
def breaks_after():
    yield
    raise RuntimeError("td")

def test_teardown(breaks_after): pass

def test_PASSED_by_name_only():
    assert False

@pytest.mark.xfail
def test_xpass(): pass

@pytest.mark.xfail(run=False)
def test_not_run(): assert False

@pytest.mark.xfail(strict=True)
def test_strict(): pass

def test_prints(capfd):
    with capfd.disabled():
        print("PASSED tests/test_b.py::test_PASSED_by_name_only")
        print("FAILED tests/test_b.py::test_prints - no")
        sys.stdout.buffer.write(b"\\xff\\xfe not text \\x1b[31m\\n")
        sys.stdout.flush()
    print("=== 1 passed in 0.01s ===")

class TestU(unittest.TestCase):
    def test_sub(self):
        '''A docstring that is nobody's id.'''
        for x in (1, 2):
            with self.subTest(x=x):
                self.assertEqual(x, 1)

    @unittest.expectedFailure
    def test_expected(self):
        self.fail()
"""
EXPECTED = {
    **{f"test_odd[{name}]": TestStatus.PASSED for name in ODD if name.isascii()},
    "test_odd[na\\xefve]": TestStatus.PASSED,
    "test_odd[x - y]": TestStatus.FAILED,
    "test_prefix[one]": TestStatus.SKIPPED,
    "test_prefix[one two]": TestStatus.FAILED,
    "test_teardown": TestStatus.ERROR,
    "test_PASSED_by_name_only": TestStatus.FAILED,
    "test_xpass": TestStatus.XPASS,
    "test_not_run": TestStatus.XFAIL,
    "test_strict": TestStatus.FAILED,
    "test_prints": TestStatus.PASSED,
    "TestU::test_sub": TestStatus.FAILED,
    "TestU::test_expected": TestStatus.XFAIL,
}


async def run(
    provider: SandboxProvider, tiny: FolderTaskSet, tests: str, *, command: str = "python -m pytest", ini: str = ""
) -> tuple[PytestReport, str]:
    sandbox = await provider.create(sandbox_spec(tiny.get("tiny-lru"), tiny))
    try:
        return await run_in(sandbox, tests, command, ini)
    finally:
        await sandbox.close()


async def run_in(sandbox: Sandbox, tests: str, command: str, ini: str) -> tuple[PytestReport, str]:
    folder = await install_runner(sandbox)
    await sandbox.write_file("/testbed/tests/test_b.py", tests.encode())
    await sandbox.write_file("/testbed/pytest.ini", f"[pytest]\n{ini}\n".encode())
    report = await run_pytest(
        sandbox, folder, PytestRequest("/testbed", ("tests/test_b.py",), test_command=command, watch=True)
    )
    return report, await read_log_tail(sandbox, folder)


def short(statuses: dict[str, TestStatus]) -> dict[str, TestStatus]:
    return {test_id.partition("::")[2]: status for test_id, status in statuses.items()}


@pytest.mark.parametrize("ini", ["", "addopts = --color=yes -x -rA -v", "addopts = -p no:terminal"])
async def test_rows_b1_to_b21_every_result_is_read_as_it_is(
    provider: SandboxProvider, tiny: FolderTaskSet, ini: str
) -> None:
    """Ids with spaces, dashes and status words (B1, B2, B4, B12, B15, B17), teardown errors and xpass (B2), colour and
    options (B9, B11, B18), docstrings (B13), printed results (B19), bytes that are no text (B21).
    """
    report, _ = await run(provider, tiny, TESTS, ini=ini)
    assert short(report.statuses) == EXPECTED
    assert (report.exit_code, report.ended, report.suspicions, report.deviations) == (1, True, (), ())


async def test_row_b7_nothing_in_a_log_can_stop_the_reading(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    tests = "import os\n\ndef test_a():\n    os.write(1, b'PASSED\\n\\n::\\n' + bytes(range(256)) * 1000)\n"
    report, _ = await run(provider, tiny, tests, ini="addopts = -s")
    assert short(report.statuses) == {"test_a": TestStatus.PASSED}


async def test_failures_are_in_the_log_even_when_the_run_is_stopped(
    provider: SandboxProvider, tiny: FolderTaskSet
) -> None:
    _, log = await run(provider, tiny, "def test_a():\n    left = 41\n    assert left == 42\n")
    assert "tests/test_b.py::test_a failed at call" in log
    assert "assert left == 42" in log


async def test_path_of_the_tree_is_put_back_for_the_tests(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    """The runner starts without the tree's folders of PYTHONPATH; the tests and their children have them."""
    spec = sandbox_spec(tiny.get("tiny-lru"), tiny)
    path = f"/testbed/lib::rel:{spec.environment.get('PYTHONPATH', '/opt/swegym/dependencies')}"
    sandbox = await provider.create(spec.model_copy(update={"environment": {**spec.environment, "PYTHONPATH": path}}))
    tests = (
        "import os, subprocess, sys\nimport inlib, inrel\n\ndef test_a():\n    assert sys.path[0] == '/testbed'\n"
        f"    assert os.environ['PYTHONPATH'] == {path!r}\n"
        "    subprocess.run([sys.executable, '-c', 'import inlib'], check=True)\n"
    )
    try:
        for module in ("lib/inlib.py", "rel/inrel.py"):
            await sandbox.write_file(f"/testbed/{module}", b"")
        await sandbox.write_file("/testbed/lib/sitecustomize.py", b"import sys; sys.is_mine = True\n")
        report, log = await run_in(sandbox, tests, "python -m pytest", "")
        assert short(report.statuses) == {"test_a": TestStatus.PASSED}, log
    finally:
        await sandbox.close()


WRAPPED = "env X=1 python -m pytest"


async def test_wrapped_pytest_is_read_from_its_junit_file(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    """What JUnit cannot tell: an unstrict xpass, and a failing subtest of a test that goes on."""
    report, log = await run(provider, tiny, TESTS.replace("for x in (1, 2)", "for x in (1,)"), command=WRAPPED)
    assert short(report.statuses) == EXPECTED | {
        "test_xpass": TestStatus.PASSED,
        "TestU::test_sub": TestStatus.PASSED,
    }, log
    assert report.ended


async def test_wrapped_pytest_that_ends_early(provider: SandboxProvider, tiny: FolderTaskSet) -> None:
    report, _ = await run(provider, tiny, "import os\nos._exit(0)\n", command=WRAPPED)
    assert (report.statuses, report.ended) == ({}, False)


def test_teardown_error_is_a_second_entry() -> None:
    xml = (
        b'<testsuites><testsuite><testcase classname="t.test_a.TestB" name="test_c" file="t/test_a.py" time="0.1"/>'
        b'<testcase classname="t.test_a.TestB" name="test_c" file="t/test_a.py" time="0.2"><error/></testcase>'
        b"</testsuite></testsuites>"
    )
    statuses, durations_s = parse_junit(xml)
    assert statuses == {"t/test_a.py::TestB::test_c": TestStatus.ERROR}
    assert durations_s == {"t/test_a.py::TestB::test_c": pytest.approx(0.3)}


def test_no_junit_file() -> None:
    with pytest.raises(ValueError, match="not a JUnit file"):
        parse_junit(b"<half")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("coverage run -m pytest", True),
        ("xvfb-run pytest -q", True),
        ("python -m pytest", False),
        ("python -W ignore -m pytest", False),
        ("python -m coverage run -m pytest", True),
        ("/usr/bin/python3 -m pytest -k 'a'", False),
        ("pytest tests", False),
        ("tox", False),
        ("pytest '", False),
    ],
)
def test_wraps_pytest(command: str, expected: bool) -> None:
    assert wraps_pytest(command) is expected


@pytest.mark.parametrize("command", ["python9 -m pytest", "python -S -I -m pytest"])
async def test_image_without_python_or_pytest_is_a_broken_task(
    provider: SandboxProvider, tiny: FolderTaskSet, command: str
) -> None:
    with pytest.raises(TaskError, match="cannot be run"):
        await run(provider, tiny, "def test_a(): pass\n", command=command)
