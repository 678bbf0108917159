"""`swegym tasks list|show|validate|build`: what tasks there are, whether they are sound, and making new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swegym.cli import options as opt
from swegym.cli.tasks_build import build
from swegym.cli.tasks_import import import_tasks

if TYPE_CHECKING:
    from swegym.cli.session import Session, SessionOptions
    from swegym.core.task import Task

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="List, show, check and build tasks.")
TaskSetArgument = Annotated[str, typer.Argument(help="Registered name, folder or module:attr.")]

# Changes nothing that a test could see: the start state must be unsolved, and an empty patch is refused without a run.
NO_OP_PATCH = """diff --git a/swegym-no-op.txt b/swegym-no-op.txt
new file mode 100644
--- /dev/null
+++ b/swegym-no-op.txt
@@ -0,0 +1 @@
+no-op
"""


@app.command("list")
def list_tasks(
    taskset: Annotated[
        str | None, typer.Argument(help="A task set; without it, list task sets and environments.")
    ] = None,
    split: opt.Split = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many lines.")] = 50,
) -> None:
    """List the tasks of a set, or the registered task sets and environments."""
    if taskset is None:
        _list_registered()
        return
    from rich.table import Table

    from swegym.cli.compose import out
    from swegym.envs import resolve_task_set

    found = resolve_task_set(taskset)
    ids = found.ids(split)
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("split", no_wrap=True)
    table.add_column("statement")
    for task_id in ids[:limit]:
        task = found.get(task_id)
        table.add_row(task_id, task.labels.get("split", "-"), _shortened(task.statement, num_chars=100))
    out().print(table)
    if len(ids) > limit:
        print(f"{limit} of {len(ids)}; --limit shows more")


def _shortened(text: str, *, num_chars: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= num_chars else line[: num_chars - 3] + "..."


def _list_registered() -> None:
    import gymnasium
    from rich.table import Table

    from swegym.cli.compose import out
    from swegym.core.registration import SWE_ENV_ENTRY_POINT
    from swegym.core.registries import tasksets

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("kind")
    table.add_column("name")
    table.add_column("task set")
    for name in tasksets.names():
        table.add_row("task set", name, "")
    for spec in gymnasium.registry.values():
        if spec.entry_point == SWE_ENV_ENTRY_POINT:
            table.add_row("environment", spec.id, str(spec.kwargs.get("taskset", "")))
    out().print(table)


@app.command("show")
def show(
    taskset: TaskSetArgument,
    task_id: Annotated[str, typer.Argument(help="Task.")],
    secret: Annotated[bool, typer.Option("--secret", help="Also show the gold patch and the hidden tests.")] = False,
) -> None:
    """Show a task as JSON: the public half, and the secret half only when asked for."""
    from swegym.envs import resolve_task_set

    found = resolve_task_set(taskset)
    print(found.get(task_id).model_dump_json(indent=2))
    if secret:
        print(found.secret(task_id).model_dump_json(indent=2))


app.command("build")(build)
app.command("import")(import_tasks)


@app.command("validate")
def validate(
    taskset: TaskSetArgument,
    split: opt.Split = None,
    task: opt.TaskIds = None,
    num_tasks: opt.NumTasks = None,
    sandbox: opt.SandboxName = "auto",
    sandbox_option: opt.SandboxOptions = None,
    base_image: opt.BaseImage = None,
    concurrency: opt.Concurrency = 2,
) -> None:
    """Check that every gold patch solves its task and that doing nothing does not. Exit status 1 when one fails."""
    import asyncio

    from swegym.cli.compose import task_options
    from swegym.cli.session import SessionOptions, sandbox_options_from

    options = SessionOptions(
        **task_options(None, taskset),
        split=split,
        task_ids=tuple(task or ()),
        num_tasks=num_tasks,
        sandbox=sandbox,
        sandbox_options=sandbox_options_from(sandbox_option),
        base_image=base_image,
        concurrency=concurrency,
    )
    problems, total = asyncio.run(_validate(options))
    for line in problems:
        print(line)
    print(f"{total - len(problems)} of {total} tasks are sound")
    if problems:
        raise typer.Exit(1)


async def _validate(options: SessionOptions) -> tuple[list[str], int]:
    import asyncio

    from swegym.cli.progress import show_progress
    from swegym.cli.session import open_session, select_tasks

    problems: dict[str, str] = {}
    async with open_session(options) as session:
        tasks, done = select_tasks(options, session.taskset), 0
        slots = asyncio.Semaphore(options.concurrency)
        with show_progress() as progress:
            progress.stage(f"validating {len(tasks)} tasks in {session.provider.name} sandboxes")

            async def check(task: Task) -> None:
                nonlocal done
                async with slots:
                    if problem := await _problem(session, task):
                        problems[task.task_id] = f"{task.task_id}: {problem}"
                done += 1
                progress.advance(done, len(tasks))

            async with asyncio.TaskGroup() as group:
                for task in tasks:
                    group.create_task(check(task))
    return [problems[task.task_id] for task in tasks if task.task_id in problems], len(tasks)


async def _problem(session: Session, task: Task) -> str:
    """What is wrong with a task; empty when nothing is."""
    gold = await session.grader.grade(task, session.taskset.secret(task.task_id).patch)
    if not gold.resolved:
        failed = sorted(test for test, status in gold.tests.items() if status.value != "passed")
        return f"the gold patch does not solve it ({gold.reason}) {' '.join(failed[:3])}".rstrip()
    untouched = await session.grader.grade(task, NO_OP_PATCH)
    if untouched.resolved:
        return "it is solved without a change"
    return "" if untouched.reason == "tests_failed" else f"the start state cannot be tested ({untouched.reason})"
