"""Whether what decides a test's result is still what it was before any code of the tree ran.

The functions and classes of pytest, pluggy and unittest, the builtins, the hooks that are called, trace functions, and
the reporter itself. What has changed is sent as a notice by name. The grader compares it with what the gold patch
changes, so a repository that has good reason to patch pytest is no suspect.
"""

# ruff: noqa: UP032 - for old Pythons

import builtins
import sys
import types

MODULES = (
    *("_pytest." + name for name in ("runner", "reports", "python", "unittest", "main", "nodes", "fixtures")),
    *("_pytest." + name for name in ("skipping", "outcomes", "python_api", "raises", "config", "_code.code")),
    *("_pytest." + name for name in ("subtests", "assertion", "assertion.rewrite", "assertion.util")),
    *("unittest.case", "unittest.suite"),
)
LENDING = "_pytest.legacypath"
"""When it is set up it gives some of pytest's classes methods of its own."""
CALLABLE = (types.FunctionType, classmethod, staticmethod, property, type)
KEY_HOOKS = (
    "pytest_runtest_protocol",
    "pytest_runtest_setup",
    "pytest_runtest_call",
    "pytest_runtest_teardown",
    "pytest_runtest_makereport",
    "pytest_pyfunc_call",
    "pytest_runtestloop",
    "pytest_runtest_logreport",
)
KEY_NAMES = (
    "_pytest.runner.runtestprotocol",
    "_pytest.runner.call_and_report",
    "_pytest.runner.call_runtest_hook",
    "_pytest.runner.pytest_runtest_call",
    "_pytest.runner.pytest_runtest_makereport",
    "_pytest.runner.CallInfo.from_call",
    "_pytest.reports.TestReport.from_item_and_call",
    "_pytest.python.Function.runtest",
    "_pytest.python.pytest_pyfunc_call",
    "_pytest.unittest.TestCaseFunction.runtest",
    "unittest.case.TestCase.run",
    "unittest.case._Outcome.testPartExecutor",
    "builtins.AssertionError",
    "builtins.BaseException",
    "builtins.__build_class__",
    "builtins.isinstance",
    "builtins.type",
)
ITEM_NAMES = ("runtest", "setup", "teardown", "reportinfo", "repr_failure")


def raw_code(value):
    """The code behind a callable, to notice one whose code was exchanged."""
    function = getattr(value, "fget", None) if isinstance(value, property) else getattr(value, "__func__", value)
    return getattr(function, "__code__", None)


def entries_of(module_name, module):
    """(name, namespace, key, object, code) of the functions and classes that a module defines."""
    for key, value in list(vars(module).items()):
        if not isinstance(value, CALLABLE) or getattr(value, "__module__", None) != module_name:
            continue
        yield module_name + "." + key, module, key, value, raw_code(value)
        if isinstance(value, type):
            for inner, member in list(vars(value).items()):
                if isinstance(member, CALLABLE):
                    yield "{}.{}.{}".format(module_name, key, inner), value, inner, member, raw_code(member)


class Watch:
    """Made before any code of the tree runs."""

    def __init__(self, write, is_on):
        self._write = write
        self._is_on = is_on
        self._codes = set()
        self._entries = []
        self._reported = set()
        self._cells = []
        self._hooks = {}
        self._plugins = None
        self._trace = (None, None)
        self._key_entries = []
        if not is_on:
            return
        pluggy = [name for name in sys.modules if name.startswith("pluggy.")]
        for name in (*pluggy, *MODULES):
            if name in sys.modules:
                self._entries.extend(entries_of(name, sys.modules[name]))
        for key, value in vars(builtins).items():
            if not key.startswith("_") or key in ("__build_class__", "__import__"):
                self._entries.append(("builtins." + key, builtins, key, value, None))
        self._key_entries = [entry for entry in self._entries if entry[0] in KEY_NAMES]
        lending = entries_of(LENDING, sys.modules[LENDING]) if LENDING in sys.modules else ()
        self._codes = {id(entry[4]) for entry in [*self._entries, *lending] if entry[4] is not None}

    def own(self, plugin, write):
        """Watch the reporter's own functions too: their code, and what they close over."""
        functions = [write] + [value for value in vars(type(plugin)).values() if isinstance(value, types.FunctionType)]
        for function in functions:
            entry = ("reporter." + function.__name__, None, "", function, function.__code__)
            self._entries.append(entry)
            self._key_entries.append(entry)
            for cell in function.__closure__ or ():
                self._cells.append((function.__name__, cell, cell.cell_contents))

    def begin(self, manager):
        """Plugins and initial conftest files are loaded: what is registered from now on is the tree's doing."""
        if not self._is_on:
            return
        self._manager = manager
        self._plugins = {id(plugin) for plugin in manager.get_plugins()}
        self._trace = (sys.gettrace(), sys.getprofile())
        self._hooks = {name: self._implementations(name) for name in KEY_HOOKS}

    def _implementations(self, name):
        caller = getattr(self._manager.hook, name)
        return {id(impl): (impl, impl.function) for impl in caller.get_hookimpls()}

    def _changed(self, name):
        if name not in self._reported:
            self._reported.add(name)
            self._write("notice", "patched " + name)

    def _check_entries(self, entries):
        for name, owner, key, value, code in entries:
            if owner is not None and vars(owner).get(key) is not value:
                # A plugin of pytest's own may have put another function of pytest's there.
                if name in KEY_NAMES or id(raw_code(vars(owner).get(key))) not in self._codes:
                    self._changed(name)
            elif code is not None and raw_code(value) is not code:
                self._changed(name)

    def check(self):
        """Everything; a few milliseconds."""
        if not self._is_on:
            return
        self._check_entries(self._entries)
        for name, cell, content in self._cells:
            if cell.cell_contents is not content:
                self._changed("reporter." + name)
        self._check_hooks()
        self._check_trace()

    def check_test(self, item):
        """What decides this test's result; microseconds."""
        if not self._is_on:
            return
        self._check_entries(self._key_entries)
        self._check_trace()
        for name in ITEM_NAMES:
            if name in vars(item):
                self._changed("item." + name)

    def _check_trace(self):
        if (sys.gettrace(), sys.getprofile()) != self._trace:
            self._changed("sys.settrace")
        monitoring = getattr(sys, "monitoring", None)
        if monitoring is not None and any(monitoring.get_tool(tool) for tool in range(6)):
            self._changed("sys.monitoring")

    def _check_hooks(self):
        if self._plugins is None:
            return
        for name, before in self._hooks.items():
            now = self._implementations(name)
            for key, (impl, function) in before.items():
                if key not in now or impl.function is not function:
                    self._changed("hook." + name)
            for key, (impl, _) in now.items():
                if key not in before and not self._is_conftest(impl.plugin):
                    self._changed("hook." + name)

    @staticmethod
    def _is_conftest(plugin):
        path = getattr(plugin, "__file__", None) or ""
        return isinstance(plugin, types.ModuleType) and path.replace("\\", "/").endswith("/conftest.py")
