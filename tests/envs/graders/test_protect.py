"""Applying patches in a real sandbox. Rows A1 to A24 are those of the public failure log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.graders.protect import EXACT, LENIENT, Applied, apply_patch, protected_paths
from swegym.envs.tasksets.diff import unified_diff

TEXT = "".join(f"line {number}\n" for number in range(1, 21))
CHANGED = TEXT.replace("line 10\n", "line ten\n")
DIFF = unified_diff("a.txt", TEXT, CHANGED)


@pytest.fixture
async def tree(provider: SandboxProvider, tmp_path: Path) -> AsyncIterator[Sandbox]:
    workspace = tmp_path / "workspace"
    (workspace / "tests").mkdir(parents=True)
    (workspace / "a.txt").write_text(TEXT)
    (workspace / "crlf.txt").write_bytes(TEXT.replace("\n", "\r\n").encode())
    (workspace / "naïve file.txt").write_text(TEXT)
    (workspace / "tests/test_a.py").write_text("def test_a(): pass\n")
    (workspace / ".gitattributes").write_text("* text=auto\n")
    sandbox = await provider.create(SandboxSpec(image="", workspace=str(workspace)))
    yield sandbox
    await sandbox.close()


async def apply(sandbox: Sandbox, patch: str, strategies: Sequence[str] = EXACT) -> Applied:
    protected = protected_paths(["tests"], ["tests/test_a.py"])
    return await apply_patch(sandbox, "/testbed", patch, protected, "/tmp/grader", strategies)


async def read(sandbox: Sandbox, path: str = "a.txt") -> str:
    return (await sandbox.read_file(f"/testbed/{path}")).decode()


async def test_exactly(tree: Sandbox) -> None:
    assert await apply(tree, DIFF) == Applied("applied", "git apply")
    assert await read(tree) == CHANGED


async def test_row_a1_patch_without_its_last_newline(tree: Sandbox) -> None:
    assert (await apply(tree, DIFF.rstrip("\n"))).status == "applied"


async def test_row_a3_windows_line_ends(tree: Sandbox) -> None:
    """Though the tree's attributes ask git to change them."""
    before, after = (text.replace("\n", "\r\n") for text in (TEXT, CHANGED))
    assert (await apply(tree, unified_diff("crlf.txt", before, after))).status == "applied"
    assert await read(tree, "crlf.txt") == after


async def test_row_a5_blanks_at_line_ends_stay(tree: Sandbox) -> None:
    after = TEXT.replace("line 10\n", "line 10 \t \n")
    assert (await apply(tree, unified_diff("a.txt", TEXT, after))).status == "applied"
    assert await read(tree) == after


@pytest.mark.parametrize("strategies", [EXACT, LENIENT])
async def test_row_a7_binary_without_content_is_not_taken_for_applied(tree: Sandbox, strategies: Sequence[str]) -> None:
    """GNU patch ends with 0 for it and changes nothing."""
    patch = "diff --git a/x.bin b/x.bin\nindex 111..222 100644\nBinary files a/x.bin and b/x.bin differ\n"
    assert (await apply(tree, patch, strategies)).status == "does_not_apply"


async def test_row_a13_patch_longer_than_any_argument(tree: Sandbox) -> None:
    after = TEXT + "x" * 300_000 + "\n"
    assert (await apply(tree, unified_diff("a.txt", TEXT, after))).status == "applied"
    assert await read(tree) == after


async def test_row_a15_settings_of_the_image_make_no_difference(tree: Sandbox) -> None:
    await tree.run("git config --global color.ui always; git config --global apply.whitespace fix")
    assert (await apply(tree, DIFF)).status == "applied"


async def test_row_a17_wrong_counts(tree: Sandbox) -> None:
    wrong = DIFF.replace("@@ -7,7 +7,7 @@", "@@ -7,9 +7,4 @@")
    assert wrong != DIFF
    assert (await apply(tree, wrong)).status == "does_not_apply"
    assert await apply(tree, wrong, LENIENT) == Applied("applied", "git apply --recount")
    assert await read(tree) == CHANGED


