"""The two halves of a task from a candidate and its verdict: statement, start edits, gold patch."""

from __future__ import annotations

import shlex

from swegym.core.task import ImageRecipe, Provenance, SweSecret, SweTask, Task
from swegym.envs.tasksets.candidates import Candidate
from swegym.envs.tasksets.diff import unified_diff
from swegym.envs.tasksets.mutate.candidates import MutateOptions, TreeCandidate
from swegym.envs.tasksets.staging import WORKDIR, Staged
from swegym.envs.tasksets.verdicts import Judged, Verdict
from swegym.envs.workspace import apply_line_edits

__all__ = ["gold_patch", "token_task", "tree_task"]

MAX_NAMED_TESTS = 5
TOKEN_BUILDER = "swegym mutate-fix/1"
TREE_BUILDER = "swegym mutate-fix/2"


def gold_patch(staged: Staged, candidate: Judged) -> str:
    """From the start state back to the sound tree."""
    parts = []
    for path in dict.fromkeys(edit.path for edit in candidate.edits):
        sound = (staged.workspace / path).read_bytes()
        broken = apply_line_edits(sound, [edit for edit in candidate.edits if edit.path == path])
        parts.append(unified_diff(path, broken.decode(), sound.decode()))
    return "".join(parts)


def token_task(staged: Staged, candidate: Candidate, verdict: Verdict) -> tuple[Task, SweSecret]:
    """One wrong word in a line that the statement names."""
    source, mutation = staged.source, candidate.mutation
    module = mutation.path.replace("/", ".").removesuffix(".py")
    return _records(
        staged,
        candidate,
        verdict,
        task_id=f"{source.name.lower()}-{module}-{mutation.line}-{candidate.key[:6]}",
        builder=TOKEN_BUILDER,
        statement=(
            f"A test fails because of one wrong operator or word in {mutation.path}, line {mutation.line}:\n\n"
            f"    {mutation.after_line.strip()}\n\nMend that line."
        ),
        setup_commands=(f"export F={shlex.quote(mutation.path)} L={mutation.line}",),
        hints={"file": mutation.path, "line": str(mutation.line), "text": mutation.after_line.strip()},
        labels={"split": candidate.split, "kind": mutation.kind},
    )


def tree_task(
    staged: Staged, candidate: TreeCandidate, verdict: Verdict, options: MutateOptions
) -> tuple[Task, SweSecret]:
    """One or more bugs of CWM's kinds; how much the statement says is the options' business."""
    source, first = staged.source, candidate.mutations[0]
    module = first.path.replace("/", ".").removesuffix(".py")
    labels = {
        "split": candidate.split,
        "kind": candidate.kind,
        "operator": "+".join(item.operator for item in candidate.mutations),
        "num_edits": str(len(candidate.mutations)),
    }
    return _records(
        staged,
        candidate,
        verdict,
        task_id=f"{source.name.lower()}-{module}-{candidate.kind}-{candidate.key[:8]}",
        builder=TREE_BUILDER,
        statement=_statement(staged, candidate, verdict, options),
        setup_commands=(),
        hints=_hints(candidate, options),
        labels=labels,
    )


def _statement(staged: Staged, candidate: TreeCandidate, verdict: Verdict, options: MutateOptions) -> str:
    name, several = staged.source.name, len(candidate.mutations) > 1
    lines = [
        f"{'Changes' if several else 'A change'} to {name}'s code broke it: its test suite no longer passes. "
        f"Find what is wrong in the package's code and mend it. The tests are right; leave them as they are."
    ]
    if options.hint != "none":
        shown = verdict.fail_to_pass[:MAX_NAMED_TESTS]
        more = len(verdict.fail_to_pass) - len(shown)
        lines += ["", "Failing:", *(f"- {test}" for test in shown)]
        lines += [f"- and {more} more"] if more else []
    if options.hint == "file":
        lines += ["", f"The cause lies in {', '.join(dict.fromkeys(item.path for item in candidate.mutations))}."]
    elif options.hint == "line":
        places = [f"{edit.path}, line {edit.first_line}" for edit in candidate.edits]
        lines += ["", f"The cause lies at {'; '.join(places)}."]
    return "\n".join(lines)


def _hints(candidate: TreeCandidate, options: MutateOptions) -> dict[str, str]:
    hints = {}
    if options.hint in ("file", "line"):
        hints["file"] = candidate.mutations[0].path
    if options.hint == "line":
        hints["line"] = str(candidate.edits[0].first_line)
    return hints


def _records(
    staged: Staged,
    candidate: Judged,
    verdict: Verdict,
    *,
    task_id: str,
    builder: str,
    statement: str,
    setup_commands: tuple[str, ...],
    hints: dict[str, str],
    labels: dict[str, str],
) -> tuple[Task, SweSecret]:
    source = staged.source
    task = Task(
        task_id=task_id,
        statement=statement,
        provenance=Provenance(source=source.origin, license=source.license, builder=builder),
        payload=SweTask(
            repo=source.name,
            version=source.version,
            image=staged.image,
            recipe=ImageRecipe(workspace="workspace", dependencies="dependencies"),
            workdir=WORKDIR,
            start_edits=candidate.edits,
            setup_commands=setup_commands,
            environment=staged.environment,
            test_command=staged.test_command,
            protected_paths=staged.protected_paths,
            hints=hints,
        ),
        labels=labels,
    )
    secret = SweSecret(
        task_id=task_id,
        patch=gold_patch(staged, candidate),
        FAIL_TO_PASS=verdict.fail_to_pass,
        PASS_TO_PASS=verdict.pass_to_pass,
        test_files=verdict.test_files,
        baseline_s=round(verdict.baseline_s, 3),
    )
    return task, secret
