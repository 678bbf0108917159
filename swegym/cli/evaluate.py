"""`swegym eval`: pass@k of a policy over a task set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from swegym.cli.session import SessionOptions
    from swegym.core.runfolder import RunFolder
    from swegym.run.evaluate import EvalReport

__all__ = ["evaluate"]


def evaluate(
    env: opt.EnvId = None,
    taskset: opt.TaskSetName = None,
    split: opt.Split = None,
    task: opt.TaskIds = None,
    num_tasks: opt.NumTasks = None,
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Report pass@K; may be given again.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Episodes per task. Default: the largest K.")] = None,
    policy: opt.PolicyName = "openai",
    model: opt.Model = None,
    base_url: opt.BaseUrl = None,
    source: opt.Source = None,
    profile: opt.Profile = None,
    protocol: opt.ActionProtocolName = None,
    temperature: opt.Temperature = 1.0,
    max_action_tokens: opt.MaxActionTokens = 4096,
    max_context_tokens: opt.MaxContextTokens = 131_072,
    sandbox: opt.SandboxName = "auto",
    sandbox_option: opt.SandboxOptions = None,
    base_image: opt.BaseImage = None,
    concurrency: opt.Concurrency = 4,
    seed: opt.Seed = 0,
    run: opt.RunFolderPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a policy on tasks: pass rate with its 95 % interval over tasks, and pass@k."""
    import asyncio

    from swegym.cli.compose import new_run, task_options
    from swegym.cli.rollout import check_options, fail_if_all_invalid
    from swegym.cli.session import PolicyOptions, SessionOptions, sandbox_options_from
    from swegym.core.errors import ConfigError

    fields = task_options(env, taskset)
    fields |= {"split": split} if split else {}
    fields |= {"task_ids": tuple(task)} if task else {}
    wanted = sorted(set(k or [1]))
    options = SessionOptions(
        **fields,
        num_tasks=num_tasks,
        samples_per_task=samples or wanted[-1],
        policy=PolicyOptions(
            name=policy,
            model=model,
            base_url=base_url,
            source=source,
            profile=profile,
            protocol=protocol,
            temperature=temperature,
            max_action_tokens=max_action_tokens,
            max_context_tokens=max_context_tokens,
        ),
        sandbox=sandbox,
        sandbox_options=sandbox_options_from(sandbox_option),
        base_image=base_image,
        concurrency=concurrency,
        seed=seed,
    )
    if wanted[-1] > options.samples_per_task:
        raise ConfigError(f"pass@{wanted[-1]} needs at least as many samples per task: --samples {wanted[-1]}")
    check_options(options)
    with new_run(run, "eval", options) as folder:
        report = asyncio.run(_evaluate(options, wanted, folder))
        folder.write_summary(report.model_dump(mode="json"))
        if as_json:
            print(report.model_dump_json(indent=2))
        else:
            _show(report)
        if report.pass_rate is None:
            fail_if_all_invalid(list(folder.episodes.select()))


async def _evaluate(options: SessionOptions, k: list[int], run: RunFolder) -> EvalReport:
    from swegym.cli.progress import show_progress
    from swegym.cli.session import open_agents, open_session, select_tasks
    from swegym.core.trajectory import Trajectory
    from swegym.run.evaluate import evaluate as run_evaluate

    async with (
        open_session(options, run.path.name) as session,
        open_agents(options.policy, session.taskset) as make_agent,
    ):
        tasks = select_tasks(options, session.taskset)
        total, done, resolved = len(tasks) * options.samples_per_task, 0, 0
        with show_progress() as progress:
            progress.stage(f"{total} episodes in {session.provider.name} sandboxes")

            def count(trajectory: Trajectory) -> None:
                nonlocal done, resolved
                done += 1
                resolved += bool(trajectory.outcome and trajectory.outcome.resolved)
                progress.advance(done, total, f"resolved {resolved}")

            return await run_evaluate(
                tasks,
                session.make_env,
                make_agent,
                session.grader,
                samples_per_task=options.samples_per_task,
                k=k,
                rewards=options.rewards,
                concurrency=options.concurrency,
                store=run.episodes,
                on_trajectory=count,
                seed=options.seed,
            )


def _show(report: EvalReport) -> None:
    from swegym.cli.compose import print_summary

    rows: dict[str, object] = {"tasks": report.num_tasks}
    if report.num_tasks_without_result:
        rows["tasks without a result"] = report.num_tasks_without_result
    if report.pass_rate:
        interval = report.pass_rate
        rows["pass rate"] = f"{interval.mean:.3f}  (95 % interval over tasks {interval.low:.3f} to {interval.high:.3f})"
    rows |= {f"pass@{k}": value for k, value in report.pass_at_k.items()}
    rows["invalid share"] = report.statistics.invalid_share
    rows["mean turns"] = report.statistics.mean_turns
    rows["ends"] = ", ".join(f"{name} {count}" for name, count in sorted(report.statistics.end_reasons.items()))
    rows["seconds"] = report.duration_s
    print_summary(rows)
