"""Log parsers against what real runners print, with the traps that public parsers fall into (swe-failures B)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swegym.core.errors import UnknownName
from swegym.core.outcome import TestStatus as Status
from swegym.envs.graders.log_parsers import PARSERS, match_ids, parse_log
from swegym.envs.graders.log_parsers.registry import parser_name

PASSED, FAILED, ERROR, SKIPPED = Status.PASSED, Status.FAILED, Status.ERROR, Status.SKIPPED
XFAIL, XPASS, MISSING = Status.XFAIL, Status.XPASS, Status.MISSING
DATA = Path(os.environ.get("SWEGYM_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))

NASTY = """
import sys
import pytest

@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError("td")

@pytest.fixture
def bad_setup():
    raise RuntimeError("su")

@pytest.mark.parametrize("x", ["a b", "a - b", "[x] y", "c"])
def test_ids(x):
    print("FAILED test_nasty.py::test_plain - forged")
    print("PASSED test_nasty.py::test_wrong")

@pytest.mark.parametrize("x", ["a b", "a - b", "] - ["])
def test_fail_ids(x):
    print("test_nasty.py::test_wrong PASSED")
    assert x == 0, "a - message - with - dashes"

def test_plain():
    print("=========== short test summary info ===========")
    print("PASSED test_nasty.py::test_wrong")
    print("===== 1 passed in 0.01s =====")

def test_wrong():
    print("PASSED")
    raise AssertionError("two\\nlines - PASSED test_nasty.py::test_wrong")

def test_teardown(bad_teardown):
    pass

def test_setup(bad_setup):
    pass

@pytest.mark.xfail(reason="known - bug")
def test_xfail():
    assert False

@pytest.mark.xfail(run=False, reason="never")
def test_norun():
    pass

@pytest.mark.xfail(reason="thought - so")
def test_xpass():
    pass

def test_PASSED_in_name():
    assert False

def test_skip():
    pytest.skip("no - reason")

def test_bytes():
    sys.stdout.buffer.write(b"\\xff\\xfe caf\\xe9")
"""
EXPECTED = {
    "test_ids[a b]": PASSED,
    "test_ids[a - b]": PASSED,
    "test_ids[[x] y]": PASSED,
    "test_ids[c]": PASSED,
    "test_fail_ids[a b]": FAILED,
    "test_fail_ids[a - b]": FAILED,
    "test_fail_ids[] - []": FAILED,
    "test_plain": PASSED,
    "test_wrong": FAILED,
    "test_teardown": ERROR,
    "test_setup": ERROR,
    "test_xfail": XFAIL,
    "test_norun": XFAIL,
    "test_xpass": XPASS,
    "test_PASSED_in_name": FAILED,
    "test_bytes": PASSED,
}


def run(folder: Path, *arguments: str, text: str = NASTY, name: str = "test_nasty.py") -> bytes:
    (folder / name).write_text(text)
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "80", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, env=environment, timeout=120, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("options", [["-rA"], ["-rA", "--color=yes"], ["-rA", "-v"], ["-rA", "-v", "--tb=no"]])
def test_pytest_summary_is_read_as_pytest_meant_it(tmp_path: Path, options: list[str]) -> None:
    """B1 (blanks), B2 (teardown, XPASS, NOTRUN, dashes), B9 (colour), B15, B18, B19 (printed lines), B21 (bytes)."""
    log = run(tmp_path, "pytest", "-p", "no:cacheprovider", *options, "test_nasty.py")
    parsed = parse_log("pytest", log)
    expected = {f"test_nasty.py::{name}": status for name, status in EXPECTED.items()}
    found = dict(parsed.statuses)
    if "-v" not in options:
        # Nothing in a summary line tells `t[] - []` from `t[]` with a message: the id is missing, and never passed.
        assert found.pop("test_nasty.py::test_fail_ids[]") is FAILED
        del expected["test_nasty.py::test_fail_ids[] - []"]
    skipped = found.pop("test_nasty.py::test_skip", SKIPPED)  # without -v the summary folds skips: no ids
    assert found == expected
    assert skipped is SKIPPED
    assert parsed.ended
    assert parsed.problems == []


def test_progress_lines_serve_where_there_is_no_summary(tmp_path: Path) -> None:
    """SWE-smith runs `pytest --verbose --tb=no` and reads nothing else."""
    text = "def test_a():\n    print('test_p.py::test_b PASSED')\n\ndef test_b():\n    assert 0\n"
    log = run(tmp_path, "pytest", "-p", "no:cacheprovider", "--tb=no", "-v", "test_p.py", text=text, name="test_p.py")
    assert parse_log("pytest", log).statuses == {"test_p.py::test_a": PASSED, "test_p.py::test_b": FAILED}


def test_a_run_that_was_cut_off_has_not_ended(tmp_path: Path) -> None:
    log = run(tmp_path, "pytest", "-p", "no:cacheprovider", "-rA", "test_nasty.py").decode("utf-8", "replace")
    assert not parse_log("pytest", log[: log.rindex("\n====")]).ended


def test_more_results_than_pytest_counted_contradict_it() -> None:
    """C7: lines printed behind the summary's title."""
    log = "== short test summary info ==\nPASSED a.py::test_a\nPASSED a.py::test_b\n=== 1 passed in 0.01s ===\n"
    assert parse_log("pytest", log).problems == ["2 passed listed, 1 counted"]


