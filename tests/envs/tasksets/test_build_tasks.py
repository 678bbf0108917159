"""Tasks of the five kinds from a folder: recipe, validation, report, difficulty, verdicts that load leaves alone."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.core.sandbox import ExecResult, Sandbox, SandboxProvider, SandboxSpec
from swegym.core.task import LineEdit
from swegym.envs.graders import SweGrader
from swegym.envs.tasksets import FolderTaskSet
from swegym.envs.tasksets.baseline import FileBaseline
from swegym.envs.tasksets.build import BuildReport, build_tasks
from swegym.envs.tasksets.journal import Journal
from swegym.envs.tasksets.mutate.candidates import MutateOptions
from swegym.envs.tasksets.mutate.kinds import KINDS
from swegym.envs.tasksets.sources import find_source
from swegym.envs.tasksets.staging import Staged, stage
from swegym.envs.tasksets.validation import validate_candidates
from swegym.envs.tasksets.verdicts import Rules, Verdict

MODULE = '''"""Little things to count."""


def clamp(value, low, high=10):
    """Bring a value into a range."""
    if low > high:
        raise ValueError("empty range")
    if value < low:
        return low
    total = value + 0
    if total > high:
        total = high
    return total


def describe(name, count, sep=": "):
    """A line of text."""
    label = name.title()
    if count == 1:
        unit = "item"
    else:
        unit = "items"
    return join(label, sep, str(count) + " " + unit)


def join(left, sep, right):
    """Three texts in a row."""
    return left + sep + right


def mean(values, default=None):
    """The arithmetic mean."""
    total = 0
    number = 0
    for value in values:
        total += value
        number += 1
    if not number:
        return default
    return total / number
'''
TESTS = """import pytest
from counting import clamp, describe, join, mean


@pytest.mark.parametrize("value, expected", [(-3, 0), (4, 4), (99, 10)])
def test_clamp(value, expected):
    assert clamp(value, 0) == expected


def test_clamp_empty():
    with pytest.raises(ValueError):
        clamp(1, 5, 2)


def test_describe():
    assert describe("cats", 2) == "Cats: 2 items"
    assert describe("cats", 1, sep="-") == "Cats-1 item"


def test_join():
    assert join("a", "b", "c") == "abc"


def test_mean():
    assert mean([1, 2, 6]) == 3
    assert mean([], 7) == 7
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "counting"
    (folder / "src/counting").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "src/counting/__init__.py").write_text(MODULE)
    (folder / "tests/test_counting.py").write_text(TESTS)
    (folder / "pyproject.toml").write_text('[project]\nname = "counting"\nversion = "2.0"\nlicense = "MIT"\n')
    return folder


async def build(
    provider: SandboxProvider, source: Path, out: Path, num_train: int = 8, **options: object
) -> BuildReport:
    return await build_tasks(
        str(source), out, num_train, 0, 0, 2, provider, options=MutateOptions.model_validate(options)
    )


