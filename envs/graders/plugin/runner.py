"""Runs pytest in a child process inside a sandbox and reports what it saw of it. Imports nothing of swegym.

    python runner.py CONFIG SECRET 3>&1 >LOG 2>&1

It forks at once. The child imports pytest and its plugins while no path of the work tree can be imported, runs the
tests and sends raw events over a pipe (`reporter.py`). This process never runs code of the tree: it checks that the
events make sense, sees with its own eyes how the child ended, and writes the report to file descriptor 3, which leads
out of the sandbox, so what was written cannot be taken back.

CONFIG (JSON) is what the child may know. SECRET (JSON) is read and removed after the fork and before the child goes on:
the token that every line of the report starts with, and the tests that end the run when they do not pass.

    TOKEN ready                                    pytest is there; no code of the tree has run yet
    TOKEN ids ["tests/test_a.py::test_x", ...]     what was collected, after deselection
    TOKEN test INDEX STATUS MILLISECONDS           after the teardown of each test
    TOKEN notice KIND DETAIL                       something that no honest run shows
    TOKEN killed REASON                            cpu, wall or stop: this process ended the run
    TOKEN usage {"cpu_s": .., "waiting_s": .., "wall_s": ..}   of the child; waiting: for a processor, when killed
    TOKEN end EXIT_CODE                            what the child said it would exit with

The exit code is the child's, 128 + signal when it was killed. Written for any Python from 3.6 on and any pytest from 6
on: it runs in other people's images.
"""

# ruff: noqa: PTH100, PTH108, PTH118, PTH120, PTH123, UP032 - the old ways, for old Pythons and a quick start

import gc
import json
import os
import select
import signal
import sys
import time
import traceback

REPORT_FD = 3
STOPPED_EXIT = 3
MAX_STRETCH = 4
KNOWN_PHASES = ("setup", "call", "teardown")
ORDER = ("passed", "xpass", "xfail", "skipped", "failed", "error")


class Supervisor:
    """Turns the child's events into report lines, and notices those that no honest child sends."""

    def __init__(self, write, stop_ids):
        self._write = write
        self._stop_ids = frozenset(stop_ids)
        self._ids = []
        self._status = ""
        self._seen_teardown = False
        self._current = None
        self._finished = set()
        self._end_code = None
        self.must_stop = False

    def notice(self, kind, detail=""):
        self._write("notice", "{} {}".format(kind, detail))

    def feed(self, line):
        """One line from the child. Anything may be in it."""
        try:
            kind, _, body = line.decode("utf-8").partition(" ")
            handler = getattr(self, "_on_" + kind)
            handler(body)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            self.notice("foreign_report_line")

    def _on_ready(self, body):
        self._write("ready", "")

    def _on_ids(self, body):
        if self._ids:
            self.notice("collected_twice")
            return
        ids = json.loads(body)
        self._ids = [str(test_id) for test_id in ids]
        self._write("ids", json.dumps(self._ids))
        if not self._stop_ids <= set(self._ids):
            self.must_stop = True  # a required test is missing: nothing that runs can change the result

    def _on_start(self, body):
        index = int(body)
        if self._current is not None or index in self._finished or not 0 <= index < len(self._ids):
            self.notice("tests_out_of_order", index)
        self._current, self._status, self._seen_teardown = index, "", False

    def _on_phase(self, body):
        index, when, status = body.split(" ")
        if int(index) != self._current or when not in KNOWN_PHASES:
            self.notice("tests_out_of_order", index)
            return
        if when == "teardown" and not self._status:
            self.notice("tests_out_of_order", index)
        self._status = max(self._status or "passed", status, key=ORDER.index)
        self._seen_teardown = when == "teardown"

    def _on_finish(self, body):
        index, milliseconds = body.split(" ")
        index = int(index)
        if index != self._current or index in self._finished:
            self.notice("result_reported_twice", index)
            return
        status = self._status if self._status and self._seen_teardown else "missing"
        self._current = None
        self._finished.add(index)
        self._write("test", "{} {} {}".format(index, status, int(milliseconds)))
        if status != "passed" and self._ids[index] in self._stop_ids:
            self.must_stop = True

    def _on_notice(self, body):
        kind, _, detail = body.partition(" ")
        self.notice(kind, detail)

    def _on_end(self, body):
        if self._end_code is not None:
            self.notice("ended_twice")
        self._end_code = int(body)
        self._write("end", str(self._end_code))


