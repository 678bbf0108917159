"""A start state that a warm pool made ahead is the same as one made at once, and shows as little of the cure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from swegym.core.errors import TaskError
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.core.task import LineEdit, Provenance, SweTask, Task
from swegym.envs import workspace as module
from swegym.envs.workspace import extract_patch, prepare_workspace, workspace_preparation

EVERYTHING = (
    "git rev-parse HEAD refs/swegym/start refs/heads/main; cat .git/HEAD; git status --porcelain --ignored;"
    " git cat-file --batch-all-objects --batch-check; git fsck --no-reflogs --unreachable --lost-found;"
    " cmp .git/index .git/swegym-index && git ls-files -s; find .git -type f ! -name '*index*' ! -path '*/objects/*'"
    " | LC_ALL=C sort; find .git/objects | LC_ALL=C sort; cat .git/config .git/info/*;"
    " find . -name .git -prune -o -printf '%P %y %#m %l\\n' | LC_ALL=C sort"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "tool.py": b"SOUND = 1\nrest\n",
        "windows.py": b"SOUND = 1\r\nrest\r\n",
        "latin.py": "# caf\xe9\nSOUND = 1".encode("latin-1"),
        "binary.dat": b"SOUND\0 = 1\n\x01\x7f\n",
        'quote\'s "x" $HOME.py': b"SOUND = 'it''s $(echo 1)' # `x`\n",
        "sub/deep/er.py": b"SOUND = 2\n",
        "twin_a.py": b"SOUND = 3\n",
        "twin_b.py": b"SOUND = 3\n",
        "other.py": b"x = 1\n",
        ".gitignore": b"*.log\nkept/\n",
        ".gitattributes": b"* text=auto\n*.py eol=crlf ident filter=no\n",
        "kept/ignored.log": b"SOUND = 4\n",
        "__pycache__/tool.cpython-311.pyc": b"SOUND code",
        "__pycache__/other.cpython-311.pyc": b"other code",
    }
    for name, data in files.items():
        path = tmp_path / "w" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (10**9, 10**9))  # else git looks at contents, for being as young as the index
    (tmp_path / "w" / "tool.py").chmod(0o755)
    (tmp_path / "w" / "link.py").symlink_to("sub/deep/er.py")
    return tmp_path / "w"


def make_task(*paths: str, text: str = "BROKEN", **payload: Any) -> Task:
    edits = tuple(LineEdit(path=path, first_line=1, last_line=1, text=text) for path in paths)
    payload = {"repo": "r", "image": "r:1", "start_edits": edits, **payload}
    return Task(
        task_id="t", statement="s", provenance=Provenance(source="test"), payload=SweTask.model_validate(payload)
    )


def spec_of(folder: Path, task: Task | None = None) -> SandboxSpec:
    prepare_command = workspace_preparation(task) if task else ""
    return SandboxSpec(image="r:1", workspace=str(folder), prepare_command=prepare_command)


async def shell(sandbox: Sandbox, command: str) -> str:
    result = await sandbox.run(command)
    assert result.exit_code == 0, result.text
    return result.text


@pytest.fixture
def from_the_beginning(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the tasks that were prepared from the beginning."""
    seen: list[str] = []
    original = module._prepare_from_the_beginning

    async def noted(sandbox: Sandbox, task: Task) -> str:
        seen.append(task.task_id)
        return await original(sandbox, task)

    monkeypatch.setattr(module, "_prepare_from_the_beginning", noted)
    return seen


@pytest.mark.parametrize(
    "paths",
    [
        [],
        ["tool.py"],
        ["tool.py", "sub/deep/er.py", "windows.py"],
        ["latin.py"],
        ["binary.dat", "other.py"],
        ['quote\'s "x" $HOME.py'],
        ["link.py"],
        ["kept/ignored.log"],
    ],
    ids=str,
)
async def test_the_same_state(
    provider: SandboxProvider, folder: Path, from_the_beginning: list[str], paths: list[str]
) -> None:
    task = make_task(*paths, setup_commands=("export F=1",))
    slow, fast = await provider.create(spec_of(folder)), await provider.create(spec_of(folder, task))
    commits = await prepare_workspace(slow, task), await prepare_workspace(fast, task, is_prepared=True)
    assert from_the_beginning == ["t"]
    assert commits[0] == commits[1]
    assert len(commits[0]) == 40
    states = await shell(slow, EVERYTHING), await shell(fast, EVERYTHING)
    assert states[0] == states[1]
    assert "unreachable" not in states[0]
    for sandbox in (slow, fast):
        for path in paths:
            assert (await sandbox.read_file(f"/testbed/{path}")).startswith(b"BROKEN")
        assert await shell(sandbox, "pwd; echo $F; ls /tmp") == "/testbed\n1\n"
        assert await extract_patch(sandbox, task, commits[0]) == ""
        await shell(sandbox, "echo 'y = 2' >> other.py; git commit -qam mine; git mv other.py moved.py")
    patches = [await extract_patch(sandbox, task, commits[0]) for sandbox in (slow, fast)]
    assert patches[0] == patches[1]
    assert "+y = 2" in patches[0]


