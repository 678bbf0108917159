"""Every tool against a real sandbox."""

from __future__ import annotations

import pytest

from swegym.core.outcome import TestStatus
from swegym.core.registries import tools
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task, TaskLimits
from swegym.envs.tools.base import ToolResult, make_tools
from swegym.envs.tools.output import clip_middle
from swegym.envs.tools.pytest_run import parse_report


async def call(tool: str, sandbox: Sandbox, task: Task, body: str, **limits: float) -> ToolResult:
    return await make_tools((tool,))[tool].run(sandbox, task, body, TaskLimits.model_validate(limits))


def edit_body(path: str, search: str, replace: str) -> str:
    return f"{path}\n<<<<<<< SEARCH\n{search}\n=======\n{replace}\n>>>>>>> REPLACE"


# --- every tool -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tools.names())
def test_spec_of_every_registered_tool(name: str) -> None:
    tool = make_tools((name,))[name]
    properties = tool.spec.parameters["properties"]
    body = tool.spec.body_template.format(**{key: f"<{key}>" for key in properties})
    assert all(f"<{key}>" in body for key in properties), "an argument does not reach the body"
    assert set(tool.spec.parameters["required"]) <= set(properties)
    assert tool.spec.description
    assert tool.spec.body_format


# --- bash -------------------------------------------------------------------------------------------------------------


async def test_bash_state_persists_and_failures_show(sandbox: Sandbox, task: Task) -> None:
    assert (await call("bash", sandbox, task, "mkdir d && cd d && x=5")).text == ""
    result = await call("bash", sandbox, task, "echo $x; basename $PWD; false")
    assert (result.text, result.exit_code) == ("5\nd\n[exit code 1]", 1)


async def test_bash_timeout_keeps_partial_output(sandbox: Sandbox, task: Task) -> None:
    """rl-failures 138: output up to the limit was thrown away."""
    result = await call("bash", sandbox, task, "echo before; sleep 60", command_timeout_s=0.5)
    assert result.text.startswith("before\n[killed: time limit of 0.5 s")
    assert (result.exit_code, result.info) == (124, {"killed_by": "timeout"})


async def test_bash_says_how_much_output_is_gone(sandbox: Sandbox, task: Task) -> None:
    result = await call("bash", sandbox, task, "printf 'a%.0s' {1..1000}", observation_limit_bytes=256)
    assert result.truncated_bytes == 744
    assert result.text == "a" * 256 + "\n[744 bytes in the middle of the output were left out]"


async def test_bash_restart_is_told(sandbox: Sandbox, task: Task) -> None:
    result = await call("bash", sandbox, task, "cd /tmp; exit 3")
    assert result.text == "[exit code 3]\n[the shell ended and was started again]"
    assert (await call("bash", sandbox, task, "pwd")).text == "/tmp\n"


async def test_bash_refuses_nul(sandbox: Sandbox, task: Task) -> None:
    assert "NUL" in (await call("bash", sandbox, task, "echo a\0b")).text


# --- edit -------------------------------------------------------------------------------------------------------------


async def test_edit_shows_eight_lines_around(sandbox: Sandbox, task: Task) -> None:
    await sandbox.write_file("/testbed/a.py", b"".join(b"line %d\n" % n for n in range(1, 31)))
    result = await call("edit", sandbox, task, edit_body("a.py", "line 15", "one\ntwo"))
    first, *shown = result.text.split("\n")
    assert first == "Edited a.py at line 15; it has 31 lines now."
    assert [line.split("\t")[0].strip() for line in shown] == [str(n) for n in range(7, 25)]
    assert shown[8:11] == ["    15\tone", "    16\ttwo", "    17\tline 16"]
    assert result.exit_code == 0