@pytest.mark.parametrize("line", ["PASSED", "PASSED [100%]", "SKIPPED [1] a.py:3: why", "FAILED", "."])
def test_a_status_without_an_id_is_no_test(line: str) -> None:
    """B6 and B7."""
    log = f"== short test summary info ==\n{line}\n== 1 passed in 0.01s ==\n"
    assert parse_log("pytest", log).statuses == {}


def test_old_and_parallel_progress_lines() -> None:
    log = "a.py::test_a[x y] PASSED   [ 50%]\n[gw1] [ 60%] FAILED a.py::test_b\na.py::test_c SKIPPED (why)   [ 70%]\n"
    log += "FAIL a.py::test_d\n"
    expected = {"a.py::test_a[x y]": PASSED, "a.py::test_b": FAILED, "a.py::test_c": SKIPPED, "a.py::test_d": FAILED}
    assert parse_log("pytest", log).statuses == expected


def test_an_old_pytest_gives_reasons_without_a_dash() -> None:
    log = "== short test summary info ==\nXPASS a.py::test_a always fails\nXPASS a.py::test_b[x y] here\n"
    log += "XFAIL a.py::test_c\n  reason\n== 1 xfailed, 2 xpassed in 0.10 seconds ==\n"
    parsed = parse_log("pytest", log)
    assert parsed.statuses == {"a.py::test_a": XPASS, "a.py::test_b[x y]": XPASS, "a.py::test_c": XFAIL}
    assert parsed.ended


def test_ids_that_a_data_set_cut_stand_for_all_that_they_could_mean() -> None:
    """B1 and B4: the worst of the siblings counts, whatever their order."""
    statuses = {
        "t[a b]": PASSED,
        "t[a c]": FAILED,
        "t[d e]": PASSED,
        "t[f g]": SKIPPED,
        "t[f h]": FAILED,
        "t[ab]": FAILED,
    }
    found = match_ids(["t[a", "t[d", "t[f", "t[zz", "t[d e]"], statuses)
    assert found == {"t[a": FAILED, "t[d": PASSED, "t[f": FAILED, "t[zz": MISSING, "t[d e]": PASSED}
    assert match_ids(["t[a"], dict(reversed(statuses.items()))) == {"t[a": FAILED}


def test_ids_that_a_data_set_rewrote() -> None:
    """Paths cut to their last part (requests, pylint), members as numbers (matplotlib), stray blanks (B12)."""
    statuses = {"t[/tmp/a/b.py]": PASSED, "u[MouseButton.LEFT-x]": FAILED, "v": PASSED, "w[//a/b]": PASSED}
    found = match_ids(["t[/b.py]", "u[1-x]", "v ", "w[/b]"], statuses)
    assert found == {"t[/b.py]": PASSED, "u[1-x]": FAILED, "v ": PASSED, "w[/b]": MISSING}


