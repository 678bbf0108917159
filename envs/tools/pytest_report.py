"""Pytest plugin: appends one JSON line per test phase to the file that $SWEGYM_PYTEST_REPORT names.

Runs inside sandboxes, under whatever Python and pytest the repository uses: standard library only, old syntax only,
nothing of swegym. What it writes is information for an agent's own use; the grader has a plugin of its own and trusts
nothing from here.
"""

import json
import os
from typing import Any

_PATH = os.environ.get("SWEGYM_PYTEST_REPORT", "")


def _write(nodeid: str, when: str, outcome: str, is_xfail: bool) -> None:
    if not _PATH or os.environ.get("PYTEST_XDIST_WORKER"):  # xdist's workers send their reports to the main process
        return
    with open(_PATH, "a") as stream:  # noqa: PTH123 - as short and as old as it gets
        stream.write(json.dumps([nodeid, when, outcome, is_xfail]) + "\n")


def pytest_runtest_logreport(report: Any) -> None:
    """One phase of one test has ended."""
    _write(report.nodeid, report.when, report.outcome, hasattr(report, "wasxfail"))


def pytest_collectreport(report: Any) -> None:
    """A file or a folder was collected; only failures matter."""
    if report.outcome == "failed":
        _write(report.nodeid, "collect", "failed", False)
