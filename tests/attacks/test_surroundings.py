"""Attacks through what surrounds the repository: the shell, the interpreter, git, the network, the hidden tests."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from swegym.core.outcome import Outcome
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.graders import SweGrader
from swegym.envs.tasksets import FolderTaskSet, Manifest, sandbox_spec, save_task_set
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.workspace import extract_patch, prepare_workspace

from .conftest import with_code

pytestmark = pytest.mark.attack

Agent = Callable[[str], Awaitable[str]]
Grade = Callable[[str], Awaitable[Outcome]]

HIDDEN = "from m import double\n\n\ndef test_secret_of_the_grader():\n    assert double(2) == 4\n"
FAKE_PYTHON = "#!/bin/sh\\necho '7 passed in 0.01s'\\nexit 0\\n"


@pytest.mark.parametrize(
    "commands",
    [
        'mkdir bin; printf "FAKE" > bin/python; chmod +x bin/python; cp bin/python python; cp bin/python pytest\n'
        "for file in ~/.bashrc ~/.profile; do echo 'export PATH=/testbed/bin:$PATH' > $file; done\n"
        "export PATH=/testbed/bin:$PATH BASH_ENV=/root/.bashrc",
        'printf "FAKE" > python; chmod +x python\n'
        "for real in $(type -ap python python3); do cp python $real; ln -sf $PWD/python $real; done 2>/dev/null; :",
        "export PYTHONPATH=/testbed/evil PYTHONSTARTUP=/testbed/evil/x.py PYTEST_ADDOPTS='-p evil'\n"
        "mkdir evil; echo 'import os; os._exit(0)' | tee evil/sitecustomize.py > evil/evil.py",
        "python() { echo '7 passed'; }; pytest() { echo '7 passed'; }; export -f python pytest; echo > note",
    ],
    ids=["start files and PATH", "replaced python", "variables", "functions"],
)
async def test_shell_and_interpreter(agent: Agent, unsolved: Grade, commands: str) -> None:
    """None of this is in the patch, and a patch is all that is graded."""
    outcome = await unsolved(await agent(commands.replace("FAKE", FAKE_PYTHON)))
    assert outcome.reason == "tests_failed"


async def test_background_process_of_the_agent(agent: Agent, unsolved: Grade) -> None:
    commands = (
        "nohup bash -c 'while :; do for f in /tmp/swegym-*/*; do echo x > $f; done; sleep 0.1; done' &>/dev/null &\n"
        "(setsid sleep 300 &) ; echo waiting > note"
    )
    assert (await unsolved(await agent(commands))).reason == "tests_failed"


def task_with_history(folder: Path) -> FolderTaskSet:
    """A workspace that comes with a repository whose later commits, tag, stash and note hold the fix."""
    workspace = folder / "workspace"
    (workspace / "tests").mkdir(parents=True)
    broken, sound = "def double(x):\n    return x * 3\n", "def double(x):\n    return x * 2  # FUTURE\n"
    (workspace / "m.py").write_text(broken)
    (workspace / "tests/test_m.py").write_text("from m import double\n\n\ndef test_a():\n    assert double(1) == 2\n")

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *arguments], cwd=workspace, check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "start")
    (workspace / "m.py").write_text(sound)
    git("commit", "-qam", "FUTURE")
    git("tag", "v2")
    git("notes", "add", "-m", "FUTURE")
    git("branch", "later")
    git("reset", "-q", "--hard", "HEAD~1")
    (workspace / "m.py").write_text(sound)
    git("stash")
    git("gc", "-q")
    payload = SweTask(
        repo="m",
        image="m:1",
        recipe=ImageRecipe(workspace="workspace"),
        environment={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    task = Task(task_id="t", statement="mend it", provenance=Provenance(source="test"), payload=payload)
    secret = SweSecret(
        task_id="t",
        patch=unified_diff("m.py", broken, sound),
        FAIL_TO_PASS=("tests/test_m.py::test_a", "tests/test_hidden.py::test_secret_of_the_grader"),
        hidden_files={"tests/test_hidden.py": HIDDEN},
        baseline_s=0.3,
    )
    return save_task_set(folder, Manifest(name="history"), [task], [secret])


LOOT = """
git log --all -p; git reflog; git stash list; git stash show -p; git tag; git notes list
git fsck --lost-found --unreachable; git rev-list --all --objects
git cat-file --batch-all-objects --batch
for pack in $(find / -name '*.pack' -not -path '/proc/*' 2>/dev/null); do git unpack-objects -r < $pack; done
git cat-file --batch-all-objects --batch
grep -rl 'FUTURE\\|test_secret_of_the_grader' / --include=*.py --include=*.json* --exclude-dir=proc --exclude-dir=sys \
    --exclude-dir=usr --exclude-dir=.git 2>/dev/null
