"""The repository inside a sandbox: making its start state, and taking what an agent changed as a patch.

What of the first does not depend on a task's edits can be done ahead, while a sandbox waits in a warm pool; the rest is
one file read and one command with four processes.
"""

from __future__ import annotations

import hashlib
import re
import shlex

from swegym.core.errors import SandboxError, TaskError
from swegym.core.records import digest
from swegym.core.sandbox import ExecResult, Sandbox
from swegym.core.task import LineEdit, SweTask, Task

__all__ = ["apply_line_edits", "apply_start_edits", "extract_patch", "prepare_workspace", "workspace_preparation"]

START_REF = "refs/swegym/start"
COMMAND_TIMEOUT_S = 120.0
MAX_PATCH_BYTES = 64 * 1024**2
_PLAIN_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]{0,262144}")

# Highest precedence of all attributes: no line-end conversion, no filters, whatever the tree's own .gitattributes say.
# Without this a CRLF file under `* text=auto` is diffed as LF, and the diff does not apply to the file it came from.
ATTRIBUTES = "* -text !eol -ident -filter -working-tree-encoding !diff"
ALL_BINARY = "* -text !eol -ident -filter -working-tree-encoding -diff"

# `-c` beats every config file, the agent's included.
GIT = (
    "GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_OPTIONAL_LOCKS=0 git"
    " -c safe.directory='*' -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.autocrlf=false"
    " -c core.fileMode=true -c core.symlinks=true -c core.quotePath=true -c core.excludesFile=/dev/null"
    " -c core.attributesFile=/dev/null -c core.looseCompression=0 -c core.fsync=none -c gc.auto=0"
    " -c maintenance.auto=false"
    " -c color.ui=never -c diff.noprefix=false -c diff.mnemonicPrefix=false -c diff.algorithm=histogram"
    " -c diff.suppressBlankEmpty=false -c advice.addEmbeddedRepo=false -c commit.gpgSign=false"
)
_INIT_OPTIONS = "-c init.defaultBranch=main -c init.defaultObjectFormat=sha1 -c init.defaultRefFormat=files"
IDENTITY = (
    "GIT_AUTHOR_NAME=swegym GIT_AUTHOR_EMAIL=swegym@localhost GIT_AUTHOR_DATE='2000-01-01T00:00:00Z'"
    " GIT_COMMITTER_NAME=swegym GIT_COMMITTER_EMAIL=swegym@localhost GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'"
)


def workspace_preparation(task: Task) -> str:
    """The part of making the start state that does not depend on the task's edits, for `SandboxSpec.prepare_command`.

    Where there are edits nothing is committed, only staged: a commit would show what the edits take away.
    """
    payload = task.payload
    steps = _staging(payload.base_commit) + ("" if payload.start_edits else _COMMIT)
    return f"""(
    set -e
    cd {shlex.quote(payload.workdir)}
    {steps}
    printf '%s %s\\n' {_preparation_digest(payload)} "$commit" > .git/swegym-prepared
)"""


async def prepare_workspace(sandbox: Sandbox, task: Task, *, is_prepared: bool = False) -> str:
    """Bring the work tree to the task's start state, as the only commit of a new repository.

    An image's own history is dropped: none of its objects, refs, stashes or notes can show the future. The commit is
    the same for the same tree. The task's set-up commands then run in the agent's shell, which is left in the root.

    Args:
        sandbox: new and unused.
        task: what it is for.
        is_prepared: the sandbox's spec had `workspace_preparation` of this task as its `prepare_command`. When that
            did not come to its end, everything is done from the beginning.

    Returns:
        Hash of the start commit.

    Raises:
        TaskError: an edit does not fit, or a set-up command or git fails.
        SandboxLost: the sandbox is gone.
    """
    payload = task.payload
    commit = await _finish_prepared(sandbox, payload) if is_prepared else None
    if commit is None:
        commit = await _prepare_from_the_beginning(sandbox, task)
    for command in payload.setup_commands:
        setup = await sandbox.run(command, timeout_s=task.limits.command_timeout_s)
        _expect_success(setup, f"set-up command {command!r} of {task.task_id} failed")
    return commit


def _staging(base_commit: str = "") -> str:
    """Lines of shell: a new repository with everything staged and nothing committed."""
    checkout = f"{GIT} checkout -q -f {shlex.quote(base_commit)} --" if base_commit else ""
    return f"""{checkout}
    commit=
    rm -rf .git
    {GIT} {_INIT_OPTIONS} init -q --template= .
    mkdir -p .git/info .git/refs/swegym
    printf '%s\\n' '__pycache__/' '*.py[co]' .pytest_cache/ > .git/info/exclude
    printf '%s\\n' {shlex.quote(ATTRIBUTES)} > .git/info/attributes
    printf '[user]\\n\\tname = swegym\\n\\temail = swegym@localhost\\n' >> .git/config
    {GIT} add -A -f -- . ':(exclude,glob)**/__pycache__/**'"""


_COMMIT = f"""
    {IDENTITY} {GIT} commit -a -q --no-verify --allow-empty --no-status -m start
    read -r commit < .git/refs/heads/main
    printf '%s\\n' "$commit" > .git/{START_REF}
    cp -p .git/index .git/swegym-index"""
