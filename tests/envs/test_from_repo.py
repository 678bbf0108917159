"""A folder as a task set: what is refused, and that cure and bug are each other's reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swegym.core.action import ToolCall
from swegym.core.errors import ConfigError, UnknownName
from swegym.core.task import LineEdit, TaskSet
from swegym.envs import RepoTaskSet, SweEnv, task_set_from_repo
from swegym.envs.tasksets.from_repo import repo_task

TEST = "tests/test_calc.py::test_add"
BUG = LineEdit(path="calc.py", first_line=2, last_line=2, text="    return a - b")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "My Repo"
    (root / "tests").mkdir(parents=True)
    (root / "calc.py").write_bytes(b"def add(a, b):\n    return a + b")  # no newline at the end
    (root / "conftest.py").write_text("")
    (root / "tests" / "test_calc.py").write_text("from calc import add\ndef test_add(): assert add(2, 3) == 5\n")
    return root


def arguments(**changes: Any) -> dict[str, Any]:
    return {"statement": "mend add", "fail_to_pass": [TEST], "bug": [BUG]} | changes


async def test_a_whole_repository_is_broken_and_its_cure_known(repository: Path) -> None:
    taskset = task_set_from_repo(repository, **arguments())
    assert isinstance(taskset, TaskSet)
    assert taskset.secret("My Repo").patch == (
        "diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n"
        "-    return a - b\n\\ No newline at end of file\n+    return a + b\n\\ No newline at end of file\n"
    )
    env = SweEnv(taskset=taskset, sandbox="local")
    rewards = []
    for command in (f"git apply <<'EOF'\n{taskset.secret('My Repo').patch}EOF", "echo '# thinking' >> calc.py"):
        await env.start(taskset.get("My Repo"))
        assert (await env.act(ToolCall(tool="bash", body=command))).observation.text == ""
        rewards.append((await env.act(ToolCall(tool="submit"))).reward)
    await env.aclose()
    assert rewards == [1.0, 0.0]
    assert (repository / "calc.py").read_bytes().endswith(b"a + b")


async def test_hidden_tests_stay_hidden_and_decide(repository: Path) -> None:
    hidden = {"tests/test_hidden.py": "from calc import add\ndef test_more(): assert add(1, 1) == 2\n"}
    taskset = task_set_from_repo(
        repository, **arguments(fail_to_pass=["tests/test_hidden.py::test_more"], hidden_files=hidden)
    )
    env = SweEnv(taskset=taskset, sandbox="local")
    await env.start(taskset.get("My Repo"))
    found = await env.act(ToolCall(tool="bash", body="grep -rs test_more /testbed /tmp $HOME"))
    assert found.observation.text == "[exit code 1]"
    await env.act(ToolCall(tool="bash", body="sed -i 's/a - b/a + b/' calc.py"))
    assert (await env.act(ToolCall(tool="submit"))).reward == 1.0
    await env.aclose()


def test_gold_patch_from_a_file(repository: Path) -> None:
    cure = repository.parent / "cure.patch"
    cure.write_bytes(b"diff --git a/x b/x\r\n")
    taskset = task_set_from_repo(repository, **arguments(bug=(), gold_patch=cure))
    assert taskset.secret("My Repo").patch == "diff --git a/x b/x\r\n"
    assert "cure" not in taskset.get("My Repo").model_dump_json()


def test_the_image_follows_the_tree(repository: Path) -> None:
    def image() -> str:
        return repo_task(repository, task_id="t", **arguments())[0].payload.image

    first = image()
    assert first.startswith("my-repo:")
    (repository / "__pycache__").mkdir()
    (repository / "__pycache__" / "calc.pyc").write_bytes(b"1")
    assert image() == first
    (repository / "new.txt").write_text("")
    assert image() != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"statement": " "}, "needs a statement"),
        ({"fail_to_pass": []}, "at least one fail_to_pass"),
        ({"fail_to_pass": ["tests/test_none.py::test_a"]}, "lies in a file that"),
        ({"gold_patch": "diff"}, "either gold_patch"),
        ({"bug": ()}, "either gold_patch"),
        ({"bug": [BUG.model_copy(update={"text": "    return a + b"})]}, "changes nothing"),
        ({"bug": [BUG.model_copy(update={"last_line": 9})]}, "lines 2-9 of 2"),
        ({"bug": [BUG.model_copy(update={"path": "no.py"})]}, "'no.py': No such file"),
        ({"bug": (), "gold_patch": Path("no.patch")}, "cannot read no.patch"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(repository: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        task_set_from_repo(repository, **arguments(**changes))
    assert "\n" not in str(caught.value)


def test_a_cure_inside_the_repository_is_refused(repository: Path) -> None:
    (repository / "gold.patch").write_text("diff")
    with pytest.raises(ConfigError, match="where the agent would find the cure"):
        task_set_from_repo(repository, **arguments(bug=(), gold_patch=repository / "gold.patch"))


def test_several_tasks_over_one_repository(repository: Path) -> None:
    tasks = [repo_task(repository, task_id=name, **arguments()) for name in ("one", "two")]
    taskset = RepoTaskSet("both", repository.parent, tasks)
    assert (taskset.ids(), len(taskset), [task.task_id for task in taskset]) == (["one", "two"], 2, ["one", "two"])
    with pytest.raises(UnknownName, match="did you mean one"):
        taskset.secret("onne")
    with pytest.raises(ConfigError, match="an id of its own"):
        RepoTaskSet("both", repository.parent, [tasks[0], tasks[0]])
    with pytest.raises(ConfigError, match="no repository folder"):
        task_set_from_repo(repository / "none", **arguments())
