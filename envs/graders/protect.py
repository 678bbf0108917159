"""Applying a patch in a grading sandbox so that tests and test configuration stay as the task shipped them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from swegym.core.errors import SandboxError
from swegym.core.sandbox import Sandbox
from swegym.envs.workspace import ATTRIBUTES, GIT

__all__ = ["CONFIG_NAMES", "EXACT", "LENIENT", "Applied", "apply_patch", "protected_paths"]

DOES_NOT_APPLY = 91
NOT_RESTORED = 92
APPLY_TIMEOUT_S = 120.0

CONFIG_NAMES = (
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "sitecustomize.py",
    "usercustomize.py",
    "sitecustomize",
    "usercustomize",
)
"""Files and folders that steer pytest or Python's start wherever they lie; restored at any depth, new ones removed."""
INI_NAMES = ("tox.ini", "setup.cfg", "pyproject.toml")
"""pytest looks for its options in these too, in every folder above the test files."""
TEST_FOLDERS = ("test", "tests")

_GIT_APPLY = (
    f"{GIT} apply --whitespace=nowarn --exclude='*.py[co]' --exclude='__pycache__/*' --exclude='*/__pycache__/*'"
)
_FUZZY = "patch --batch --silent --forward --fuzz=5 -p1 --no-backup-if-mismatch --reject-file=-"
_COMMANDS = {
    "git apply": f"{_GIT_APPLY} -- PATCH",
    # Hunk headers with wrong counts, and blanks that differ, as language models write them.
    "git apply --recount": f"{_GIT_APPLY} --recount --ignore-whitespace -- PATCH",
    # GNU patch ends with 0 for a binary part that it skips, and leaves half of a patch behind when it fails.
    "patch --fuzz=5": (
        "if grep -qE '^(GIT binary patch|Binary files )' PATCH; then false;"
        f" else {_FUZZY} --dry-run -i PATCH && {_FUZZY} -i PATCH; fi"
    ),
}
EXACT = ("git apply",)
LENIENT = tuple(_COMMANDS)
"""Ways of applying a patch in the order they are tried; none leaves anything behind when it fails."""


@dataclass(frozen=True, slots=True)
class Applied:
    """How applying went."""

    status: Literal["applied", "does_not_apply", "not_restored"]
    strategy: str = ""
    """Which of the strategies fitted."""
    log: str = ""


def protected_paths(declared: Iterable[str], test_files: Iterable[str]) -> tuple[str, ...]:
    """What a patch cannot change: the task's own list, the test files, the folders of tests that they lie in, and
    every file above them that pytest may take options from.
    """
    found = [path.strip("/") for path in declared]
    for file in test_files:
        parts = file.split("/")
        folders = [place for place, part in enumerate(parts[:-1]) if part in TEST_FOLDERS]
        found.append("/".join(parts[: folders[0] + 1]) if folders else file)
        found += ["/".join([*parts[:depth], name]) for depth in range(len(parts)) for name in INI_NAMES]
    return tuple(dict.fromkeys(path for path in found if path))


async def apply_patch(
    sandbox: Sandbox,
    workdir: str,
    patch: str,
    protected: Sequence[str],
    folder: str,
    strategies: Sequence[str] = EXACT,
) -> Applied:
    """Apply a patch, then put the protected paths back to what they were before it.

    Restoring is done on the files and not by filtering the patch: whatever way a patch finds to a protected path
    (renames, links, quoted names), its effect is undone. Which files to look at is git's own list of what it will
    touch; a patch that renames or copies, and every way but git's exact one, has all protected files looked at.
    Bytecode is never taken from a patch.

    Args:
        sandbox: fresh, at the task's start state.
        workdir: root of the work tree.
        patch: unified diff, as `extract_patch` makes it.
        protected: from `protected_paths`.
        folder: where to keep the patch and the copies, outside the work tree.
        strategies: names from `LENIENT`, tried in order, each on an unchanged tree.

    Raises:
        SandboxError: the sandbox is broken.
    """
    data = patch.encode("utf-8", "surrogateescape")
    await sandbox.write_file(f"{folder}/patch", data if data.endswith(b"\n") else data + b"\n", mode=0o600)
    is_plain = tuple(strategies) == EXACT and not re.search(r"^(rename|copy) (from|to) ", patch, re.MULTILINE)
    script = _script(workdir, protected, folder, strategies, is_plain=is_plain)
    result = await sandbox.run(script, timeout_s=APPLY_TIMEOUT_S)
    if result.exit_code == DOES_NOT_APPLY:
        return Applied("does_not_apply", log=result.text[-2000:])
    if result.exit_code == NOT_RESTORED:
        return Applied("not_restored", log=result.text[-2000:])
    if result.exit_code != 0:
        raise SandboxError(f"cannot apply a patch: exit status {result.exit_code}: {result.text.strip()[-300:]}")
    return Applied("applied", strategy=result.text.rstrip("\n").rpartition("\n")[2])


def _script(workdir: str, protected: Sequence[str], folder: str, strategies: Sequence[str], *, is_plain: bool) -> str:
    find = "find . -name .git -prune -o \\( " + " -o ".join(f"-name {name}" for name in CONFIG_NAMES) + " \\) -print0"
    everything = f'{{ printf "%s\\0" "${{protected[@]}}"; {find}; }}'
    listed = f"{GIT} apply --numstat -z -- {folder}/patch 2>/dev/null"
    names = "|".join(f"*/{name}/*" for name in CONFIG_NAMES)
    attempts = " || ".join(
        f"{{ {{ {_COMMANDS[name].replace('PATCH', f'{folder}/patch')}; }} && strategy={shlex.quote(name)}; }}"
        for name in strategies
    )
    paths = " ".join(shlex.quote(path) for path in protected)
    return f"""(
    cd {shlex.quote(workdir)} || exit 64
    unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
    rm -rf .git && mkdir -p .git/objects .git/refs .git/info {folder}/kept || exit 64
    echo 'ref: refs/heads/main' > .git/HEAD
    printf '%s\\n' {shlex.quote(ATTRIBUTES)} > .git/info/attributes || exit 64
    protected=({paths})
    is_protected() {{
        local item
        for item in "${{protected[@]}}"; do case $1 in "$item"|"$item"/*) return 0 ;; esac; done
        case /$1/ in {names}) return 0 ;; esac
        return 1
    }}
    touched=() present=()
    if {"true" if is_plain else "false"}; then
        while IFS= read -r -d '' path; do
            path=${{path#*$'\\t'}} path=${{path#*$'\\t'}}
            if is_protected "$path"; then touched+=("./$path"); fi
        done < <({listed})
    else
        while IFS= read -r -d '' path; do touched+=("./$path"); done < <({everything})
    fi
    for path in "${{touched[@]}}"; do
        if [ -e "$path" ] || [ -L "$path" ]; then present+=("$path"); fi
    done
    if [ "${{#present[@]}}" != 0 ]; then cp -a --parents -t {folder}/kept -- "${{present[@]}}" || exit 64; fi
    strategy=
    {attempts} || exit {DOES_NOT_APPLY}
    if {"false" if is_plain else "true"}; then
        while IFS= read -r -d '' path; do touched+=("./$path"); done < <({find})
    fi
    for path in "${{touched[@]}}"; do rm -rf -- "$path" || exit {NOT_RESTORED}; done
    if [ "${{#present[@]}}" != 0 ]; then cp -a {folder}/kept/. . || exit {NOT_RESTORED}; fi
    rm -rf .git {folder}/kept {folder}/patch
    echo; echo "$strategy"
)"""
