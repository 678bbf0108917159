"""The pytest plugin of the child process: raw events of every test, and what has changed that must not.

It keeps no results: every phase is written to the pipe when it happens, so that there is nothing to edit later. All
state lives in closures of `run`, and `integrity.py` watches those too. What no care can prevent is code under test that
looks for the pipe and writes events of its own; see docs/design/grading.md.

    ids JSON | start INDEX | phase INDEX WHEN STATUS | finish INDEX MILLISECONDS | notice KIND DETAIL | end EXIT_CODE
"""

# ruff: noqa: PTH123, UP032 - the old ways, for old Pythons and a quick start

import json
import os
import sys
import traceback

import pytest
from _pytest.runner import CallInfo

LOG_LIMIT_BYTES = 100000
MAX_FRAMES = 6


def phase_status(report):
    """Status of one phase; a failing set-up or teardown is an error."""
    is_xfail = hasattr(report, "wasxfail")
    if report.outcome == "passed":
        return "xpass" if is_xfail and report.when == "call" else "passed"
    if report.outcome == "skipped":
        return "xfail" if is_xfail else "skipped"
    return "failed" if report.when == "call" else "error"


def describe(excinfo, root):
    """Where an exception was raised in the tree, and what it says."""
    if excinfo is None:
        return "    it had to fail"
    lines = []
    frames = traceback.extract_tb(excinfo.tb)
    for frame in [frame for frame in frames if frame.filename.startswith(root + "/")][-MAX_FRAMES:] or frames[-1:]:
        lines.append("    {}:{}: {}".format(os.path.relpath(frame.filename, root), frame.lineno, frame.line))
    lines.append("    " + excinfo.exconly().replace("\n", "\n    "))
    return "\n".join(lines)


class FileStopper:
    """Ends the run after the first file with a required test that did not pass, where the builder asks for it."""

    def __init__(self, config):
        self.session = None
        self._is_on = config["stop"] == "file"
        self._required = frozenset(config["required"])
        self._unsound = set()
        self._file = None

    def see(self, nodeid, status):
        if status != "passed":
            self._unsound.add(nodeid)

    def finish(self, nodeid):
        file = nodeid.split("::")[0]
        if not self._is_on:
            return
        if self._file not in (None, file):
            self.session.shouldstop = "a test of an earlier file did not pass"
        if nodeid in self._required and nodeid in self._unsound:
            self._file = file


def make_plugin(write, log, config, watch):
    """The plugin object. `write(kind, text)` sends one event; `watch` is an `integrity.Watch`."""
    indices = {}
    durations_s = {}
    roots, stopper = config["roots"], FileStopper(config)
    hook = pytest.hookimpl

    class Reporter:
        @hook(tryfirst=True)
        def pytest_load_initial_conftests(self):
            # As `python -m pytest` does, but only when pytest and all its plugins are loaded: a `random.py` or
            # `pytest.py` of the tree cannot take the place of something that they import.
            sys.path[:0] = roots

        @hook(trylast=True)
        def pytest_sessionstart(self, session):
            watch.begin(session.config.pluginmanager)

        @hook(trylast=True)
        def pytest_collection_modifyitems(self, session, items):
            stopper.session = session
            indices.update((item.nodeid, index) for index, item in enumerate(items))
            write("ids", json.dumps([item.nodeid for item in items]))
            watch.check()

        @hook(tryfirst=True)
        def pytest_runtest_logstart(self, nodeid):
            write("start", indices.get(nodeid, -1))

        @hook(hookwrapper=True, tryfirst=True)
        def pytest_runtest_makereport(self, item, call):
            watch.check_test(item)
            excinfo = call.excinfo
            result = yield
            report = result.get_result()
            index = indices.get(item.nodeid, -1)
            durations_s[index] = durations_s.get(index, 0.0) + call.duration
            status = phase_status(report)
            if (excinfo is not None and report.outcome == "passed") or type(call) is not CallInfo:
                write("notice", "outcome_rewritten " + item.nodeid)
            stopper.see(item.nodeid, status)
            if status in ("failed", "error"):
                log("{} {} at {}\n{}\n".format(item.nodeid, status, call.when, describe(excinfo, config["root"])))
            write("phase", "{} {} {}".format(index, call.when, status))

        @hook(tryfirst=True)
        def pytest_runtest_logreport(self, report):
            # Subtests are reported here only; one that fails makes its test fail.
            if type(report).__name__ in ("SubTestReport", "SubtestReport") and report.outcome == "failed":
                index = indices.get(report.nodeid, -1)
                stopper.see(report.nodeid, "failed")
                write("phase", "{} call failed".format(index))

        @hook(trylast=True)
        def pytest_runtest_logfinish(self, nodeid):
            index = indices.get(nodeid, -1)
            write("finish", "{} {:.0f}".format(index, 1000 * durations_s.get(index, 0.0)))
            stopper.finish(nodeid)

    return Reporter()


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


def run(config, child_fd, integrity):
    """Run pytest and leave the process."""
    os_write, os_exit, os_getpid, main = os.write, os._exit, os.getpid, pytest.main
    pid = os_getpid()

    def write(kind, text):
        if os_getpid() != pid:
            return  # a fork that a test left behind says nothing
        data = "{} {}\n".format(kind, text).encode("utf-8", "backslashreplace")
        while data:
            data = data[os_write(child_fd, data) :]

    log_fd = os.dup(1)
    room = [LOG_LIMIT_BYTES]

    def log(text):
        # At once: pytest prints failures at its end, and it may be stopped before that.
        data = text.encode("utf-8", "backslashreplace")[: room[0]]
        room[0] -= len(data)
        os_write(log_fd, data)

    watch = integrity.Watch(write, config["watch"])
    plugin = make_plugin(write, log, config, watch)
    watch.own(plugin, write)
    stop_coverage = start_coverage(config["root"], config["coverage_path"])
    code = int(main(config["args"], plugins=[plugin]))
    stop_coverage()
    watch.check()
    write("end", code)
    sys.stdout.flush()
    sys.stderr.flush()
    os_exit(code)  # no exit handlers, no waiting for threads of the tests
