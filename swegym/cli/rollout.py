"""`swegym rollout`: let a policy work on tasks and write the graded episodes down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from swegym.cli import options as opt

if TYPE_CHECKING:
    from swegym.cli.session import SessionOptions
    from swegym.core.runfolder import RunFolder
    from swegym.core.trajectory import Trajectory

__all__ = ["rollout"]


def rollout(
    env: opt.EnvId = None,
    taskset: opt.TaskSetName = None,
    split: opt.Split = None,
    task: opt.TaskIds = None,
    num_tasks: opt.NumTasks = None,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per task.", rich_help_panel="Tasks")] = 1,
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
    reward: opt.Rewards = None,
    seed: opt.Seed = 0,
    run: opt.RunFolderPath = None,
) -> None:
    """Let a policy work on tasks; every episode is graded and written to the run folder."""
    import asyncio

    from swegym.cli.compose import new_run, task_options
    from swegym.cli.session import PolicyOptions, SessionOptions, reward_weights, sandbox_options_from

    fields = task_options(env, taskset)
    fields |= {"split": split} if split else {}
    fields |= {"task_ids": tuple(task)} if task else {}
    fields |= {"rewards": reward_weights(reward)} if reward else {}
    is_human = policy == "human"
    session_options = SessionOptions(
        **fields,
        num_tasks=num_tasks,
        samples_per_task=samples,
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
        concurrency=1 if is_human else concurrency,
        seed=seed,
    )
    check_options(session_options)
    with new_run(run, "rollout", session_options) as folder:
        trajectories = asyncio.run(_rollout(session_options, folder))
        _report(trajectories, folder)


def check_options(options: SessionOptions) -> None:
    """Find the user's mistakes before a run folder is made or a sandbox starts."""
    import asyncio

    from swegym.cli.session import open_agents, select_tasks
    from swegym.envs import resolve_task_set

    taskset = resolve_task_set(options.taskset)
    tasks = select_tasks(options, taskset)

    async def make_one() -> None:
        async with open_agents(options.policy, taskset) as make_agent:
            make_agent(tasks[0])
        await options.make_provider().close()

    asyncio.run(make_one())


async def _rollout(options: SessionOptions, run: RunFolder) -> list[Trajectory]:
    from swegym.cli.progress import show_progress
    from swegym.cli.session import open_agents, open_session, select_tasks
    from swegym.run.rollout import rollout as run_rollout

    async with (
        open_session(options, run.path.name) as session,
        open_agents(options.policy, session.taskset) as make_agent,
    ):
        tasks = select_tasks(options, session.taskset)
        total, done = len(tasks) * options.samples_per_task, 0
        with show_progress() as progress:
            progress.stage(f"{total} episodes in {session.provider.name} sandboxes")

            def count(trajectory: Trajectory) -> None:
                nonlocal done
                done += 1
                progress.advance(done, total, f"{trajectory.task_id}: {trajectory.end_reason}")

            return await run_rollout(
                tasks,
                session.make_env,
                make_agent,
                session.grader,
                options.rewards,
                group_size=options.samples_per_task,
                concurrency=options.concurrency,
                store=run.episodes,
                on_trajectory=count,
                seed=options.seed,
                num_retries=0 if options.policy.name == "human" else 1,
            )


def _report(trajectories: list[Trajectory], run: RunFolder) -> None:
    from swegym.cli.compose import print_summary
    from swegym.cli.episodes import episodes_table
    from swegym.run.statistics import trajectory_statistics

    statistics = trajectory_statistics(trajectories)
    run.write_summary(statistics.model_dump())
    if len(trajectories) <= 40:
        episodes_table(trajectories)
    print_summary(statistics.model_dump())
    print(f"\nswegym replay {run.path} {trajectories[-1].episode_id}")
    fail_if_all_invalid(trajectories)


def fail_if_all_invalid(trajectories: list[Trajectory]) -> None:
    """Nothing was learned about the policy when every episode failed: that is an error, with the reason."""
    from swegym.core.errors import RolloutError
    from swegym.core.outcome import Validity

    if trajectories and all(item.validity is not Validity.VALID for item in trajectories):
        raise RolloutError(f"every episode is invalid; the last one: {trajectories[-1].validity_reason}")
