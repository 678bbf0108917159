"""Applying a patch in a grading sandbox so that tests and test configuration stay as the task shipped them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from swegym.core.sandbox import ExecResult, Sandbox
from swegym.core.similarity import parse_patch
from swegym.envs.workspace import ATTRIBUTES, GIT

__all__ = ["apply_patch", "touched_protected_paths"]

DOES_NOT_APPLY = 91
NOT_RESTORED = 92

CONFIG_NAMES = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "sitecustomize.py",
    "usercustomize.py",
)
"""Files that steer pytest or Python's start wherever they lie; restored at any depth, new ones removed."""


async def apply_patch(sandbox: Sandbox, workdir: str, patch: str, protected: Iterable[str], folder: str) -> ExecResult:
    """Apply a patch exactly, then put the protected paths back to what they were before it.

    Restoring is done on the files and not by filtering the patch: whatever way a patch finds to a protected path
    (renames, links, quoted names), its effect is undone. Bytecode is never taken from a patch.

    Args:
        sandbox: fresh, at the task's start state.
        workdir: root of the work tree.
        patch: unified diff, as `extract_patch` makes it.
        protected: paths relative to the root.
        folder: where to keep the patch and the copies, outside the work tree.

    Returns:
        Exit code 0, `DOES_NOT_APPLY` (git's message in the output), `NOT_RESTORED`, or another for a broken sandbox.
    """
    data = patch.encode("utf-8", "surrogateescape")
    await sandbox.write_file(f"{folder}/patch", data if data.endswith(b"\n") else data + b"\n", mode=0o600)
    paths = " ".join(shlex.quote(path.rstrip("/")) for path in dict.fromkeys(protected))
    find = "find . -name .git -prune -o \\( " + " -o ".join(f"-name {name}" for name in CONFIG_NAMES) + " \\) -print0"
    script = f"""(
    cd {shlex.quote(workdir)} || exit 64
    unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
    rm -rf .git && {GIT} init -q --template= . && mkdir -p .git/info {folder}/kept || exit 64
    printf '%s\\n' {shlex.quote(ATTRIBUTES)} > .git/info/attributes
    protected=({paths})
    present=()
    for path in "${{protected[@]}}"; do
        if [ -e "$path" ] || [ -L "$path" ]; then present+=("./$path"); fi
    done
    while IFS= read -r -d '' path; do present+=("$path"); done < <({find})
    if [ "${{#present[@]}}" != 0 ]; then cp -a --parents -t {folder}/kept -- "${{present[@]}}" || exit 64; fi
    {GIT} apply --whitespace=nowarn --exclude='*.py[co]' --exclude='__pycache__/*' --exclude='*/__pycache__/*' \\
        -- {folder}/patch || exit {DOES_NOT_APPLY}
    while IFS= read -r -d '' path; do rm -rf -- "$path" || exit {NOT_RESTORED}; done < <({find})
    for path in "${{protected[@]}}"; do rm -rf -- "./$path" || exit {NOT_RESTORED}; done
    cp -a {folder}/kept/. . || exit {NOT_RESTORED}
    rm -rf .git {folder}/kept
)"""
    return await sandbox.run(script, timeout_s=120.0)


def touched_protected_paths(patch: str, protected: Iterable[str]) -> tuple[str, ...]:
    """Protected paths that a patch names, for the notices."""
    roots = tuple(path.rstrip("/") for path in protected)
    found: list[str] = []
    for diff in parse_patch(patch):
        for path in (diff.old_path, diff.new_path):
            if path is None or path in found:
                continue
            is_config = path.rpartition("/")[2] in CONFIG_NAMES
            if is_config or any(path == root or path.startswith(root + "/") for root in roots):
                found.append(path)
    return tuple(found)