async def test_the_cure_is_nowhere(provider: SandboxProvider, folder: Path, from_the_beginning: list[str]) -> None:
    task = make_task("tool.py")
    sandbox = await provider.create(spec_of(folder, task))
    assert b"SOUND" in await sandbox.read_file("/testbed/tool.py")
    await prepare_workspace(sandbox, task, is_prepared=True)
    assert from_the_beginning == []
    objects = "git cat-file --batch-all-objects --batch-check | cut -d' ' -f1"
    cure = (await shell(sandbox, "printf 'SOUND = 1\\nrest\\n' | git hash-object --stdin")).strip()
    assert cure not in await shell(sandbox, objects)
    assert (await sandbox.run(f"ls .git/objects/{cure[:2]}")).exit_code != 0
    texts = await shell(sandbox, f"for x in $({objects}); do git cat-file blob $x 2>/dev/null || true; done")
    assert "SOUND = 1\nrest\n" not in texts
    assert await shell(sandbox, "ls __pycache__") == "other.cpython-311.pyc\n"


@pytest.mark.parametrize("is_fit", [True, False])
async def test_what_does_not_fit_is_done_from_the_beginning(
    provider: SandboxProvider, folder: Path, from_the_beginning: list[str], is_fit: bool
) -> None:
    """Another file with the same content, a preparation of another kind, a broken or an absent one."""
    cases = [
        (make_task("twin_a.py"), make_task("twin_a.py")),
        (make_task(), make_task("tool.py")),
        (make_task(base_commit="abc"), make_task("tool.py")),
        (None, make_task("tool.py")),
    ]
    if is_fit:
        cases = [
            (make_task("tool.py"), make_task("sub/deep/er.py")),  # all tasks of a repository share their preparation
            (make_task("tool.py"), make_task("tool.py", text="SOUND = 1")),  # an edit that changes nothing
        ]
    for prepared, task in cases:
        sandbox, slow = await provider.create(spec_of(folder, prepared)), await provider.create(spec_of(folder))
        from_the_beginning.clear()
        commit = await prepare_workspace(sandbox, task, is_prepared=True)
        assert from_the_beginning == ([] if is_fit else ["t"])
        assert commit == await prepare_workspace(slow, task)
        assert await shell(sandbox, EVERYTHING) == await shell(slow, EVERYTHING)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (make_task("nowhere.py"), "nowhere.py"),
        (make_task(start_edits=({"path": "tool.py", "first_line": 9, "last_line": 9, "text": ""},)), "lines 9-9 of 2"),
        (make_task(setup_commands=("echo no luck; false",)), "no luck"),
        (make_task(base_commit="abc"), "cannot check out"),
        (make_task(workdir="/proc"), "cannot commit"),
    ],
)
async def test_broken_tasks_say_the_same(provider: SandboxProvider, folder: Path, task: Task, message: str) -> None:
    prepared = task if task.payload.workdir == "/testbed" else None
    sandbox = await provider.create(spec_of(folder, prepared))
    with pytest.raises(TaskError, match=message):
        await prepare_workspace(sandbox, task, is_prepared=True)


async def test_an_image_with_a_history(provider: SandboxProvider, folder: Path, from_the_beginning: list[str]) -> None:
    """The base commit is checked out while warming; neither its past nor its future is left."""
    maker = await provider.create(spec_of(folder))
    await shell(
        maker,
        "rm .gitattributes; git init -q . && git config user.name a && git config user.email b@c && git add -A -f"
        " && git commit -qm past"
        " && sed -i 's/SOUND/FUTURE/' tool.py && git commit -qam future && git tag v2",
    )
    past = (await shell(maker, "git rev-parse HEAD~1")).strip()
    history = folder.parent / "history"
    history.mkdir()
    for name in (await shell(maker, "git ls-files -z | tr '\\0' '\\n'; find .git -type f")).splitlines():
        path = history / name
        if not name.startswith('"') and "quote" not in name:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(await maker.read_file(f"/testbed/{name}"))
    task = make_task("tool.py", base_commit=past)
    sandbox = await provider.create(spec_of(history, task))
    await prepare_workspace(sandbox, task, is_prepared=True)
    assert from_the_beginning == []
    assert await sandbox.read_file("/testbed/tool.py") == b"BROKEN\nrest\n"
    objects = "for x in $(git cat-file --batch-all-objects --batch-check | cut -d' ' -f1); do git cat-file -p $x; done"
    texts = await shell(sandbox, f"{objects} | tr -d '\\0'; git log --oneline --all; git tag")
    assert "FUTURE" not in texts
    assert "v2" not in texts
    assert "future" not in texts


async def test_a_change_in_the_very_second_of_the_start(provider: SandboxProvider, folder: Path) -> None:
    """Same file, same size, same second, same inode: only its content tells."""
    task = make_task("tool.py", text="BROKEN = 1")
    for _ in range(10):
        sandbox = await provider.create(spec_of(folder, task))
        commit = await prepare_workspace(sandbox, task, is_prepared=True)
        times = await shell(sandbox, "x=$(stat -c '%Y %Z %i' tool.py); printf 'MENDED = 1\nrest\n' >tool.py; echo $x")
        is_same_second = times == await shell(sandbox, "stat -c '%Y %Z %i' tool.py; sleep 1.1")
        patch = await extract_patch(sandbox, task, commit)
        assert "+MENDED = 1" in patch
        await sandbox.close()
        if is_same_second:
            return
    pytest.fail("no start and change within one second")
