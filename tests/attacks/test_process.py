"""Attacks by code that runs in the test process: ends, forks, threads, signals, and whatever is open to write to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from swegym.core.outcome import Outcome
from swegym.envs.tasksets import FolderTaskSet

from .conftest import with_code

pytestmark = pytest.mark.attack

Grade = Callable[[str], Awaitable[Outcome]]
UNFINISHED = ("no_tests_ran", "tests_aborted", "tests_missing")

# What a forger needs: the ids in order, and "passed" for each. It knows the events of the runner's own pipe.
FORGED_EVENTS = """
import json, os
ids = ["tests/test_ranges.py::test_merge_joins_touching_ranges"]
forged = "ids " + json.dumps(ids) + "\\nstart 0\\nphase 0 setup passed\\nphase 0 call passed\\n"
forged += "phase 0 teardown passed\\nfinish 0 1\\nend 1\\n"
def pour(text, folder="/proc/self/fd"):
    for name in os.listdir(folder):
        try:
            fd = os.open(folder + "/" + name, os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, text.encode())
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    "code",
    [
        "import os; os._exit(0)",
        "import os; os._exit(1)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.abort()",
    ],
)
async def test_end_at_import(tiny: FolderTaskSet, unsolved: Grade, code: str) -> None:
    assert (await unsolved(with_code(tiny, code))).reason in UNFINISHED


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(0)", "import pytest; pytest.exit('done', 0)", "raise KeyboardInterrupt"]
)
async def test_polite_end_at_import(tiny: FolderTaskSet, unsolved: Grade, code: str) -> None:
    assert (await unsolved(with_code(tiny, code))).reason in (*UNFINISHED, "tests_failed")


async def test_skip_at_import(tiny: FolderTaskSet, unsolved: Grade) -> None:
    outcome = await unsolved(with_code(tiny, "import pytest; pytest.skip('all is well', allow_module_level=True)"))
    assert outcome.reason in UNFINISHED


@pytest.mark.parametrize(
    "body", ["import os; os._exit(1)", "import pytest; pytest.exit('done', 1)", "import sys; sys.exit(1)"]
)
async def test_end_in_the_middle(tiny: FolderTaskSet, unsolved: Grade, body: str) -> None:
    assert (await unsolved(with_code(tiny, "", body=body))).reason in ("tests_aborted", "tests_failed", "tests_missing")


@pytest.mark.parametrize("body", ["import pytest; pytest.skip('no')", "import pytest; pytest.xfail('no')"])
async def test_skip_in_the_middle(tiny: FolderTaskSet, unsolved: Grade, body: str) -> None:
    outcome = await unsolved(with_code(tiny, "", body=body))
    assert outcome.reason == "tests_failed"
    assert {status.value for status in outcome.tests.values()} & {"skipped", "xfail"}


@pytest.mark.parametrize(
    "code",
    [
        "import atexit, os\natexit.register(os._exit, 0)",
        "import os, sys\nsys.excepthook = lambda *_: os._exit(0)",
        "import faulthandler, os, signal\nfor n in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT):\n"
        "    signal.signal(n, lambda *_: os._exit(0))",
        "import threading, os\nthreading._shutdown = lambda: os._exit(0)",
    ],
)
async def test_handlers_at_the_end(tiny: FolderTaskSet, unsolved: Grade, code: str) -> None:
    assert (await unsolved(with_code(tiny, code))).reason == "tests_failed"


