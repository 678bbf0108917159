"""Start state and patch extraction: whatever is in the work tree must come out of the patch again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.errors import TaskError
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.core.task import LineEdit, Provenance, SweTask, Task
from swegym.envs.workspace import GIT, apply_line_edits, extract_patch, prepare_workspace

TREE = (
    "find . -name .git -prune -o ! -type d -printf '%P %y %#m %l\\n' | LC_ALL=C sort;"
    " find . -name .git -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum"
)


def make_task(**payload: object) -> Task:
    values: dict[str, object] = {"repo": "r", "image": "r:1", **payload}
    return Task(
        task_id="t", statement="s", provenance=Provenance(source="test"), payload=SweTask.model_validate(values)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "plain.txt": b"one\ntwo\nthree\n",
        "windows.txt": b"one\r\ntwo\r\n",
        "open end.txt": b"no newline",
        "latin.py": "# caf\xe9\nx = 1\n".encode("latin-1"),
        "data.bin": bytes(range(256)),
        "na\u00efve.py": b"a = 1\n",
        "tool.sh": b"echo hi\n",
        "gone.txt": b"delete me\n",
        "sub/deep.py": b"a\n",
        ".gitignore": b"*.log\nkept/\n",
        ".gitattributes": b"* text=auto\n*.txt eol=crlf\n",
        "kept/ignored.log": b"tracked although ignored\n",
    }
    for name, data in files.items():
        path = tmp_path / "w" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "w"


@pytest.fixture
async def sandbox(provider: SandboxProvider, folder: Path) -> AsyncIterator[Sandbox]:
    sandbox = await provider.create(SandboxSpec(image="r:1", workspace=str(folder)))
    yield sandbox
    await sandbox.close()


async def shell(sandbox: Sandbox, command: str) -> str:
    result = await sandbox.run(command)
    assert result.exit_code == 0, result.text
    return result.text


async def round_trip(provider: SandboxProvider, folder: Path, sandbox: Sandbox, commands: str) -> str:
    """Change the tree, take the patch, apply it to a fresh tree, and compare the two; returns the patch."""
    commit = await prepare_workspace(sandbox, make_task())
    await shell(sandbox, commands)
    before = await shell(sandbox, TREE)
    patch = await extract_patch(sandbox, make_task(), commit)
    assert await shell(sandbox, TREE) == before, "taking the patch changed the tree"
    fresh = await provider.create(SandboxSpec(image="r:1", workspace=str(folder)))
    try:
        await prepare_workspace(fresh, make_task())
        await fresh.write_file("/tmp/patch", patch.encode())
        if patch:
            await shell(fresh, f"{GIT} apply --whitespace=nowarn /tmp/patch")
        assert await shell(fresh, TREE) == before
    finally:
        await fresh.close()
    return patch


@pytest.mark.parametrize(
    "commands",
    [
        "sed -i s/two/2/ plain.txt windows.txt",
        "printf 'more' >> 'open end.txt'; printf 'x\\r\\ny' > mixed.txt",
        "printf 'y = 2\\n' >> latin.py",
        "printf '\\0\\1\\2' >> data.bin; head -c 70000 /dev/zero > new.bin",
        "echo 'b = 2' >> na\u00efve.py; echo x > '\u65e5\u672c \"q\" \\ tab\t.py'; echo y > $'new\\nline'",
        "chmod +x tool.sh; ln -s plain.txt link; rm gone.txt; mkdir -p a/b && touch a/b/empty",
        "mv plain.txt moved.txt; rm -r sub; printf 'now a file\\n' > sub",
        "echo more >> kept/ignored.log",
        "git config --global diff.noprefix true; git config diff.external /bin/false; echo x >> plain.txt",
        "git config color.ui always; git config diff.algorithm patience; echo x >> plain.txt",
        "echo x >> plain.txt; git add -A; git commit -qm mine; echo y >> plain.txt; git checkout -q -b other",
        "git rm -q --cached plain.txt; git update-index --assume-unchanged windows.txt; echo z >> windows.txt",
        "touch .git/index.lock; echo x >> plain.txt",
        'for i in $(seq 3000); do echo "line $i of a long file"; done > long.txt',
        "true",
    ],
)
async def test_round_trip(provider: SandboxProvider, folder: Path, sandbox: Sandbox, commands: str) -> None:
    patch = await round_trip(provider, folder, sandbox, commands)
    assert bool(patch) == (commands != "true")


async def test_nested_repositories_come_along(provider: SandboxProvider, folder: Path, sandbox: Sandbox) -> None:
    commands = (
        "mkdir e n; git init -q e; echo 1 > e/f; cd n; git init -q .; echo 2 > g; git add g;"
        " git -c user.name=a -c user.email=b commit -qm x; cd .."
    )
    patch = await round_trip(provider, folder, sandbox, commands)
    assert "b/e/f" in patch
    assert "b/n/g" in patch
    assert "Subproject" not in patch
    assert await shell(sandbox, "git -C n log --oneline | wc -l") == "1\n"


async def test_ignored_new_files_and_bytecode_stay_out(sandbox: Sandbox) -> None:
    commit = await prepare_workspace(sandbox, make_task())
    await shell(sandbox, "echo x > run.log; mkdir __pycache__; echo x > __pycache__/a.cpython-311.pyc")
    assert await extract_patch(sandbox, make_task(), commit) == ""


async def test_destroyed_repository_hands_in_nothing(sandbox: Sandbox) -> None:
    commit = await prepare_workspace(sandbox, make_task())
    await shell(sandbox, "echo x >> plain.txt; rm -rf .git")
    assert await extract_patch(sandbox, make_task(), commit) == ""


async def test_moved_refs_do_not_matter_with_the_commit(sandbox: Sandbox) -> None:
    commit = await prepare_workspace(sandbox, make_task())
    await shell(sandbox, "echo x >> plain.txt; git commit -qam mine; git update-ref refs/swegym/start HEAD")
    assert "+x" in await extract_patch(sandbox, make_task(), commit)


async def test_start_state_is_one_clean_commit_without_the_cure(provider: SandboxProvider, folder: Path) -> None:
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__/tool.cpython-311.pyc").write_bytes(b"sound")
    (folder / "tool.py").write_bytes(b"SOUND = 1\nrest\n")
    (folder / "tool.py").chmod(0o755)
    (folder / ".git").mkdir()
    (folder / ".git/stale").write_bytes(b"history")
    edit = LineEdit(path="tool.py", first_line=1, last_line=1, text="BROKEN = 1")
    task = make_task(start_edits=(edit,), setup_commands=("export F=tool.py", "cd sub"))
    hashes = set()
    for _ in range(2):
        sandbox = await provider.create(SandboxSpec(image="r:1", workspace=str(folder)))
        try:
            hashes.add(await prepare_workspace(sandbox, task))
            assert await shell(sandbox, "echo $F; basename $PWD; cd ..") == "tool.py\nsub\n"
            assert await sandbox.read_file("/testbed/tool.py") == b"BROKEN = 1\nrest\n"
            assert (
                await shell(sandbox, "stat -c %a tool.py; git status --porcelain; git log --oneline | wc -l")
                == "755\n1\n"
            )
            listing = "git cat-file --batch-all-objects --batch-check | cut -d' ' -f1 | xargs -n1 git cat-file -p"
            assert "SOUND" not in await shell(sandbox, f"{listing}; ls -a .git __pycache__")
            assert await shell(sandbox, "ls __pycache__ .git/stale 2>/dev/null || true") == "__pycache__:\n"
        finally:
            await sandbox.close()
    assert len(hashes) == 1
    assert all(len(commit) == 40 for commit in hashes)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"start_edits": ({"path": "nowhere.py", "first_line": 1, "last_line": 1, "text": ""},)}, "nowhere.py"),
        ({"start_edits": ({"path": "plain.txt", "first_line": 9, "last_line": 9, "text": ""},)}, "lines 9-9 of 3"),
        ({"setup_commands": ("echo no luck; false",)}, "no luck"),
        ({"base_commit": "abc"}, "cannot check out"),
    ],
)
async def test_broken_tasks(sandbox: Sandbox, payload: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        await prepare_workspace(sandbox, make_task(**payload))


@pytest.mark.parametrize(
    ("data", "edits", "expected"),
    [
        (b"a\nb\nc\n", [(2, 2, "B")], b"a\nB\nc\n"),
        (b"a\r\nb\r\n", [(1, 1, "A")], b"A\r\nb\r\n"),
        (b"a\nb", [(2, 2, "B")], b"a\nB"),
        (b"a\nb\n", [(2, 2, "")], b"a\n"),
        (b"a\nb\n", [(1, 0, "new")], b"new\na\nb\n"),
        (b"a\nb\n", [(3, 2, "end")], b"a\nb\nend\n"),
        (b"a\nb\nc\nd\n", [(1, 1, "1\n1b"), (3, 4, "34")], b"1\n1b\nb\n34\n"),
        (b"", [(1, 0, "x")], b"x\n"),
    ],
)
def test_line_edits_by_hand(data: bytes, edits: list[tuple[int, int, str]], expected: bytes) -> None:
    records = [LineEdit(path="p", first_line=first, last_line=last, text=text) for first, last, text in edits]
    assert apply_line_edits(data, records) == expected


def test_overlapping_edits_are_refused() -> None:
    edits = [
        LineEdit(path="p", first_line=1, last_line=2, text="x"),
        LineEdit(path="p", first_line=2, last_line=3, text="y"),
    ]
    with pytest.raises(TaskError, match="overlap at line 2"):
        apply_line_edits(b"a\nb\nc\n", edits)
