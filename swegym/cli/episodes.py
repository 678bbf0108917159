"""`swegym episodes ls`, `swegym replay` and `swegym regrade`: what to do with recorded episodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from swegym.cli.session import SessionOptions
    from swegym.core.runfolder import RunFolder
    from swegym.core.trajectory import Trajectory
    from swegym.run.replay import ReplayReport

__all__ = ["app", "episodes_table", "regrade", "replay", "session_options_of"]

app = typer.Typer(no_args_is_help=True, help="Look at recorded episodes.")
RunArgument = Annotated[Path, typer.Argument(help="Run folder.")]


@app.command("ls")
def ls(
    run: RunArgument,
    task: Annotated[str | None, typer.Option(help="Only episodes of this task.")] = None,
    end_reason: Annotated[str | None, typer.Option(help="Only episodes that ended so, for example submitted.")] = None,
    resolved: Annotated[bool | None, typer.Option(help="Only resolved, or only unresolved ones.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, without tokens and texts.")] = False,
) -> None:
    """List a run's episodes."""
    from swegym.core.runfolder import RunFolder

    def wanted(item: Trajectory) -> bool:
        is_resolved = item.outcome.resolved if item.outcome else None
        return (
            (task is None or item.task_id == task)
            and (end_reason is None or item.end_reason == end_reason)
            and (resolved is None or is_resolved is resolved)
        )

    found = list(RunFolder.open(run).episodes.select(wanted))
    if as_json:
        for item in found[-limit:]:
            print(item.model_dump_json(exclude={"contexts", "turns", "first_observation", "submission"}))
        return
    episodes_table(found[-limit:])
    if len(found) > limit:
        print(f"the newest {limit} of {len(found)}; --limit shows more")


def episodes_table(trajectories: Iterable[Trajectory]) -> None:
    """One line per episode."""
    from rich.table import Table

    from swegym.cli.compose import out

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("episode", no_wrap=True)
    for heading in ("task", "turns", "tokens", "end", "resolved", "reward"):
        table.add_column(heading, overflow="fold")
    for item in trajectories:
        is_valid = item.validity.value == "valid"
        outcome = ("yes" if item.outcome.resolved else "no") if item.outcome else "-"
        reward = "-" if item.reward is None else f"{item.reward:g}"
        table.add_row(
            item.episode_id,
            item.task_id,
            str(len(item.turns)),
            str(item.num_agent_tokens),
            item.end_reason,
            outcome if is_valid else f"invalid: {item.validity.value}",
            reward,
        )
    out().print(table)


def session_options_of(run: RunFolder, trajectory: Trajectory, taskset: str | None) -> SessionOptions:
    """With which task set and environment an episode was made: as said, as its run says, or as its env id says.

    Raises:
        ConfigError: none of them says it.
    """
    import json

    from swegym.cli.compose import task_options
    from swegym.cli.session import SessionOptions
    from swegym.core.errors import ConfigError, UnknownName

    config = json.loads((run.path / "config.json").read_text())
    recorded = taskset or config.get("taskset") or (config.get("data") or {}).get("taskset")
    built = run.path / "tasks"  # a demo's own; the run folder may have been moved since
    if taskset is None and built.is_dir() and Path(recorded or "").name == "tasks":
        recorded = str(built)
    fields = {"env_id": trajectory.env_id, "sandbox": trajectory.sandbox or "auto"}
    fields |= {key: config[key] for key in ("tools", "base_image", "sandbox_options", "rewards") if config.get(key)}
    if reward := (config.get("algo") or {}).get("reward"):
        fields["rewards"] = reward
    if recorded:
        return SessionOptions.model_validate(fields | task_options(None, recorded))
    try:
        return SessionOptions.model_validate(fields | task_options(trajectory.env_id, None))
    except (UnknownName, ConfigError):
        raise ConfigError(
            f"{run.path} does not say which task set episode {trajectory.episode_id} is of, and {trajectory.env_id!r} "
            "is not registered here; give --taskset"
        ) from None