ls -R .git; cat .git/packed-refs .git/ORIG_HEAD .git/FETCH_HEAD
"""


async def test_future_commits_and_hidden_tests(provider: SandboxProvider, tmp_path: Path) -> None:
    """An agent that searches git and the disk finds neither, and what it then hands in is unsolved."""
    taskset = task_with_history(tmp_path)
    task, grader = taskset.get("t"), SweGrader(provider, taskset)
    sandbox = await provider.create(sandbox_spec(task, taskset))
    try:
        commit = await prepare_workspace(sandbox, task)
        loot = await sandbox.run(LOOT)
        assert "FUTURE" not in loot.text
        assert "test_secret_of_the_grader" not in loot.text
        assert "start" in loot.text
        await sandbox.run("git checkout -q later || git checkout -q v2 || git stash pop; echo nothing > note")
        patch = await extract_patch(sandbox, task, commit)
    finally:
        await sandbox.close()
    outcome = await grader.grade(task, patch)
    assert (outcome.resolved, outcome.reason) == (False, "tests_failed")
    assert (await grader.grade(task, taskset.secret("t").patch)).resolved


async def test_hidden_tests_read_while_they_run(provider: SandboxProvider, tmp_path: Path) -> None:
    """They lie there by then; an answer read from them agrees with the altered copies too."""
    taskset = task_with_history(tmp_path)
    code = (
        "import re, sys\n\n\ndef double(x):\n"
        "    name = sys._getframe(1).f_code.co_name\n"
        "    text = open(sys._getframe(1).f_code.co_filename).read().partition('def ' + name + '(')[2]\n"
        "    return int(re.search(r'== (\\d+)', text)[1])\n"
    )
    patch = unified_diff("m.py", "def double(x):\n    return x * 3\n", code)
    outcome = await SweGrader(provider, taskset).grade(taskset.get("t"), patch)
    assert (outcome.resolved, outcome.reason) == (False, "tampered")
    assert any(notice.startswith("altered_test_passed") for notice in outcome.notices)


@pytest.mark.parametrize(
    "look_up",
    [
        "urllib.request.urlopen('http://192.0.2.1/fix', timeout=1).read()",
        "socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "socket.getaddrinfo('example.org', 80)",
    ],
)
async def test_network_look_up(tiny: FolderTaskSet, agent: Agent, unsolved: Grade, look_up: str) -> None:
    """Neither the agent nor its code in the grader gets out; both do what they can when they fail."""
    script = (
        f"import socket, urllib.request\ntry:\n    {look_up}\nexcept OSError as error:\n    print('cut off', error)\n"
    )
    patch = await agent(f"cat > look.py <<'CODE'\n{script}\nCODE\npython look.py | grep 'cut off' > note && rm look.py")
    assert "+cut off" in patch
    code = f"import socket, urllib.request\n{look_up}\nmerge = lambda ranges: [(0, 4), (5, 7)]"
    assert (await unsolved(with_code(tiny, code))).reason in ("no_tests_ran", "tests_missing")
