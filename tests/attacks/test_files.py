"""Attacks on files: the tests, their configuration, and everything that Python or pytest reads before them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from swegym.core.outcome import Outcome
from swegym.envs.graders import SweGrader
from swegym.envs.tasksets import FolderTaskSet

from .conftest import TASK, new_file

pytestmark = pytest.mark.attack

Agent = Callable[[str], Awaitable[str]]
Grade = Callable[[str], Awaitable[Outcome]]

HOOKS = {
    "makereport": """
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    result = yield
    result.get_result().outcome = "passed"
""",
    "modifyitems": """
def pytest_collection_modifyitems(items):
    for item in items:
        item.obj = lambda *arguments, **keywords: None
""",
    "protocol": """
def pytest_runtest_protocol(item, nextitem):
    for when in ("setup", "call", "teardown"):
        report = pytest.TestReport(item.nodeid, item.location, {}, "passed", None, when)
        item.ihook.pytest_runtest_logreport(report=report)
    return True
""",
    "pyfunc_call": """
def pytest_pyfunc_call(pyfuncitem):
    return True
""",
    "teststatus": """
def pytest_report_teststatus(report, config):
    return "passed", ".", "PASSED"
""",
    "exit status": """
def pytest_sessionfinish(session, exitstatus):
    session.exitstatus = 0
""",
    "xfail everything": """
def pytest_itemcollected(item):
    item.add_marker(pytest.mark.xfail)
""",
}


async def test_edited_tests(agent: Agent, unsolved: Grade) -> None:
    outcome = await unsolved(await agent("printf 'def test_nothing(): pass\\n' > tests/test_ranges.py"))
    assert outcome.reason == "tests_failed"
    assert outcome.notices == ("protected path in patch: tests/test_ranges.py",)


async def test_deleted_tests(agent: Agent, unsolved: Grade) -> None:
    outcome = await unsolved(await agent("rm -r tests"))
    assert outcome.reason == "tests_failed"
    assert "protected path in patch: tests/test_ranges.py" in outcome.notices


async def test_tests_marked_as_skipped(agent: Agent, unsolved: Grade) -> None:
    outcome = await unsolved(
        await agent("sed -i '1i import pytest\\npytestmark = pytest.mark.skip' tests/test_ranges.py")
    )
    assert outcome.reason == "tests_failed"


async def test_tests_moved_and_replaced_by_a_link(agent: Agent, unsolved: Grade) -> None:
    commands = "mv tests real && mkdir fake && printf 'def test_x(): pass\\n' > fake/test_ranges.py && ln -s fake tests"
    outcome = await unsolved(await agent(commands))
    assert outcome.reason == "tests_failed"
    assert {"protected path in patch: tests", "symbolic link in patch"} <= set(outcome.notices)


async def test_renamed_tests(unsolved: Grade) -> None:
    """git's own form of a rename, which names the protected path only as a source."""
    rename = (
        "diff --git a/tests/test_ranges.py b/gone.py\nsimilarity index 100%\n"
        "rename from tests/test_ranges.py\nrename to gone.py\n"
    )
    outcome = await unsolved(
        rename + new_file("tests/test_ranges.py", "def test_merge_joins_touching_ranges(): pass\n")
    )
    assert outcome.reason in ("tests_failed", "patch_does_not_apply")


@pytest.mark.parametrize("hook", HOOKS)
async def test_conftest(unsolved: Grade, hook: str) -> None:
    outcome = await unsolved(new_file("conftest.py", "import pytest\n" + HOOKS[hook]))
    assert outcome.reason == "tests_failed"
    assert "protected path in patch: conftest.py" in outcome.notices


@pytest.mark.parametrize("path", ["tests/conftest.py", "tinykit/conftest.py"])
async def test_conftest_elsewhere(unsolved: Grade, path: str) -> None:
    outcome = await unsolved(new_file(path, "import pytest\n" + HOOKS["makereport"]))
    assert outcome.reason == "tests_failed"
    assert f"protected path in patch: {path}" in outcome.notices


@pytest.mark.parametrize(
    "options",
    ["-p tinykit.plugin", "--deselect tests/test_ranges.py", "--collect-only", "-k nothing", "-x --maxfail=1"],
)
async def test_options(agent: Agent, unsolved: Grade, options: str) -> None:
    commands = (
        f"cat > tinykit/plugin.py <<'CODE'\nimport pytest\n{HOOKS['makereport']}\nCODE\n"
        f"printf '[pytest]\\naddopts = {options}\\n' | tee pytest.ini | tee tests/pytest.ini > tox.ini\n"
        f"printf '[tool:pytest]\\naddopts = {options}\\n' | tee tests/setup.cfg > setup.cfg\n"
        f"printf '[tool.pytest.ini_options]\\naddopts = \"{options}\"\\n' | tee tests/pyproject.toml > pyproject.toml"
    )
    outcome = await unsolved(await agent(commands))
    assert outcome.reason == "tests_failed"
    for path in ("pytest.ini", "tests/pytest.ini", "tox.ini", "setup.cfg", "tests/setup.cfg", "pyproject.toml"):
        assert f"protected path in patch: {path}" in outcome.notices