async def test_edit_keeps_mode_and_follows_links(sandbox: Sandbox, task: Task) -> None:
    await sandbox.write_file("/testbed/run.sh", b"#!/bin/sh\necho a\n", mode=0o755)
    await sandbox.run("ln -s run.sh /testbed/link")
    await call("edit", sandbox, task, edit_body("/testbed/link", "echo a", "echo b"))
    assert (await sandbox.run("/testbed/run.sh; test -L /testbed/link && echo link")).text == "b\nlink\n"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (edit_body("nope.py", "a", "b"), "edit: there is no file nope.py."),
        (edit_body("folder", "a", "b"), "edit: folder is a folder."),
        (edit_body("", "a", "b"), "edit: the first line must be the path of the file."),
        (edit_body("a.py", "zz", "b"), "edit: the SEARCH part does not occur in a.py; it must be whole lines"),
        (
            edit_body("a.py", " x ", "b"),
            "edit: the SEARCH part does not occur in a.py; line 1 differs from it in white",
        ),
        (
            edit_body("a.py", "y", "b"),
            "edit: the SEARCH part occurs 2 times in a.py, at lines 2, 4; add lines around it.",
        ),
        (edit_body("a.py", "x", "x"), "edit: SEARCH and REPLACE are the same text"),
        ("a.py\n<<<<<<< SEARCH\n=======\nb\n>>>>>>> REPLACE", "edit: the SEARCH part is empty"),
        ("a.py\nx\ny", "edit: cannot parse the block: there is no line '<<<<<<< SEARCH'"),
        (edit_body("a.py", "x", "b") + "\n" + edit_body("", "y", "b"), "edit: there is more than one"),
    ],
)
async def test_edit_messages_are_distinct(sandbox: Sandbox, task: Task, body: str, message: str) -> None:
    await sandbox.write_file("/testbed/a.py", b"x\ny\nz\ny\n")
    await sandbox.run("mkdir /testbed/folder")
    result = await call("edit", sandbox, task, body)
    assert result.text.startswith(message)
    assert result.exit_code == 1
    assert await sandbox.read_file("/testbed/a.py") == b"x\ny\nz\ny\n"


async def test_edit_byte_exact_through_the_sandbox(sandbox: Sandbox, task: Task) -> None:
    before = b"\xef\xbb\xbfa\r\n\tb \r\n\xff\xfe\x00\r\nc"
    await sandbox.write_file("/testbed/mixed", before)
    await call("edit", sandbox, task, edit_body("mixed", "\tb ", "\tB"))
    assert await sandbox.read_file("/testbed/mixed") == b"\xef\xbb\xbfa\r\n\tB\r\n\xff\xfe\x00\r\nc"


async def test_edit_report_is_bounded(sandbox: Sandbox, task: Task) -> None:
    await sandbox.write_file("/testbed/min.js", b"a\n" + b"x" * 5000 + b"\n")
    result = await call("edit", sandbox, task, edit_body("min.js", "a", "b"), observation_limit_bytes=256)
    assert len(result.text) < 350
    assert result.truncated_bytes > 4000


async def test_edit_of_what_cannot_be_written_is_an_answer(sandbox: Sandbox, task: Task) -> None:
    release = (await sandbox.run("head -1 /proc/version")).text.rstrip("\n")
    result = await call("edit", sandbox, task, edit_body("/proc/version", release, "mine"))
    assert result.text.startswith("edit: cannot write /proc/version")
    assert await sandbox.is_healthy()


# --- create -----------------------------------------------------------------------------------------------------------


async def test_create_writes_and_ends_in_a_newline(sandbox: Sandbox, task: Task) -> None:
    result = await call("create", sandbox, task, "naïve file.txt\n\tä\n\nb")
    assert result.text == "Created naïve file.txt (3 lines)."
    assert await sandbox.read_file("/testbed/naïve file.txt") == "\tä\n\nb\n".encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a.py\nx", "create: a.py exists already (file)"),
        ("folder\nx", "create: folder exists already (folder)"),
        ("dangling\nx", "create: dangling exists already (dangling link)"),
        ("no/such/b.py\nx", "create: the folder of no/such/b.py does not exist"),
        ("b.py", "create: there is no content for b.py"),
        ("b.py\n", "create: there is no content for b.py"),
        ("\nx", "create: the first line must be the path"),
        ("b/\nx", "create: b/ names a folder"),
    ],
)
async def test_create_refusals(sandbox: Sandbox, task: Task, body: str, message: str) -> None:
    await sandbox.write_file("/testbed/a.py", b"old\n")
    await sandbox.run("mkdir folder; ln -s nowhere dangling; set -x")
    result = await call("create", sandbox, task, body)
    assert result.text.startswith(message)
    assert (await sandbox.run("set +x; cat a.py; ls")).text.endswith("old\na.py\ndangling\nfolder\n")


# --- pytest -----------------------------------------------------------------------------------------------------------

TESTS = b"""
import os, pytest
@pytest.fixture
def breaks_late():
    yield
    raise RuntimeError
def test_pass(): assert os.environ["FROM_SHELL"] == "1"
def test_fail(): print("PASSED t.py::test_fail"); assert 0
def test_teardown(breaks_late): pass
def test_setup(missing_fixture): pass
@pytest.mark.skip
def test_skip(): pass
@pytest.mark.xfail
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.parametrize("value", ["a b", "x - y"])
def test_ids(value): pass
"""