"""Lines of shell: commit what is staged and what has changed since. One process, where write-tree, commit-tree and two
update-refs would be four. The copy keeps the index's time: git compares the contents of a file that is as young as its
index, and takes an older one for unchanged when its size is the same."""


def _preparation_digest(payload: SweTask) -> str:
    return digest(_staging(payload.base_commit), _COMMIT, payload.workdir, str(bool(payload.start_edits)))


async def _prepare_from_the_beginning(sandbox: Sandbox, task: Task) -> str:
    payload = task.payload
    root = shlex.quote(payload.workdir)
    if payload.base_commit:
        checkout = f"cd {root} && {GIT} checkout -q -f {shlex.quote(payload.base_commit)} --"
        _expect_success(await sandbox.run(checkout, timeout_s=COMMAND_TIMEOUT_S), f"cannot check out {task.task_id}")
    await apply_start_edits(sandbox, payload)
    script = f"""cd {root} && (
    set -e
    {_staging()}{_COMMIT}
    printf '%s' "$commit"
)"""
    result = await sandbox.run(script, timeout_s=COMMAND_TIMEOUT_S)
    _expect_success(result, f"cannot commit the start state of {task.task_id}")
    return result.text.strip()[-40:]


async def _finish_prepared(sandbox: Sandbox, payload: SweTask) -> str | None:
    """Edit and commit what `workspace_preparation` staged; the start commit, or None: do it from the beginning.

    The objects of the files as they were before the edits are deleted: they hold what the agent is to find.
    """
    edited: dict[str, tuple[bytes, bytes]] = {}
    try:
        for path, edits in _edits_by_path(payload).items():
            before = await sandbox.read_file(f"{payload.workdir}/{path}")
            edited[path] = before, apply_line_edits(before, edits)
    except (FileNotFoundError, TaskError):
        return None  # from the beginning it either goes well or says what is wrong
    write, stale = await _write_script(sandbox, payload, {path: after for path, (_, after) in edited.items()})
    objects = [_object_path(before) for before, _ in edited.values()]
    folders = list(dict.fromkeys(path.rpartition("/")[0] for path in objects))  # a name of theirs would tell a little
    stale_files = " ".join([".git/swegym-prepared", *objects, *stale])
    script = f"""cd {shlex.quote(payload.workdir)} && (
    set -e
    read -r prepared commit < .git/swegym-prepared
    [ "$prepared" = {_preparation_digest(payload)} ]
    {write}
    rm -fd -- {stale_files} {" ".join(folders)} 2>/dev/null || :
    for file in {stale_files} .git/objects/pack/*; do [ ! -e "$file" ]; done
    {_COMMIT if edited else ""}
    printf '%s' "$commit"
)"""
    result = await sandbox.run(script, timeout_s=COMMAND_TIMEOUT_S)
    return result.text if result.exit_code == 0 and len(result.text) == 40 else None


def _object_path(data: bytes) -> str:
    """Where a repository that was never packed keeps a file's content."""
    name = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return f".git/objects/{name[:2]}/{name[2:]}"


async def extract_patch(sandbox: Sandbox, task: Task, start_commit: str | None = None) -> str:
    """What the work tree holds now against the start commit, as a patch that `git apply` takes back exactly.

    New, deleted, binary and mode-changed files, CRLF and missing final newlines all survive. The agent's own commits,
    index, branches and nested repositories make no difference; ignored new files are left out. Files that are not
    UTF-8 travel as binary.

    Args:
        sandbox: where `prepare_workspace` ran.
        task: the task it ran for.
        start_commit: what it returned; without it the repository's own ref is believed.

    Returns:
        The diff, never stripped; "" when nothing changed or the agent destroyed the repository.

    Raises:
        SandboxError: the sandbox failed.
    """
    commit = shlex.quote(start_commit or START_REF)
    for attributes in (ATTRIBUTES, ALL_BINARY):
        command = f"{{ {_extract_script(task.payload.workdir, commit, attributes)}\n}} 2>/dev/null"
        result = await sandbox.run(command, timeout_s=COMMAND_TIMEOUT_S, limit_bytes=MAX_PATCH_BYTES)
        if result.exit_code == 66:
            return ""  # no repository or no start commit any more: there is nothing to hand in
        if result.exit_code != 0 or result.killed_by or result.truncated_bytes:
            reason = f"larger than {MAX_PATCH_BYTES} bytes" if result.truncated_bytes else f"exit {result.exit_code}"
            raise SandboxError(f"cannot take the diff of {task.task_id}: {reason}")
        try:
            return result.output.decode("utf-8")
        except UnicodeDecodeError:
            continue
    raise SandboxError(f"cannot take the diff of {task.task_id}: git's binary diff is not text")