def replay(
    run: RunArgument,
    episode: Annotated[str, typer.Argument(help="Episode id, or its beginning.")],
    execute: Annotated[
        bool, typer.Option("--execute", help="Run its actions again in a fresh sandbox and compare.")
    ] = False,
    turn: Annotated[int | None, typer.Option(min=0, help="Show only this turn.")] = None,
    taskset: opt.TaskSetName = None,
    sandbox: Annotated[str | None, typer.Option(help="Back end for --execute. Default: the recorded one.")] = None,
    base_image: opt.BaseImage = None,
) -> None:
    """Show an episode turn by turn. With --execute: exit status 1 when the world answers differently."""
    from swegym.cli.compose import out
    from swegym.core.runfolder import RunFolder
    from swegym.run.view import render_episode

    folder = RunFolder.open(run)
    trajectory = folder.episodes.get(episode)
    out().print(render_episode(trajectory, turn=turn))
    if not execute:
        return
    import asyncio

    options = session_options_of(folder, trajectory, taskset)
    changes = {"sandbox": sandbox or options.sandbox, "base_image": base_image or options.base_image}
    report = asyncio.run(_execute(options.model_copy(update=changes), trajectory))
    for line in report.lines():
        print(line)
    print(
        f"re-executed {len(report.turns) - 1} of {report.num_recorded_turns} turns: "
        + ("no difference" if report.is_equal else f"{len(report.lines())} differences")
    )
    if not report.is_equal:
        raise typer.Exit(1)


async def _execute(options: SessionOptions, trajectory: Trajectory) -> ReplayReport:
    from swegym.cli.session import open_session
    from swegym.run.replay import reexecute

    async with open_session(options) as session:
        env = session.make_env()
        try:
            grader = session.grader if trajectory.outcome is not None else None
            return await reexecute(trajectory, session.taskset.get(trajectory.task_id), env, grader)
        finally:
            await env.aclose()


def regrade(
    run: RunArgument,
    reward: opt.Rewards = None,
    taskset: opt.TaskSetName = None,
    sandbox: opt.SandboxName = "auto",
    sandbox_option: opt.SandboxOptions = None,
    base_image: opt.BaseImage = None,
    concurrency: opt.Concurrency = 2,
) -> None:
    """Grade every submission of a run again and compute the rewards again; the new results are appended."""
    import asyncio

    from swegym.cli.session import reward_weights, sandbox_options_from
    from swegym.core.errors import ConfigError
    from swegym.core.runfolder import RunFolder

    folder = RunFolder.open(run)
    latest = {item.episode_id: item for item in folder.episodes.select()}
    if not latest:
        raise ConfigError(f"{run} holds no episodes")
    options = session_options_of(folder, next(iter(latest.values())), taskset)
    changes: dict[str, object] = {"sandbox": sandbox, "concurrency": concurrency}
    changes["base_image"] = base_image or options.base_image
    changes["sandbox_options"] = sandbox_options_from(sandbox_option) or options.sandbox_options
    if reward:
        changes["rewards"] = reward_weights(reward)
    changed = asyncio.run(_regrade(options.model_copy(update=changes), folder, list(latest.values())))
    print(f"graded {len(latest)} episodes again; {len(changed)} results changed")
    for line in changed:
        print(f"  {line}")


async def _regrade(options: SessionOptions, run: RunFolder, trajectories: list[Trajectory]) -> list[str]:
    import asyncio

    from swegym.cli.progress import show_progress
    from swegym.cli.session import open_session
    from swegym.run.regrade import regrade as grade_again

    changed: list[str] = []
    async with open_session(options, run.path.name) as session:
        slots, done = asyncio.Semaphore(options.concurrency), 0
        with show_progress() as progress:
            progress.stage(f"grading {len(trajectories)} episodes in {session.provider.name} sandboxes")

            async def grade(before: Trajectory) -> None:
                nonlocal done
                async with slots:
                    task = session.taskset.get(before.task_id)
                    after = await grade_again(before, task, session.grader, options.rewards)
                run.episodes.append(after)
                done += 1
                progress.advance(done, len(trajectories))
                if _result(before) != _result(after):
                    changed.append(f"{after.episode_id}: {_result(before)} -> {_result(after)}")

            async with asyncio.TaskGroup() as group:
                for trajectory in trajectories:
                    group.create_task(grade(trajectory))
    return changed


def _result(trajectory: Trajectory) -> str:
    if trajectory.outcome is None:
        return "not graded"
    return f"{trajectory.outcome.reason or trajectory.outcome.validity.value}, reward {trajectory.reward}"