async def test_row_a18_names_beyond_ascii(tree: Sandbox) -> None:
    patch = unified_diff("naïve file.txt", TEXT, CHANGED)
    assert (await apply(tree, patch)).status == "applied"
    assert await read(tree, "naïve file.txt") == CHANGED


async def test_row_a18_quoted_names(tree: Sandbox) -> None:
    name = '"{}/na\\303\\257ve file.txt"'
    patch = unified_diff("naïve file.txt", TEXT, CHANGED)
    for side in "ab":
        patch = patch.replace(f"{side}/naïve file.txt", name.format(side))
    assert (await apply(tree, patch)).status == "applied"
    assert await read(tree, "naïve file.txt") == CHANGED


async def test_row_a21_each_way_starts_from_a_clean_tree(tree: Sandbox) -> None:
    """One file fits and the other does not: nothing of the first is left, whichever way was tried last."""
    misfit = unified_diff("crlf.txt", TEXT.replace("line", "word"), CHANGED.replace("line", "word"))
    assert (await apply(tree, DIFF + misfit, LENIENT)).status == "does_not_apply"
    assert await read(tree) == TEXT
    assert (await tree.run("ls")).text.split() == ["a.txt", "crlf.txt", "naïve", "file.txt", "tests"]


async def test_fuzz(tree: Sandbox) -> None:
    """Context that has moved on is for GNU patch only, and the result says so."""
    stale = DIFF.replace(" line 7\n", " line seven\n").replace(" line 13\n", " line thirteen\n")
    assert (await apply(tree, stale)).status == "does_not_apply"
    assert await apply(tree, stale, LENIENT) == Applied("applied", "patch --fuzz=5")
    assert await read(tree) == CHANGED


@pytest.mark.parametrize("strategies", [EXACT, LENIENT])
async def test_row_a24_protected_paths_come_back(tree: Sandbox, strategies: Sequence[str]) -> None:
    """Edited, new, deleted and renamed; at any depth for what pytest reads by itself."""
    test = "def test_a(): pass\n"
    new = "diff --git a/{0} b/{0}\nnew file mode 100644\n--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+x\n"
    patch = (
        DIFF
        + unified_diff("tests/test_a.py", test, "")
        + "".join(new.format(path) for path in ("tests/b.py", "deep/down/conftest.py", "tox.ini", "keep/tox.ini"))
    )
    assert (await apply(tree, patch, strategies)).status == "applied"
    assert await read(tree) == CHANGED
    assert await read(tree, "tests/test_a.py") == test
    left = (await tree.run("cd /testbed && find . -type f | sort")).text.split("\n")
    assert [
        path for path in left if path not in ("", "./.gitattributes", "./a.txt", "./crlf.txt", "./naïve file.txt")
    ] == [
        "./keep/tox.ini",
        "./tests/test_a.py",
    ]


async def test_renamed_test_comes_back(tree: Sandbox) -> None:
    patch = (
        "diff --git a/tests/test_a.py b/elsewhere.py\nsimilarity index 100%\n"
        "rename from tests/test_a.py\nrename to elsewhere.py\n"
    )
    assert (await apply(tree, patch)).status == "applied"
    assert await read(tree, "tests/test_a.py") == "def test_a(): pass\n"


def test_protected_paths() -> None:
    assert protected_paths(["conftest.py", "docs/"], ["pkg/tests/deep/test_a.py", "check_b.py"]) == (
        "conftest.py",
        "docs",
        "pkg/tests",
        "tox.ini",
        "setup.cfg",
        "pyproject.toml",
        *(f"pkg/{name}" for name in ("tox.ini", "setup.cfg", "pyproject.toml")),
        *(f"pkg/tests/{name}" for name in ("tox.ini", "setup.cfg", "pyproject.toml")),
        *(f"pkg/tests/deep/{name}" for name in ("tox.ini", "setup.cfg", "pyproject.toml")),
        "check_b.py",
    )