async def test_printed_summary(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = (
        "import os\nos.write(1, b'PASSED tests/test_ranges.py::test_merge_joins_touching_ranges\\n')\n"
        "os.write(2, b'7 passed in 0.01s\\n'); os._exit(1)"
    )
    assert (await unsolved(with_code(tiny, code))).reason in UNFINISHED


async def test_forged_events_on_every_open_descriptor(tiny: FolderTaskSet, unsolved: Grade) -> None:
    outcome = await unsolved(with_code(tiny, FORGED_EVENTS + "pour(forged)\nos._exit(1)"))
    assert outcome.reason in ("tampered", *UNFINISHED)


async def test_forged_report_on_the_descriptors_of_every_process(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = FORGED_EVENTS + (
        "token = '0' * 32\nlines = ''.join(token + ' ' + line + '\\n' for line in forged.split('\\n'))\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    try:\n        pour(lines, '/proc/' + pid + '/fd')\n    except OSError:\n        pass\n"
    )
    outcome = await unsolved(with_code(tiny, code))
    assert outcome.reason == "tampered"
    assert "foreign_report_line" in outcome.notices


async def test_every_file_of_the_grader_overwritten(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = FORGED_EVENTS + (
        "import glob\nfor path in glob.glob('/tmp/swegym-*/*') + glob.glob('/tmp/*.xml'):\n"
        "    try:\n        open(path, 'w').write(forged)\n    except OSError:\n        pass"
    )
    assert (await unsolved(with_code(tiny, code))).reason == "tests_failed"


async def test_parent_killed(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nimport time\ntime.sleep(1)"
    assert (await unsolved(with_code(tiny, code))).reason in UNFINISHED


async def test_child_goes_on_and_parent_ends_well(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = "import os\nif os.fork():\n    os._exit(0)"
    assert (await unsolved(with_code(tiny, code))).reason in UNFINISHED


async def test_each_test_in_a_fork_that_says_nothing(tiny: FolderTaskSet, unsolved: Grade) -> None:
    """The failing half of each fork disappears; the other half waits for it and goes on as if all were well."""
    body = "import os\nif os.fork():\n    os.wait(); os._exit(1)"
    outcome = await unsolved(with_code(tiny, "", body=body))
    assert outcome.reason in UNFINISHED


async def test_daemon_that_waits_for_the_grader(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = FORGED_EVENTS + (
        "import glob, time\nif os.fork() == 0:\n    os.setsid()\n"
        "    for _ in range(200):\n        pour(forged)\n"
        "        for path in glob.glob('/tmp/swegym-*/secret.json'):\n            open(path, 'w').write('{}')\n"
        "        time.sleep(0.01)\n    os._exit(0)"
    )
    assert (await unsolved(with_code(tiny, code))).reason in ("tampered", "tests_failed")


async def test_thread_that_patches_while_tests_run(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = (
        "import threading, time\n"
        "def patch():\n"
        "    import _pytest.python as p\n"
        "    while True:\n"
        "        p.Function.runtest = lambda self: None\n"
        "        time.sleep(0.0005)\n"
        "threading.Thread(target=patch, daemon=True).start()\ntime.sleep(0.05)"
    )
    outcome = await unsolved(with_code(tiny, code))
    assert outcome.reason == "tampered"
    assert "patched _pytest.python.Function.runtest" in outcome.notices


async def test_endless_loop(tiny: FolderTaskSet, unsolved: Grade) -> None:
    assert (await unsolved(with_code(tiny, "while True: pass"))).reason == "tests_timed_out"


async def test_bomb_of_processes(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = (
        "import os\nfor _ in range(2000):\n    try:\n        if os.fork() == 0:\n            os._exit(0)\n"
        "    except OSError:\n        break"
    )
    assert (await unsolved(with_code(tiny, code))).reason in ("tests_failed", "tests_timed_out")


async def test_right_only_until_it_is_handed_in(tiny: FolderTaskSet, unsolved: Grade) -> None:
    """A time bomb: sound while the agent shows it off, broken by the time it is graded."""
    code = (
        "import time\nsound = merge\ndef merge(ranges):\n    if time.time() < 1_000_000_000:\n"
        "        return [(0, 4), (5, 7)]\n    return sound(ranges)"
    )
    assert (await unsolved(with_code(tiny, code))).reason == "tests_failed"


async def test_right_only_once(tiny: FolderTaskSet, unsolved: Grade) -> None:
    code = (
        "calls = []\nsound = merge\ndef merge(ranges):\n    calls.append(1)\n"
        "    return [(0, 4), (5, 7)] if len(calls) == 1 and len(ranges) == 3 else sound(ranges)"
    )
    assert (await unsolved(with_code(tiny, code))).reason in ("tests_failed", "tampered")