UNITTEST = '''
import sys
import unittest

class Good(unittest.TestCase):
    def test_plain(self): pass
    def test_doc(self):
        """What it is for."""
    def test_wrong_doc(self):
        """Another."""
        self.fail()
    def test_noise(self):
        sys.stderr.write("some output\\n")
    def test_broken(self): raise RuntimeError
    @unittest.skip("why")
    def test_skip(self): pass
    @unittest.expectedFailure
    def test_xfail(self): self.fail()
    @unittest.expectedFailure
    def test_xpass(self): pass
    def test_sub(self):
        for i in range(2):
            with self.subTest(i=i):
                self.assertEqual(i, 0)

class Bad(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError
    def test_never(self): pass
'''


def test_unittest_output_as_django_prints_it(tmp_path: Path) -> None:
    """B13: docstrings stand for their own test, and swallow no neighbour."""
    parsed = parse_log("django", run(tmp_path, "unittest", "-v", "test_u", text=UNITTEST, name="test_u.py"))
    names = {"plain": PASSED, "doc": PASSED, "wrong_doc": FAILED, "noise": PASSED, "broken": ERROR, "skip": SKIPPED}
    names |= {"xfail": XFAIL, "xpass": XPASS, "sub": FAILED}
    ids = [f"test_{name} (test_u.Good)" for name in names]
    assert match_ids(ids, parsed.statuses) == dict(zip(ids, names.values(), strict=True))
    assert parsed.statuses["What it is for."] is PASSED
    assert parsed.statuses["Another."] is FAILED
    assert not any("test_never" in key for key in parsed.statuses)
    assert parsed.ended
    assert parsed.problems == []


def test_django_results_that_other_output_interrupts() -> None:
    log = (
        "test_a (m.C) ... Testing against Django installed in '/x' silenced.\nok\n"
        "test_b (m.C) ... System check identified no issues (0 silenced).\nok\n"
        "  Applying sites.0002_alter_domain_unique...test_c (m.C) ... ok\n"
        "test_d (m.C) ... FAIL\ntest_e (m.C)\nDoc ... with dots ... ok\n"
        "======================================================================\nFAIL: test_d (m.C)\n"
        "Ran 5 tests in 1.0s\n\nFAILED (failures=1)\n"
    )
    parsed = parse_log("django", log)
    ids = [f"test_{name} (m.C)" for name in "abcde"]
    assert match_ids(ids, parsed.statuses) == dict(zip(ids, [PASSED, PASSED, PASSED, FAILED, PASSED], strict=True))


def test_results_printed_into_a_unittest_log_contradict_its_count() -> None:
    log = "test_a (m.C) ... ok\ntest_b (m.C) ... ok\nRan 1 test in 0.1s\nOK\n"
    assert parse_log("unittest", log).problems == ["2 results listed, 1 tests ran"]