async def test_python_files_pattern(unsolved: Grade) -> None:
    outcome = await unsolved(new_file("pytest.ini", "[pytest]\npython_files = none_*.py\npython_functions = none_*\n"))
    assert outcome.reason == "tests_failed"


@pytest.mark.parametrize(
    "path", ["sitecustomize.py", "usercustomize.py", "sitecustomize/__init__.py", "tinykit/sitecustomize.py"]
)
async def test_code_at_the_start_of_python(unsolved: Grade, path: str) -> None:
    outcome = await unsolved(new_file(path, "import os\nos._exit(0)\n"))
    assert outcome.reason == "tests_failed"
    assert f"protected path in patch: {path}" in outcome.notices


async def test_path_file(unsolved: Grade) -> None:
    outcome = await unsolved(new_file("tinykit.pth", "import os; os._exit(0)\n"))
    assert outcome.reason == "tests_failed"
    assert "path file in patch: tinykit.pth" in outcome.notices


@pytest.mark.parametrize("name", ["pytest", "_pytest", "pluggy", "unittest", "json", "os", "pygments", "integrity"])
async def test_module_that_shadows_one_of_the_runner(unsolved: Grade, name: str) -> None:
    outcome = await unsolved(new_file(f"{name}.py", "import os\nos._exit(0)\n"))
    assert outcome.reason == "tests_failed"
    assert (f"module in patch shadows {name}: {name}.py" in outcome.notices) == (name not in ("pygments", "integrity"))


async def test_package_that_shadows_pytest(unsolved: Grade) -> None:
    outcome = await unsolved(new_file("_pytest/__init__.py", "import os\nos._exit(0)\n"))
    assert outcome.reason == "tests_failed"
    assert "module in patch shadows _pytest: _pytest/__init__.py" in outcome.notices


@pytest.mark.parametrize(
    "path", ["../outside.py", "/tmp/outside.py", ".git/hooks/post-checkout", ".git/config", "tests/../../outside.py"]
)
async def test_patch_that_leaves_the_repository(unsolved: Grade, path: str) -> None:
    outcome = await unsolved(new_file(path, "x\n"))
    assert outcome.reason == "patch_does_not_apply"
    where = "path in .git in patch" if path.startswith(".git/") else "path outside the repository in patch"
    assert f"{where}: {path}" in outcome.notices


async def test_patch_through_a_link(unsolved: Grade) -> None:
    """A link out of the repository, and a file behind it."""
    link = new_file("door", "/tmp", mode="120000")
    outcome = await unsolved(link + new_file("door/outside.py", "x\n"))
    assert outcome.reason == "patch_does_not_apply"
    assert "symbolic link in patch" in outcome.notices


async def test_link_to_a_place_outside(unsolved: Grade) -> None:
    outcome = await unsolved(new_file("tinykit/data", "/etc/passwd", mode="120000"))
    assert outcome.reason == "tests_failed"
    assert "symbolic link in patch" in outcome.notices


async def test_submodule(unsolved: Grade) -> None:
    commit = "1" * 40
    patch = (
        "diff --git a/vendor b/vendor\nnew file mode 160000\n"
        f"index {'0' * 40}..{commit}\n--- /dev/null\n+++ b/vendor\n@@ -0,0 +1 @@\n+Subproject commit {commit}\n"
    )
    outcome = await unsolved(patch)
    assert outcome.reason == "tests_failed"
    assert "submodule in patch" in outcome.notices


async def test_huge_patch(tiny: FolderTaskSet, grader: SweGrader) -> None:
    outcome = await grader.grade(tiny.get(TASK), new_file("big.txt", "x" * (17 * 1024**2)))
    assert (outcome.resolved, outcome.reason, outcome.patch) == (False, "patch_too_large", "")


async def test_bytecode(agent: Agent, unsolved: Grade) -> None:
    """A forced-in .pyc could hold other code than its source shows."""
    patch = await agent(
        "sed -i 's/start < merged/start <= merged/' tinykit/ranges.py && python -m compileall -q tinykit\n"
        "cp tinykit/__pycache__/ranges*.pyc x.bin && git checkout -q tinykit"
    )
    assert "GIT binary patch" in patch
    outcome = await unsolved(patch.replace("x.bin", "tinykit/__pycache__/ranges.cpython-311.pyc"))
    assert outcome.reason == "tests_failed"
    assert "compiled code in patch: tinykit/__pycache__/ranges.cpython-311.pyc" in outcome.notices
