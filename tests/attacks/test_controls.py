"""Honest patches in the same setting: without them the attacks would show nothing."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest

from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.tasksets import FolderTaskSet
from swegym.envs.tasksets.diff import unified_diff

from .conftest import TARGET, TASK, broken_source, new_file, with_code

pytestmark = pytest.mark.attack

Agent = Callable[[str], Awaitable[str]]
FIX = "sed -i 's/start < merged/start <= merged/' tinykit/ranges.py"
BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")


def fix(tiny: FolderTaskSet) -> str:
    before = broken_source(tiny)
    return unified_diff(TARGET, before, before.replace("start < merged", "start <= merged"))


async def test_fix(agent: Agent, tiny: FolderTaskSet, grader: SweGrader) -> None:
    outcome = await grader.grade(tiny.get(TASK), await agent(FIX))
    assert outcome.resolved, outcome
    assert outcome.notices == ()
    assert outcome.patch_applied_by == "git apply"


async def test_fix_with_tests_and_a_conftest_of_its_own(agent: Agent, tiny: FolderTaskSet, grader: SweGrader) -> None:
    """Good work: the patch also adds a test, a fixture and a note. They are put aside, and it is solved."""
    commands = (
        f"{FIX}\nprintf 'import pytest\\n@pytest.fixture\\ndef pair(): return (0, 1)\\n' > tests/conftest.py\n"
        "printf 'def test_pair(pair): assert pair\\n' > tests/test_more.py; echo done > NOTES.md"
    )
    outcome = await grader.grade(tiny.get(TASK), await agent(commands))
    assert outcome.resolved, outcome
    assert "protected path in patch: tests/conftest.py" in outcome.notices


async def test_fix_with_a_module_named_as_one_of_the_standard_library(
    agent: Agent, tiny: FolderTaskSet, grader: SweGrader
) -> None:
    commands = f"{FIX}; mkdir tinykit/json; echo 'def dumps(x): return str(x)' > tinykit/json/__init__.py"
    assert (await grader.grade(tiny.get(TASK), await agent(commands))).resolved


async def test_fix_that_uses_suspicious_things_for_good_reasons(tiny: FolderTaskSet, grader: SweGrader) -> None:
    """A frame, an exit handler, a subclass with its own `==`: noticed, and solved all the same."""
    source = broken_source(tiny)
    after = source.replace("start < merged", "start <= merged") + (
        "\n\nimport atexit\nimport sys\n\natexit.register(lambda: None)\nCALLER = sys._getframe(0).f_lineno\n\n\n"
        "class Span(tuple):\n    def __eq__(self, other):\n        return tuple(self) == tuple(other)\n\n"
        "    __hash__ = tuple.__hash__\n\n\nplain_merge = merge\n\n\n"
        "def merge(ranges):\n    return [Span(pair) for pair in plain_merge(ranges)]\n"
    )
    outcome = await grader.grade(tiny.get(TASK), unified_diff(TARGET, source, after))
    assert outcome.resolved, outcome
    assert f"added code names atexit: {TARGET}" in outcome.notices


async def test_fix_solves_every_time(tiny: FolderTaskSet, provider: object) -> None:
    """Copies are drawn anew for each grade; none of the draws may hurt a sound patch."""
    for _ in range(6):
        grader = SweGrader(provider, tiny)  # type: ignore[arg-type]  # the fixture's type is the protocol
        outcome = await grader.grade(tiny.get(TASK), fix(tiny))
        assert outcome.resolved, outcome
        assert outcome.notices == ()


@pytest.mark.docker
async def test_on_docker(tiny: FolderTaskSet) -> None:
    """The fix and three attacks over the other back end."""
    provider = make_provider("docker", base_image=BASE_IMAGE)
    grader = SweGrader(provider, tiny)
    task = tiny.get(TASK)
    try:
        assert (await grader.grade(task, fix(tiny))).resolved
        attacks = {
            "conftest": new_file("conftest.py", "def pytest_pyfunc_call(pyfuncitem): return True\n"),
            "exit": with_code(tiny, "import os; os._exit(1)"),
            "equal": with_code(
                tiny, "class Yes(list):\n    def __eq__(self, other): return True\ndef merge(ranges): return Yes()"
            ),
            "runtest": with_code(tiny, "import _pytest.python as p\np.Function.runtest = lambda self: None\n"),
        }
        for name, patch in attacks.items():
            outcome = await grader.grade(task, patch)
            assert not outcome.resolved, (name, outcome)
    finally:
        await grader.close()
        await provider.close()
