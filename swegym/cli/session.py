"""Puts together what an episode needs: task set, sandboxes, grader, environments, agents; for all commands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from swegym.core.action import AsyncEnv
from swegym.core.agent import Agent
from swegym.core.config import Section
from swegym.core.errors import ConfigError
from swegym.core.outcome import Grader
from swegym.core.policy import Policy, SamplingParams, Tokenizer
from swegym.core.registries import policies
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import Task, TaskSet

__all__ = [
    "PolicyOptions",
    "Session",
    "SessionOptions",
    "open_agents",
    "open_session",
    "reward_weights",
    "sandbox_options_from",
    "select_tasks",
]

DEFAULT_ENV_ID = "swegym/Swe-v0"


class PolicyOptions(Section):
    """What acts."""

    name: str = "oracle"
    """openai, scripted, oracle, human, replay, torch, or a registered policy that needs no arguments."""
    model: str | None = None
    """openai: the endpoint's model name; torch: checkpoint folder."""
    base_url: str | None = None
    """openai: the endpoint."""
    source: Path | None = None
    """scripted: file; replay: run folder."""
    profile: str | None = None
    """Prompt profile; None: short for torch, else cwm."""
    protocol: str | None = None
    """How actions are written; None: the profile's."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    max_action_tokens: int = Field(default=4096, ge=1)
    """Tokens of one completion."""
    max_context_tokens: int = Field(default=131_072, ge=2)
    """Tokens of one episode."""


class SessionOptions(Section):
    """What a rollout or an evaluation ran with; written to the run folder's config.json."""

    env_id: str = DEFAULT_ENV_ID
    """Registered environment."""
    taskset: str = "tiny"
    """Registered name, absolute folder, or module:attr."""
    tools: tuple[str, ...] | None = None
    """Names of the tools; None: the environment's default."""
    split: str | None = None
    """Only tasks with this label."""
    task_ids: tuple[str, ...] = ()
    """Only these tasks."""
    num_tasks: int | None = None
    """Only the first so many."""
    samples_per_task: int = Field(default=1, ge=1)
    """Episodes per task."""
    policy: PolicyOptions = PolicyOptions()
    sandbox: str = "auto"
    """Back end."""
    base_image: str | None = None
    """Docker: image that workspaces are put on; None: the back end's default."""
    sandbox_options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the back end: fields of `SandboxConfig`."""
    concurrency: int = Field(default=4, ge=1)
    """Episodes at a time."""
    rewards: dict[str, float] = {"tests": 1.0}
    """Weights of rewards."""
    seed: int = 0
    """Of everything random."""

    def make_provider(self, run: str = "") -> SandboxProvider:
        """The back end; its sandboxes carry the name of the run. Raises as `swegym.envs.make_provider`."""
        from swegym.envs import make_provider

        options = dict(self.sandbox_options)
        if self.base_image:
            options["base_image"] = self.base_image
        if run:
            options["labels"] = {"run": run} | options.get("labels", {})
        return make_provider(self.sandbox, **options)


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that a rollout, an evaluation, a replay or a re-grade needs. Closed by `open_session`."""

    options: SessionOptions
    taskset: TaskSet
    provider: SandboxProvider
    grader: Grader

    def make_env(self) -> AsyncEnv:
        """An environment that leaves grading to the grading stage."""
        from swegym.envs.swe_env import DEFAULT_TOOLS, SweEnv

        return SweEnv(
            env_id=self.options.env_id,
            taskset=self.taskset,
            tools=self.options.tools or DEFAULT_TOOLS,
            sandbox=self.provider,
            grade="deferred",
        )


@asynccontextmanager
async def open_session(options: SessionOptions, run: str = "") -> AsyncIterator[Session]:
    """Resolve the task set, start the back end; everything is closed when the block ends, however it ends.

    Args:
        options: what to work on, and where.
        run: name of the run folder, for listing its sandboxes.
    """
    import asyncio

    from swegym.envs import SweGrader, resolve_task_set

    taskset = resolve_task_set(options.taskset)
    provider = await asyncio.to_thread(options.make_provider, run)
    grader = SweGrader(provider, taskset, jobs=options.concurrency)
    try:
        yield Session(options, taskset, provider, grader)
    finally:
        await grader.close()
        await provider.close()


def sandbox_options_from(items: list[str] | None) -> dict[str, Any]:
    """`["warm=4", "labels.team=a"]` -> fields of SandboxConfig.

    Raises:
        ConfigError: an item is not KEY=VALUE, or there is no such setting.
    """
    from swegym.core.config import load_config
    from swegym.envs.sandboxes import SandboxConfig

    for item in items or []:
        key, equals, _ = item.partition("=")
        if not equals or not key or key in ("backend", "base_image"):
            hint = f"use --{key.replace('_image', '-image').replace('backend', 'sandbox')}" if equals else "KEY=VALUE"
            raise ConfigError(f"--sandbox-option {item!r}: {hint}")
    try:
        return load_config(SandboxConfig, overrides=items).model_dump(exclude_unset=True)
    except ConfigError as error:
        raise ConfigError(f"--sandbox-option: {str(error).removeprefix('--').partition(': ')[2]}") from None