async def test_pytest_status_of_every_test(sandbox: Sandbox, task: Task) -> None:
    await sandbox.write_file("/testbed/t.py", TESTS)
    await sandbox.write_file("/testbed/test_broken.py", b"import nothing_such\n")
    await sandbox.run("export FROM_SHELL=1; mkdir -p sub; cd sub")
    result = await call("pytest", sandbox, task, "-q t.py\ntest_broken.py --continue-on-collection-errors")
    assert result.info["tests"] == {
        "test_broken.py": TestStatus.ERROR,
        "t.py::test_pass": TestStatus.PASSED,
        "t.py::test_fail": TestStatus.FAILED,
        "t.py::test_teardown": TestStatus.ERROR,
        "t.py::test_setup": TestStatus.ERROR,
        "t.py::test_skip": TestStatus.SKIPPED,
        "t.py::test_xfail": TestStatus.XFAIL,
        "t.py::test_xpass": TestStatus.XPASS,
        "t.py::test_ids[a b]": TestStatus.PASSED,
        "t.py::test_ids[x - y]": TestStatus.PASSED,
    }
    assert result.exit_code == 1
    assert result.text.endswith("1 failed, 4 passed, 1 skipped, 1 xfailed, 1 xpassed, 3 errors\n[exit code 1]")
    assert (await sandbox.run("basename $PWD; ls -A /testbed")).text.split() == [
        "sub", ".pytest_cache", "sub", "t.py", "test_broken.py",
    ]  # fmt: skip


async def test_pytest_killed_by_the_limit_keeps_what_it_had(sandbox: Sandbox, task: Task) -> None:
    await sandbox.write_file("/testbed/t.py", b"import time\ndef test_a(): pass\ndef test_b(): time.sleep(60)\n")
    result = await call("pytest", sandbox, task, "t.py", command_timeout_s=5)
    assert result.info == {
        "tests": {"t.py::test_a": TestStatus.PASSED, "t.py::test_b": TestStatus.TIMEOUT},
        "killed_by": "timeout",
    }
    assert result.exit_code == 124


async def test_pytest_with_bad_arguments(sandbox: Sandbox, task: Task) -> None:
    for body, code in (("--no-such-option", 4), ("-k 'unterminated", 2)):
        result = await call("pytest", sandbox, task, body)
        assert (result.info["tests"], result.exit_code) == ({}, code)
    assert (await sandbox.run("echo alive")).text == "alive\n"


def test_torn_report_lines_are_passed_over() -> None:
    report = b'["a", "setup", "passed", false]\n["a", "call", "passed", false]\n["a", "teardown", "pas'
    assert parse_report(report) == {"a": TestStatus.TIMEOUT}
    assert parse_report(b"") == {}


# --- submit -----------------------------------------------------------------------------------------------------------


async def test_submit_without_a_path_means_the_work_tree(sandbox: Sandbox, task: Task) -> None:
    result = await call("submit", sandbox, task, "")
    assert (result.terminated, result.submission) == (True, None)


async def test_submit_of_a_patch_file_is_byte_exact(sandbox: Sandbox, task: Task) -> None:
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\r\n+ä\r\n\n"
    await sandbox.write_file("/testbed/out.patch", patch.encode())
    result = await call("submit", sandbox, task, " out.patch\n")
    assert (result.terminated, result.submission) == (True, patch)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.patch", "submit: there is no file missing.patch."),
        ("empty.patch", "submit: empty.patch is empty."),
        ("prose.patch", "submit: prose.patch does not start with 'diff'"),
        ("latin.patch", "submit: latin.patch is not UTF-8"),
        ("/testbed", "submit: cannot read /testbed"),
        ("a\nb", "submit: give one path, on one line."),
    ],
)
async def test_submit_refusals_do_not_end_the_episode(sandbox: Sandbox, task: Task, path: str, message: str) -> None:
    await sandbox.write_file("/testbed/empty.patch", b"")
    await sandbox.write_file("/testbed/prose.patch", b"Here is my diff\n")
    await sandbox.write_file("/testbed/latin.patch", b"diff --git a/x b/x\n+caf\xe9\n")
    result = await call("submit", sandbox, task, path)
    assert result.text.startswith(message)
    assert not result.terminated


# --- text -------------------------------------------------------------------------------------------------------------


def test_clip_middle_by_hand() -> None:
    assert clip_middle(b"abc", 3) == ("abc", 0)
    assert clip_middle(b"1111\n2222\n3333\n4444\n", 10) == ("1111\n[10 bytes left out]\n4444\n", 10)
    assert clip_middle(b"x" * 11, 4) == ("xx\n[7 bytes left out]\nxx", 7)