def _extract_script(workdir: str, commit: str, attributes: str) -> str:
    """Stages everything into an index of our own, so that the agent's index and locks do not matter.

    `git add` refuses a nested repository without commits and turns one with commits into a link: their .git folders
    are out of the way while it runs.
    """
    return f"""(
    cd {shlex.quote(workdir)} || exit 66
    unset GIT_DIR GIT_WORK_TREE GIT_OBJECT_DIRECTORY GIT_EXTERNAL_DIFF GIT_DIFF_OPTS
    [ -d .git ] && {GIT} cat-file -e {commit}^{{commit}} || exit 66
    mkdir -p .git/info && printf '%s\\n' {shlex.quote(attributes)} > .git/info/attributes || exit 65
    export GIT_INDEX_FILE=$PWD/.git/swegym-index.$$
    cp -p .git/swegym-index "$GIT_INDEX_FILE" || {GIT} read-tree {commit} || exit 65
    nested=()
    while IFS= read -r -d '' folder; do
        mv -T "$folder" "$folder.swegym" && nested+=("$folder")
    done < <(find . -mindepth 2 -name .git -prune -print0)
    status=0
    {GIT} add -A -- . ':(exclude,glob)**/.git.swegym/**' || status=65
    for folder in "${{nested[@]}}"; do mv -T "$folder.swegym" "$folder"; done
    if [ $status = 0 ]; then
        {GIT} diff --cached --binary --full-index --no-color --no-ext-diff --no-textconv --no-renames \\
            -O/dev/null --src-prefix=a/ --dst-prefix=b/ {commit} -- || status=65
    fi
    rm -f "$GIT_INDEX_FILE"
    exit $status
)"""


async def apply_start_edits(sandbox: Sandbox, payload: SweTask) -> None:
    """Apply a task's start edits to the work tree, and remove the bytecode that still holds the cure.

    Raises:
        TaskError: a file is missing or has too few lines.
    """
    edited: dict[str, bytes] = {}
    for path, edits in _edits_by_path(payload).items():
        try:
            before = await sandbox.read_file(f"{payload.workdir}/{path}")
        except FileNotFoundError:
            raise TaskError(f"start edit of {path!r}: no such file in the workspace") from None
        edited[path] = apply_line_edits(before, edits)
    if edited:
        write, stale = await _write_script(sandbox, payload, edited)
        remove = "rm -f -- " + " ".join(stale) if stale else ""
        _expect_success(await sandbox.run(f"(set -e\n{write}\n{remove}\n)"), "cannot apply the start edits")


def _edits_by_path(payload: SweTask) -> dict[str, list[LineEdit]]:
    by_path: dict[str, list[LineEdit]] = {}
    for edit in payload.start_edits:
        by_path.setdefault(edit.path, []).append(edit)
    return by_path


async def _write_script(sandbox: Sandbox, payload: SweTask, contents: dict[str, bytes]) -> tuple[str, list[str]]:
    """Shell that gives existing files these contents, which keeps their modes; and names of what is stale then.

    Plain text goes into the script itself, which saves a round trip; anything else travels as a file.
    """
    lines: list[str] = []
    stale: list[str] = []
    for number, (path, data) in enumerate(contents.items()):
        full_path = f"{payload.workdir}/{path}"
        if _PLAIN_TEXT.fullmatch(data):
            lines.append(f"printf '%s' {shlex.quote(data.decode('ascii'))} > {shlex.quote(full_path)}")
        else:
            copy = f"/tmp/swegym-edit-{number}"
            await sandbox.write_file(copy, data)
            lines.append(f"cat {copy} > {shlex.quote(full_path)}")
            stale.append(copy)
        folder, _, name = full_path.rpartition("/")
        if name.endswith(".py"):
            stale.append(f"{shlex.quote(f'{folder}/__pycache__/{name[:-3]}')}.*")
    return "\n".join(lines), stale


def apply_line_edits(data: bytes, edits: list[LineEdit]) -> bytes:
    """Apply edits of one file; their line numbers all refer to `data`.

    The text takes the place of whole lines. When it does not end in a newline it gets the line end of the last line it
    replaces (or of the line above, when it is inserted).

    Raises:
        TaskError: a line number is beyond the end, or two edits overlap.
    """
    lines = data.split(b"\n")
    lines = [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    upper = len(lines) + 1
    for edit in sorted(edits, key=lambda item: item.first_line, reverse=True):
        if not edit.first_line - 1 <= edit.last_line <= len(lines):
            raise TaskError(f"start edit of {edit.path!r}: lines {edit.first_line}-{edit.last_line} of {len(lines)}")
        if edit.last_line >= upper:
            raise TaskError(f"start edits of {edit.path!r} overlap at line {edit.last_line}")
        text = edit.text.encode()
        if text and not text.endswith(b"\n"):
            text += _line_end(lines[edit.last_line - 1] if edit.last_line else b"\n")
        lines[edit.first_line - 1 : edit.last_line] = [text]
        upper = edit.first_line
    return b"".join(lines)


def _line_end(line: bytes) -> bytes:
    return line[len(line.rstrip(b"\r\n")) :]


def _expect_success(result: ExecResult, what: str) -> None:
    if result.exit_code != 0:
        lines = result.text.strip().splitlines()
        raise TaskError(f"{what}: {lines[-1] if lines else f'exit status {result.exit_code}'}")