def select_tasks(options: SessionOptions, taskset: TaskSet) -> list[Task]:
    """The tasks that the options name, in the task set's order.

    Raises:
        UnknownName: a named task does not exist. ConfigError: nothing is left.
    """
    wanted = [taskset.get(task_id).task_id for task_id in options.task_ids]
    ids = [task_id for task_id in taskset.ids(options.split) if not wanted or task_id in wanted]
    if not ids:
        where = f" of split {options.split!r}" if options.split else ""
        raise ConfigError(f"task set {taskset.name!r} has no such task{where}")
    return [taskset.get(task_id) for task_id in ids[: options.num_tasks]]


@asynccontextmanager
async def open_agents(options: PolicyOptions, taskset: TaskSet) -> AsyncIterator[Callable[[Task], Agent]]:
    """A function that makes the agent of one episode; the policies behind it are closed when the block ends.

    Raises:
        ConfigError, UnknownName, DependencyMissing: the policy cannot be made from these options.
    """
    from swegym.agents.forager import ForagerAgent, ForagerConfig

    config = ForagerConfig(
        sampling=SamplingParams(temperature=options.temperature),
        max_context_tokens=options.max_context_tokens,
        max_action_tokens=min(options.max_action_tokens, options.max_context_tokens),
    )
    profile = options.profile or ("short" if options.name == "torch" else "cwm")
    make_policy, tokenizer = _policy_factory(options, taskset)
    made: list[Policy] = []

    def make_agent(task: Task) -> Agent:
        policy = make_policy(task)
        if policy not in made:
            made.append(policy)
        return ForagerAgent(policy, tokenizer=tokenizer, profile=profile, protocol=options.protocol, config=config)

    try:
        yield make_agent
    finally:
        for policy in made:
            await policy.close()


def _policy_factory(options: PolicyOptions, taskset: TaskSet) -> tuple[Callable[[Task], Policy], Tokenizer | None]:
    name, protocol = options.name, {"protocol": options.protocol} if options.protocol else {}
    if name == "torch":
        return _torch_policy(options)
    factory = policies.get(name)
    if name == "oracle":
        return lambda task: factory(taskset.secret(task.task_id).patch, **protocol), None
    if name == "replay":
        return _replayed(options, factory), None
    if name == "openai":
        if not options.model:
            raise ConfigError("--policy openai needs --model NAME (and --base-url unless OPENAI_BASE_URL is set)")
        shared = factory(options.model, base_url=options.base_url, **protocol)
    elif name == "scripted":
        shared = factory(_read_script(options.source))
    elif name == "human":
        shared = factory(**protocol)
    else:
        shared = factory()
    return lambda task: shared, None


def _read_script(path: Path | None) -> list[str]:
    if path is None:
        raise ConfigError("--policy scripted needs --source FILE: one text per turn, parted by lines of ---")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the script {path}: {getattr(error, 'strerror', None) or error}") from None
    return [part.strip("\n") for part in text.split("\n---\n")]


def _replayed(options: PolicyOptions, factory: Callable[..., Policy]) -> Callable[[Task], Policy]:
    from swegym.core.runfolder import RunFolder

    if options.source is None:
        raise ConfigError("--policy replay needs --source RUN: the run folder whose episodes are said again")
    recorded = {trajectory.task_id: trajectory for trajectory in RunFolder.open(options.source).episodes.select()}

    def make(task: Task) -> Policy:
        if task.task_id not in recorded:
            raise ConfigError(
                f"run {options.source} holds no episode of task {task.task_id!r}; choose tasks with --task"
            )
        return factory(recorded[task.task_id])

    return make


def _torch_policy(options: PolicyOptions) -> tuple[Callable[[Task], Policy], Tokenizer]:
    from swegym.cli.compose import extra

    with extra("train", "torch", "safetensors", "tokenizers"):
        from swegym.agents.tokenizer import BpeTokenizer
        from swegym.train.cwm.checkpoint import load_checkpoint
        from swegym.train.start import starting_checkpoint
        from swegym.train.torch_policy import TorchPolicy

        folder = starting_checkpoint(options.model or "base")
        tokenizer = BpeTokenizer.load(folder)
        shared = TorchPolicy(load_checkpoint(folder), tokenizer)
    return lambda task: shared, tokenizer


def reward_weights(items: list[str] | None) -> dict[str, float]:
    """`["tests", "cwm=0.5"]` -> weights; nothing given means the tests reward. Raises ConfigError, UnknownName."""
    from swegym.rewards.compose import RewardSet

    weights: dict[str, float] = {}
    for item in items or ["tests"]:
        name, equals, number = item.partition("=")
        try:
            weights[name] = float(number) if equals else 1.0
        except ValueError:
            raise ConfigError(f"--reward {item!r}: {number!r} is not a number; write NAME=WEIGHT") from None
    RewardSet.from_weights(weights)
    return weights