class Tags(HTMLParser):
    """Raises when a page names anything outside itself."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe")
        assert not {"src", "href"} & {name for name, _ in attrs}


async def test_five_kinds_are_built_and_graded(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    report = await build(provider, source, tmp_path / "out", 10)
    taskset = FolderTaskSet(tmp_path / "out")
    assert report.num_train == len(taskset) == 10
    assert set(report.kinds) == set(KINDS)
    assert taskset.manifest.license == "MIT"
    grader = SweGrader(provider, taskset, jobs=2)
    try:
        for task in list(taskset)[::4]:
            secret = taskset.secret(task.task_id)
            assert (await grader.grade(task, secret.patch)).resolved
            idle = "diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+x\n"
            assert (await grader.grade(task, idle)).reason == "tests_failed"
            assert task.payload.environment["PYTHONPATH"].startswith("/testbed/src:")
            assert secret.FAIL_TO_PASS[0] in task.statement
            removed = [
                line[1:].strip() for line in secret.patch.splitlines() if line.startswith("+") and line[1] != "+"
            ]
            public = task.model_dump_json()
            kept = " ".join(edit.text for edit in task.payload.start_edits)
            assert all(json.dumps(line)[1:-1] not in public for line in removed if len(line) > 12 and line not in kept)
    finally:
        await grader.close()
    markdown = (tmp_path / "out/report.md").read_text()
    assert "## Examples" in markdown
    assert "| operators |" in markdown
    Tags().feed((tmp_path / "out/report.html").read_text())
    assert "counting 2.0" in (tmp_path / "out/recipe.toml").read_text()


async def test_several_bugs_each_of_which_matters(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    report = await build(
        provider,
        source,
        tmp_path / "out",
        2,
        num_edits=2,
        mix={"operators": 1, "statements": 1},
        hint="line",
        min_broken=2,
    )
    taskset = FolderTaskSet(tmp_path / "out")
    assert report.num_train == len(taskset) == 2
    grader = SweGrader(provider, taskset, jobs=2)
    try:
        task = next(iter(taskset))
        secret = taskset.secret(task.task_id)
        assert len(task.payload.start_edits) == 2
        assert len(secret.FAIL_TO_PASS) >= 2
        assert all(f"line {edit.first_line}" in task.statement for edit in task.payload.start_edits)
        assert (await grader.grade(task, secret.patch)).resolved
        head, *hunks = secret.patch.split("@@ -")
        assert len(hunks) == 2
        for hunk in hunks:
            outcome = await grader.grade(task, f"{head}@@ -{hunk}")
            assert outcome.reason == "tests_failed", "mending one of two bugs is not enough"
    finally:
        await grader.close()


async def test_recipe_is_kept_and_can_be_mended(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (source / "requirements-test.txt").write_text("no-such-package-of-ours==1\n")
    with pytest.raises(ConfigError, match=r"no-such-package-of-ours.*recipe\.toml, which you can edit"):
        await build(provider, source, out, 2)
    text = (out / "recipe.toml").read_text()
    (out / "recipe.toml").write_text(text.replace('    "no-such-package-of-ours==1",\n', ""))
    await build(provider, source, out, 2)
    with pytest.raises(ConfigError, match="holds tasks of folder:counting"):
        (out / "recipe.toml").write_text(text.replace("no-such-package-of-ours==1", "iniconfig"))
        await build(provider, source, out, 2)


async def test_recipe_with_paths_that_are_not_there(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("test_paths = ['../elsewhere']\n")
    with pytest.raises(ConfigError, match=r"'\.\./elsewhere' is not a path of the source"):
        await build_tasks(str(source), tmp_path / "out", 2, 0, 0, 1, provider, recipe=recipe)


async def test_compiled_package_is_refused(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    (source / "src/counting/fast.pyx").write_text("")
    with pytest.raises(ConfigError, match=r"compiled parts.*--recipe"):
        await build(provider, source, tmp_path / "out")


async def test_flaky_tests_are_left_out(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    flaky = "\n\ndef test_order():\n    assert list({'a', 'b', 'c', 'd', 'e', 'f', 'g'})[0] == 'a'\n"
    stale = (
        "\n\ndef test_first():\n    import os, sys\n    assert not [m for m in sys.modules if m.startswith('test_z')]\n"
    )
    (source / "tests/test_counting.py").write_text(TESTS + flaky)
    (source / "tests/test_a.py").write_text(stale)
    (source / "tests/test_z.py").write_text("def test_z(): pass\n")
    report = await build(provider, source, tmp_path / "out", 2)
    assert set(report.unstable) >= {"tests/test_a.py::test_first"}
    secrets = (tmp_path / "out/secrets.jsonl").read_text()
    assert "test_first" not in secrets
    if "tests/test_counting.py::test_order" in report.unstable:  # it may pass four times in a row
        assert "test_order" not in secrets


def staged_slow(source: Path, out: Path) -> Staged:
    (source / "tests/test_slow.py").write_text("import counting\n\ndef test_slow():\n    counting.wait()\n")
    (source / "src/counting/__init__.py").write_text("def wait():\n    return 1\n")
    return stage(find_source(str(source)), out, ())


class Single:
    """A queue with one candidate, which makes a test hang while a file says that the machine is busy."""

    key, split, kind, parts, baseline_s = "k", "train", "operators", (), 0.1
    test_files = (FileBaseline(path="tests/test_slow.py", duration_s=0.1, stable=("tests/test_slow.py::test_slow",)),)
    edits = (
        LineEdit(
            path="src/counting/__init__.py",
            first_line=2,
            last_line=2,
            text="    import os\n    while os.path.exists('/tmp/busy'): pass\n    raise ValueError\n",
        ),
    )

    def __init__(self) -> None:
        self.verdicts: list[Verdict] = []
        self._left = 1

    def next(self) -> Single | None:
        self._left -= 1
        return self if self._left >= 0 else None

    def record(self, candidate: Single, verdict: Verdict) -> None:
        self.verdicts.append(verdict)


class BusyAtFirst:
    """A real provider whose first sandbox is so busy that every test hangs."""

    name = "local"

    def __init__(self, provider: SandboxProvider) -> None:
        self._provider = provider
        self.results: list[ExecResult] = []
        self.num_made = 0

    async def create(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await self._provider.create(spec)
        self.num_made += 1
        if self.num_made == 1:
            await sandbox.write_file("/tmp/busy", b"")
        return sandbox

    async def close(self) -> None: ...


async def test_what_ran_out_of_time_is_tried_alone(provider: SandboxProvider, source: Path, tmp_path: Path) -> None:
    queue, busy = Single(), BusyAtFirst(provider)
    await validate_candidates(
        queue,
        staged_slow(source, tmp_path / "out"),
        busy,
        Journal(tmp_path / "journal.jsonl", Verdict),
        jobs=2,
        test_command="python -m pytest",
        rules=Rules(),
    )
    assert busy.num_made == 2
    assert [verdict.status for verdict in queue.verdicts] == ["broken"]