SAMPLES = {
    "sympy": (
        "sympy/core/tests/test_a.py[4]\ntest_g F\ntest_a ok\ntest_b F\ntest_c E\ntest_d f\ntest_e s   [FAIL]\n"
        "sympy/core/tests/test_b.py[1]\ntest_g ok   [OK]\n"
        "______ sympy/core/tests/test_b.py:test_a ______\n"
        "==== tests finished: 1 passed, 1 failed, in 0.1 seconds ====\n",
        {"test_g": FAILED, "test_a": FAILED, "test_b": FAILED, "test_c": ERROR, "test_d": XFAIL, "test_e": SKIPPED},
    ),
    "go": (
        "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- FAIL: TestA/with_(x) (0.10s)\n--- SKIP: TestB (0.00s)\n"
        "FAIL\tpkg\t0.1s\n",
        {"TestA": PASSED, "TestA/with_(x)": FAILED, "TestB": SKIPPED},
    ),
    "cargo": (
        "test a::b ... ok\ntest src/lib.rs - f (line 3) ... FAILED\ntest c ... ignored, slow\n"
        "test result: FAILED. 1 passed; 1 failed\n",
        {"a::b": PASSED, "src/lib.rs - f (line 3)": FAILED, "c": SKIPPED},
    ),
    "jest": (
        "  suite\n    ✓ adds numbers (5 ms)\n    ✕ fails (1.2 s)\n    ○ skipped later\n"
        "Tests:       1 failed, 2 total\n",
        {"adds numbers": PASSED, "fails": FAILED, "later": SKIPPED},
    ),
    "vitest": (
        " ✓ src/a.test.ts > suite > works 3ms\n × src/a.test.ts > suite > breaks\n"
        "      Tests  1 failed | 1 passed (2)\n",
        {"src/a.test.ts > suite > works": PASSED, "src/a.test.ts > suite > breaks": FAILED},
    ),
    "mocha": (
        "  Array\n    ✔ works (12ms)\n    1) breaks\n\n  1 passing (10ms)\n  1 failing\n\n  1) Array\n       breaks:\n",
        {"works": PASSED, "breaks": FAILED},
    ),
    "tap": (
        "ok 1 - a\nnot ok 2 - b\nok 3 - c # SKIP no\nnot ok 4 - d # TODO later\n1..4\n",
        {"a": PASSED, "b": FAILED, "c": SKIPPED, "d": XFAIL},
    ),
    "gradle": (
        "com.A > a() PASSED\ncom.A > b()\nWARNING: x\nFAILED\ncom.A > c SKIPPED\nBUILD FAILED in 3s\n",
        {"com.A > a()": PASSED, "com.A > b()": FAILED, "com.A > c": SKIPPED},
    ),
    "maven": (
        "+ mvn -Dtest=A#a test\n[INFO] BUILD SUCCESS\n+ mvn -Dtest=A#b test\n[INFO] BUILD FAILURE\n",
        {"A#a": PASSED, "A#b": FAILED},
    ),
    "ant": ("  [junit] [PASS] a.B\n  [junit] [ERR] a.C\nBUILD FAILED\n", {"a.B": PASSED, "a.C": ERROR}),
    "r2e": (
        "== short test summary info ==\nPASSED r2e_tests/test_1.py::TestA::test_b[x::y]\n== 1 passed in 0.1s ==\n",
        {"TestA.test_b[x::y]": PASSED},
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_other_runners(name: str) -> None:
    log, expected = SAMPLES[name]
    parsed = parse_log(name, log)
    assert {key: status for key, status in parsed.statuses.items() if key in expected} == expected
    assert parsed.ended


def test_every_name_that_swebench_uses_for_pytest_is_known() -> None:
    assert parser_name("parse_log_pytest_v2") == parser_name("parse_log_matplotlib") == "pytest"
    assert parser_name("parse_log_gotest") == "go"
    assert parser_name("parse_log_nobody") == ""
    assert set(SAMPLES) | {"pytest", "unittest", "django"} == set(PARSERS)
    with pytest.raises(UnknownName):
        parse_log("nobody", "")


@pytest.mark.skipif(not (DATA / "swesmith_logs").is_dir(), reason="needs the shared data")
def test_logs_of_swe_smith_are_read_as_its_reports_say() -> None:
    import json

    folder = DATA / "swesmith_logs"
    compared = 0
    for run_name in ("getmoto__moto.694ce1f4.pr_7331", "pandas-dev__pandas.95280573.pr_53652"):
        place = folder / "run_evaluation" / run_name
        report = json.loads((place / "report.json").read_text())["tests_status"]
        parsed = parse_log("pytest", (place / "test_output.txt").read_bytes())
        for kind in ("FAIL_TO_PASS", "PASS_TO_PASS"):
            assert set(match_ids(report[kind]["success"], parsed.statuses).values()) == {PASSED}
            compared += len(report[kind]["success"])
    report = json.loads((folder / "run_validation" / "report.json").read_text())
    broken = parse_log("pytest", (folder / "run_validation" / "test_output.txt").read_bytes())
    sound = parse_log("pytest", (folder / "run_validation" / "test_output_pre_gold.txt").read_bytes())
    assert set(match_ids(report["FAIL_TO_PASS"], broken.statuses).values()) == {FAILED}
    assert set(match_ids(report["FAIL_TO_PASS"] + report["PASS_TO_PASS"], sound.statuses).values()) == {PASSED}
    assert compared == 221
    (money,) = (folder / "test_output").glob("*.txt")
    parsed = parse_log("pytest", money.read_bytes())
    counts = [list(parsed.statuses.values()).count(status) for status in (FAILED, PASSED, SKIPPED)]
    assert counts == [9, 420, 1]  # pytest counted two skips; one is a whole module, which has no id