def supervise(child, events_fd, supervisor, wall_limit_s):
    """Read events until the child has ended: wait status, resource usage, why it was killed ("": it was not), and how
    long it had waited for a processor by then.

    Time in which the child waited for a processor does not count as wall time, so that a busy machine fails nobody; but
    it ends at MAX_STRETCH times the limit.
    """
    started = time.time()
    deadline = started + wall_limit_s
    held, killed, waiting_s, is_open, ended = b"", "", 0.0, True, None
    while True:
        ready = select.select([events_fd] if is_open else [], [], [], 0.02 if ended is None else 0)[0]
        if ready:
            data = os.read(events_fd, 65536)
            is_open = bool(data)
            lines = (held + data).split(b"\n")
            held = lines.pop()
            for line in lines:
                supervisor.feed(line)
        if ended is not None and not ready:
            break
        if ended is None:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            ended = (status, usage) if pid else None
        if ended is None and not killed and time.time() > deadline:
            waiting_s = waited_s(child)
            stretched = started + min(wall_limit_s + waiting_s, MAX_STRETCH * wall_limit_s)
            killed, deadline = ("", stretched) if stretched > deadline + 0.1 else ("wall", deadline)
        if ended is None and supervisor.must_stop and not killed:
            killed = "stop"
        if ended is None and killed:
            os.kill(child, signal.SIGKILL)
    status, usage = ended
    if held and not killed and not os.WIFSIGNALED(status):
        supervisor.notice("foreign_report_line")
    return status, usage, killed, waiting_s


def waited_s(pid):
    """How long a process was ready to run and had no processor; 0.0 where the kernel does not say."""
    try:
        with open("/proc/{}/schedstat".format(pid)) as stream:
            return int(stream.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def preload():
    """Import pytest and all that it loads in any case, so that nothing of the tree can take the place of it."""
    gc.disable()
    import importlib

    from _pytest.config import default_plugins

    for name in default_plugins:
        importlib.import_module("_pytest." + name)
    if hasattr(gc, "freeze"):
        gc.freeze()  # none of this will ever be garbage: it need not be looked at again and again
    gc.enable()


def clean_path(root, python_path):
    """Take the tree out of sys.path, and say where in front of it the child has to put it back.

    Args: root: of the work tree. python_path: PYTHONPATH as the tests shall have it; this process got it without the
    tree's folders, where a `sitecustomize` package could lie.
    """
    if python_path:
        os.environ["PYTHONPATH"] = python_path

    def is_tree(entry):
        return not entry.startswith("/") or (entry + "/").startswith(root + "/")

    wanted = [entry for entry in python_path.split(":") if entry] + sys.path
    tree = [os.path.join(root, entry) for entry in wanted if is_tree(entry)]
    sys.path[:] = [entry for entry in sys.path if not is_tree(entry)]
    return [root] + [entry for entry in dict.fromkeys(tree) if entry.rstrip("/") != root]


def import_beside(folder):
    """Import the child's half. It leaves no module behind that could stand in the way of one of the tree."""
    sys.path.insert(0, folder)
    import integrity
    import reporter

    sys.path.pop(0)
    del sys.modules["reporter"], sys.modules["integrity"]
    return reporter, integrity


def run_child(config, folder, python_path, child_fd, go_fd):
    """The child: everything but code of the tree is loaded before the parent lets it go on."""
    try:
        config["roots"] = clean_path(config["root"], python_path)
        preload()
        reporter, integrity = import_beside(folder)
        os.write(child_fd, b"ready\n")
        os.read(go_fd, 1)
        os.close(go_fd)
        reporter.run(config, child_fd, integrity)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(70)  # it must not go on with the parent's code


def fork_child(config, folder, python_path):
    """Its pid, the reading end of its events, and a descriptor that lets it go on when it is closed."""
    events_fd, child_fd = os.pipe()
    go_fd, ready_fd = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (REPORT_FD, events_fd, ready_fd):
            os.close(descriptor)
        run_child(config, folder, python_path, child_fd, go_fd)
    os.close(child_fd)
    os.close(go_fd)
    return child, events_fd, ready_fd


def main():
    config_path, secret_path, python_path = sys.argv[1:4]
    own_folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != own_folder]
    sys.argv[:] = ["pytest"]
    with open(config_path) as stream:
        config = json.load(stream)
    os.unlink(config_path)
    child, events_fd, ready_fd = fork_child(config, own_folder, python_path)
    started = time.time()
    with open(secret_path) as stream:
        secret = json.load(stream)
    os.unlink(secret_path)
    token = secret["token"]

    def write(kind, text):
        data = "{} {} {}\n".format(token, kind, text).encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(REPORT_FD, data) :]

    supervisor = Supervisor(write, secret["stop_ids"])
    os.close(ready_fd)  # now the child goes on
    status, usage, killed, waiting_s = supervise(child, events_fd, supervisor, secret["wall_limit_s"])
    cpu_s = usage.ru_utime + usage.ru_stime
    signal_number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not killed and (signal_number == signal.SIGXCPU or (signal_number and cpu_s > secret["cpu_limit_s"])):
        killed = "cpu"
    if killed:
        write("killed", killed)
    write("usage", json.dumps({"cpu_s": cpu_s, "waiting_s": waiting_s, "wall_s": time.time() - started}))
    code = 128 + signal_number if signal_number else os.WEXITSTATUS(status)
    os._exit(STOPPED_EXIT if killed == "stop" else code)  # no exit handlers, no waiting for anything


if __name__ == "__main__":
    main()
