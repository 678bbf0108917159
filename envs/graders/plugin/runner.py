"""Runs pytest inside a sandbox and reports each test's status on a pipe. Stands alone: imports nothing of swegym.

    python runner.py CONFIG 3>&1 >LOG 2>&1

CONFIG (JSON) is read and removed before any code of the tree runs. The report goes to file descriptor 3, which leads
out of the sandbox, so what was written cannot be taken back. Every line starts with a token that only CONFIG held:

    TOKEN ids ["tests/test_a.py::test_x", ...]     what was collected, after deselection
    TOKEN test INDEX STATUS MILLISECONDS           after the teardown of each test
    TOKEN rewritten INDEX                          a hook turned an exception into a pass
    TOKEN end EXIT_CODE

Written for any Python from 3.7 on and any pytest from 6 on: it runs in other people's images.
"""

# ruff: noqa: PTH108, PTH123, UP032 - the old ways, for old Pythons and a quick start

import fcntl
import json
import os
import sys

REPORT_FD = 3


class Reporter:
    """The pytest plugin. Status of a test: the worst of its three phases; a failing teardown is an error."""

    def __init__(self, write, roots, required, stop, pytest):
        self._write = write
        self._roots = roots
        self._required = frozenset(required)
        self._stop = stop  # "test": after the first required test that did not pass; "file"; "never"
        self._indices = {}
        self._status = {}
        self._duration_s = {}
        self._failed_file = None
        hook = pytest.hookimpl
        # Marks are put here and not by decorators, because pytest is imported only once the path is clean.
        for function, marks in (
            (Reporter.pytest_load_initial_conftests, {"tryfirst": True}),
            (Reporter.pytest_collection_modifyitems, {"trylast": True}),
            (Reporter.pytest_runtestloop, {"tryfirst": True}),
            (Reporter.pytest_runtest_makereport, {"hookwrapper": True, "tryfirst": True}),
            (Reporter.pytest_runtest_logreport, {"tryfirst": True}),
            (Reporter.pytest_runtest_logfinish, {"trylast": True}),
        ):
            hook(**marks)(function)

    def pytest_load_initial_conftests(self):
        # As `python -m pytest` does, but only when pytest and all its plugins are loaded: a `random.py` or `pytest.py`
        # of the tree cannot take the place of something that they import.
        sys.path[:0] = self._roots

    def pytest_collection_modifyitems(self, session, items):
        self._session = session
        self._indices = {item.nodeid: index for index, item in enumerate(items)}
        self._write("ids", json.dumps([item.nodeid for item in items]))

    def pytest_runtestloop(self, session):
        if self._stop == "test" and not self._required <= self._indices.keys():
            return True  # a required test is missing: nothing that runs can change the result
        return None

    def pytest_runtest_makereport(self, item, call):
        result = yield
        report = result.get_result()
        index = self._indices.get(item.nodeid, -1)
        self._duration_s[index] = self._duration_s.get(index, 0.0) + call.duration
        if call.excinfo is not None and report.outcome == "passed":
            self._write("rewritten", str(index))
        self._merge(index, self._phase_status(report))

    def pytest_runtest_logreport(self, report):
        # Subtests are reported here only; one that fails makes its test fail.
        if type(report).__name__ in ("SubTestReport", "SubtestReport") and report.outcome == "failed":
            self._merge(self._indices.get(report.nodeid, -1), "failed")

    def pytest_runtest_logfinish(self, nodeid):
        index = self._indices.get(nodeid, -1)
        status = self._status.get(index, "missing")
        self._write("test", "{} {} {:.0f}".format(index, status, 1000 * self._duration_s.get(index, 0.0)))
        if self._stop == "never":
            return
        file = nodeid.split("::")[0]
        if self._failed_file not in (None, file):
            self._session.shouldstop = "a test of an earlier file did not pass"
        if nodeid in self._required and status != "passed":
            self._failed_file = file
            if self._stop == "test":
                self._session.shouldstop = "a required test did not pass"

    @staticmethod
    def _phase_status(report):
        is_xfail = hasattr(report, "wasxfail")
        if report.outcome == "passed":
            return "xpass" if is_xfail and report.when == "call" else "passed"
        if report.outcome == "skipped":
            return "xfail" if is_xfail else "skipped"
        return "failed" if report.when == "call" else "error"

    def _merge(self, index, status):
        order = ("passed", "xpass", "xfail", "skipped", "failed", "error")
        before = self._status.get(index, "passed")
        self._status[index] = max(before, status, key=order.index)


def start_coverage(root, path):
    """Record the lines of the tree that run, as JSON file -> lines; what it returns stops and writes."""
    if not path:
        return lambda: None
    import coverage

    measured = coverage.Coverage(data_file=None, config_file=False, source=[root])
    measured.start()

    def stop():
        measured.stop()
        data = measured.get_data()
        lines = {os.path.relpath(name, root): sorted(data.lines(name) or ()) for name in data.measured_files()}
        with open(path, "w") as stream:
            json.dump(lines, stream)

    return stop


def main():
    with open(sys.argv[1]) as stream:
        config = json.load(stream)
    os.unlink(sys.argv[1])
    report_fd = fcntl.fcntl(REPORT_FD, fcntl.F_DUPFD_CLOEXEC, 64)
    os.close(REPORT_FD)
    token = config["token"]

    def write(kind, text):
        data = "{} {} {}\n".format(token, kind, text).encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(report_fd, data) :]

    sys.argv[:] = ["pytest"]
    # The tree comes in late, see pytest_load_initial_conftests; sys.path[0] is this file's folder.
    root = config["root"]
    roots = [root] + [entry for entry in sys.path[1:] if entry.startswith(root + "/")]
    sys.path[:] = [entry for entry in sys.path[1:] if entry not in roots]
    import pytest

    plugins = [Reporter(write, roots, config["required"], config["stop"], pytest)]
    stop_coverage = start_coverage(root, config["coverage_path"])
    code = int(pytest.main(config["args"], plugins=plugins))
    stop_coverage()
    write("end", str(code))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no exit handlers, no waiting for threads of the tests


if __name__ == "__main__":
    main()
