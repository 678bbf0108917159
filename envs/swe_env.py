"""SweEnv: a repository with something to mend, as a Gymnasium environment.

The core is asynchronous (`start`, `act`, `submission`, `aclose`: `swegym.core.action.AsyncEnv`), so that a thousand
episodes share one event loop. `reset`, `step`, `render` and `close` are Gymnasium's, a synchronous facade over it.

An action is a tool call; the tools are `swegym.envs.tools`. An env knows no model and no text protocol.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

from swegym.core.action import Observation, StepResult, ToolCall
from swegym.core.aio import run_sync
from swegym.core.errors import ConfigError, RewardError, SandboxError, SandboxLost, TaskError, boundary
from swegym.core.outcome import Grader, Outcome, Validity
from swegym.core.registries import rewards
from swegym.core.reward import RewardFn, check_terms
from swegym.core.sandbox import SandboxProvider
from swegym.core.task import Task, TaskLimits, TaskSet
from swegym.envs.episode import Episode
from swegym.envs.limits import EpisodeBudget
from swegym.envs.services import Services
from swegym.envs.spaces import ToolAction, ToolCallSpace, UnicodeText
from swegym.envs.tasksets import resolve_task_set, sandbox_spec
from swegym.envs.tools.base import ToolResult, make_tools
from swegym.envs.tools.output import clip_middle
from swegym.envs.workspace import extract_patch, prepare_workspace, workspace_preparation

__all__ = ["SweEnv"]

DEFAULT_TOOLS = ("bash", "edit", "create", "pytest", "submit")
MAX_TEXT_LENGTH = 2**22
NO_EXIT_CODE = -1

ObservationDict = dict[str, Any]


class SweEnv(gymnasium.Env[ObservationDict, ToolAction]):
    """One repository task at a time.

    Observation space: `text` (any Unicode), `exit_code` (-1 when there was no command), `truncated_bytes`,
    `remaining_turns`. Action space: `{"tool": NAME, "body": TEXT}`; `step` takes a `ToolCall` as well.
    Reward: 0.0 until the end. With `grade="inline"` the last step's is the sum of the reward's terms; with
    "deferred" it stays 0.0 and the grading stage decides. `info` of the last step has `end_reason`, `patch`, and
    inline also `outcome` and `rewards`. What differs between equal runs is in `last_result` and not in `info`.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}

    def __init__(
        self,
        env_id: str = "swegym/Swe-v0",
        taskset: str | TaskSet = "tiny",
        tools: Sequence[str] = DEFAULT_TOOLS,
        sandbox: str | SandboxProvider = "auto",
        grade: Literal["inline", "deferred"] = "inline",
        grader: Grader | None = None,
        reward: str = "tests",
        split: str | None = None,
        task_ids: Sequence[str] | None = None,
        render_mode: str | None = None,
        sandbox_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up an environment; no sandbox starts before the first reset.

        Args:
            env_id: the id it is registered under.
            taskset: a registered name, a folder, "module:attr", or a TaskSet.
            tools: names of the tools, in the order shown to agents.
            sandbox: a back end ("auto", "docker", "local", ...) or a provider, which then stays the caller's to close.
            grade: "inline": the last step runs the hidden tests; "deferred": a grading stage of its own does.
            grader: for inline grading; made when absent. One that is given stays the caller's to close.
            reward: name of a registered reward, for inline grading.
            split: draw only from the tasks labelled so.
            task_ids: draw only from these.
            render_mode: None or "ansi".
            sandbox_options: fields of `SandboxConfig` for a back end given by name, such as `base_image`.

        Raises:
            UnknownName: no such task set, tool, reward or task.
            ConfigError: anything else is wrong with an argument.
        """
        if grade not in ("inline", "deferred"):
            raise ConfigError(f"grade must be 'inline' or 'deferred', got {grade!r}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigError(f"render_mode must be None or 'ansi', got {render_mode!r}")
        if sandbox_options and not isinstance(sandbox, str):
            raise ConfigError("sandbox_options go with the name of a back end; a provider has its options already")
        self.env_id = env_id
        self.render_mode = render_mode
        self.taskset = resolve_task_set(taskset)
        self.grade_mode = grade
        self.tools = make_tools(tuple(tools))
        self.last_result: StepResult | None = None
        """The last step with its durations and the whole outcome."""
        self._task_ids = self._select_tasks(split, task_ids)
        target = rewards.get(reward)
        self._reward: RewardFn = target() if isinstance(target, type) else target
        self._make_services = partial(Services, sandbox, dict(sandbox_options or {}), grader, self.taskset)
        self._services: Services | None = None
        """Shared with forks. None while this env uses none."""
        self._episode: Episode | None = None
        self._seed: int | None = None
        self.action_space = ToolCallSpace(tuple(self.tools))
        self.observation_space = Dict(
            {
                "text": UnicodeText(MAX_TEXT_LENGTH),
                "exit_code": Box(NO_EXIT_CODE, 255, (), np.int64),
                "truncated_bytes": Box(0, 2**62, (), np.int64),
                "remaining_turns": Box(0, 2**31 - 1, (), np.int64),
            }
        )

    def _select_tasks(self, split: str | None, task_ids: Sequence[str] | None) -> list[str]:
        selected = self.taskset.ids(split)
        if task_ids is not None:
            for task_id in task_ids:
                self.taskset.get(task_id)
            selected = [task_id for task_id in task_ids if split is None or task_id in set(selected)]
        if not selected:
            raise ConfigError(
                f"task set {self.taskset.name!r} has no tasks" + (f" in split {split!r}" if split else "")
            )
        return selected

    # --- Gymnasium ----------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Begin an episode: of the task `options["task_id"]`, or of one drawn with `np_random`.

        Raises:
            UnknownName, ConfigError: the options are wrong.
            SandboxError, TaskError: the episode cannot begin.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        task_id = options.pop("task_id", None)
        if options:
            raise ConfigError(f"unknown reset options {sorted(options)}; there is only 'task_id'")
        if task_id is None:
            task_id = self._task_ids[int(self.np_random.integers(len(self._task_ids)))]
        observation, info = run_sync(self.start(self.taskset.get(task_id), seed=seed))
        return _as_dict(observation), info

    def step(self, action: ToolAction | ToolCall) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Run one tool call.

        Raises:
            ConfigError: the action is not a tool call at all.
            ResetNeeded: no episode is running.
            SandboxError, TaskError: the sandbox or the grading stage failed; that is never a reward.
        """
        result = run_sync(self.act(_as_call(action)))
        info = {key: value for key, value in result.info.items() if key != "duration_s"}
        if isinstance(outcome := info.get("outcome"), Outcome):
            info["outcome"] = outcome.model_copy(update={"duration_s": 0.0, "cached": False, "log_tail": ""})
        return _as_dict(result.observation), result.reward, result.terminated, result.truncated, info

    def render(self) -> str | None:
        """The running or last episode as text ("ansi")."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render mode: make the environment with render_mode='ansi'")
            return None
        return self._episode.transcript() if self._episode else ""

    def close(self) -> None:
        """Remove the sandbox; idempotent."""
        if self._services is not None or self._episode is not None:
            run_sync(self.aclose())

    def fork(self) -> Self:
        """See `afork`. Made by `gymnasium.make`, an env wears wrappers: `env.unwrapped.fork()`."""
        return run_sync(self.afork())

    # --- async core ---------------------------------------------------------------------------------------------------

    async def start(self, task: Task, *, seed: int | None = None) -> tuple[Observation, dict[str, Any]]:
        """Take a sandbox and prepare the task; the last episode's sandbox is removed.

        Raises:
            SandboxError, TaskError.
        """
        await self._drop_episode()
        self.last_result = None
        provider = await self._use_services().provider()
        spec = await asyncio.to_thread(sandbox_spec, task, self.taskset)  # may have to install the dependencies
        sandbox = await provider.create(spec.model_copy(update={"prepare_command": workspace_preparation(task)}))
        try:
            start_commit = await prepare_workspace(sandbox, task, is_prepared=True)
        except BaseException:
            await sandbox.close()
            raise
        budget = EpisodeBudget(task.limits)
        observation = Observation(
            text=task.statement,
            remaining_turns=budget.remaining_turns,
            tools=tuple(tool.spec for tool in self.tools.values()),
            hints=dict(task.payload.hints),
        )
        self._episode = Episode(task, sandbox, start_commit, budget, observation)
        self._seed = seed
        info = {
            "task_id": task.task_id,
            "sandbox": sandbox.backend,
            "workdir": task.payload.workdir,
            "tools": [tool.spec.model_dump() for tool in self.tools.values()],
            "hints": dict(task.payload.hints),
        }
        return observation, info

    async def act(self, call: ToolCall | None, *, error: str = "") -> StepResult:
        """Run one tool call, or spend a turn on a malformed action (`call` None), whose `error` is the observation.

        Raises:
            ResetNeeded: no episode is running.
            SandboxLost: the sandbox is gone.
            SandboxError, TaskError, RewardError: inline grading failed.
        """
        episode = self._episode
        if episode is None or episode.is_over:
            raise ResetNeeded("the episode is over or has not begun: call reset() before step()")
        started = time.monotonic()
        limits = episode.budget.spend_turn()
        result = await self._run_tool(episode, call, error, limits)
        if result.exit_code and not await episode.sandbox.is_healthy():
            raise SandboxLost(f"the sandbox of {episode.task.task_id} no longer answers after a failed command")
        episode.terminated = result.terminated
        limit = "" if result.terminated else episode.budget.end_reason()
        episode.truncated = bool(limit)
        episode.end_reason = "submitted" if result.terminated else limit
        text, cut = result.text, 0
        if len(text) > MAX_TEXT_LENGTH:
            text, cut = clip_middle(text.encode(), MAX_TEXT_LENGTH // 2)
        observation = Observation(
            text=text,
            exit_code=result.exit_code,
            truncated_bytes=result.truncated_bytes + cut,
            remaining_turns=episode.budget.remaining_turns,
        )
        episode.add_turn(call, error, observation, result.info)
        info = dict(result.info)
        reward = 0.0
        if result.terminated or limit:
            reward = await self._finish(episode, result, info)
        info["duration_s"] = time.monotonic() - started
        self.last_result = StepResult(observation, reward, episode.terminated, episode.truncated, info)
        return self.last_result

    async def submission(self) -> str | None:
        """The patch that was handed in; without a submit, the work tree's diff, which is kept once it is over."""
        episode = self._episode
        if episode is None:
            return None
        if episode.patch is not None:
            return episode.patch
        patch = await extract_patch(episode.sandbox, episode.task, episode.start_commit)
        if episode.is_over:
            episode.patch = patch
        return patch

    async def aclose(self) -> None:
        """Remove the sandbox, and the provider and the grader that were made here, if no fork uses them; idempotent."""
        try:
            await self._drop_episode()
        finally:
            services, self._services = self._services, None
            if services is not None:
                await services.leave()

    async def afork(self) -> Self:
        """Another env in the same state, from which both go on independently. For several, call it several times.

        Files, shell, transcript, turns and time spent, start commit and `np_random` are copied; processes that run in
        the background are not. What it takes to fork is not charged to the fork. Each env is to be closed.

        Raises:
            ResetNeeded: no episode is running.
            ConfigError: an action is.
            SandboxError: the sandbox could not be copied; this env can go on.
        """
        episode = self._episode
        if episode is None or episode.is_over:
            raise ResetNeeded("the episode is over or has not begun: there is nothing to fork; call reset() first")
        num_turns, remaining_s = len(episode.turns), episode.budget.remaining_s
        sandbox = await episode.sandbox.fork()
        if num_turns != episode.budget.num_turns or episode.is_over:
            await sandbox.close()
            raise ConfigError("an env can be forked between two actions only, and one was running")
        child = copy.copy(self)
        child.action_space, child.observation_space = copy.deepcopy((self.action_space, self.observation_space))
        child._np_random = copy.deepcopy(self._np_random)
        child._services = self._use_services().join()
        child._episode = episode.fork(sandbox, remaining_s)
        return child

    # --- parts --------------------------------------------------------------------------------------------------------

    async def _run_tool(self, episode: Episode, call: ToolCall | None, error: str, limits: TaskLimits) -> ToolResult:
        if call is None:
            return ToolResult(error or "The action is malformed.")
        tool = self.tools.get(call.tool)
        if tool is None:
            return ToolResult(
                f"There is no tool {call.tool[:80]!r}. The tools are: {', '.join(self.tools)}.", exit_code=1
            )
        if not call.body.strip() and not tool.allows_empty_body:
            return ToolResult(f"{call.tool}: the body is empty. It must be: {tool.spec.body_format}", exit_code=1)
        try:
            call.body.encode()
        except UnicodeEncodeError:
            return ToolResult(f"{call.tool}: the body holds a lone surrogate, which is not text.", exit_code=1)
        return await tool.run(episode.sandbox, episode.task, call.body, limits)

    async def _finish(self, episode: Episode, result: ToolResult, info: dict[str, Any]) -> float:
        """Fill the last step's info; the reward when this env grades."""
        info["end_reason"] = episode.end_reason
        episode.patch = result.submission
        if self.grade_mode == "deferred" and not result.terminated:
            return 0.0
        info["patch"] = patch = await self.submission() or ""
        if self.grade_mode == "deferred":
            return 0.0
        outcome = await (await self._use_services().grader()).grade(episode.task, patch)
        info["outcome"] = outcome
        if outcome.validity is not Validity.VALID:
            kind = TaskError if outcome.validity is Validity.TASK else SandboxError
            raise kind(f"{episode.task.task_id} could not be graded: {outcome.reason or outcome.validity}")
        trajectory = episode.trajectory(self.env_id, self._seed)
        with boundary(RewardError, f"reward {self._reward.name!r}"):
            terms = self._reward(episode.task, trajectory, outcome)
        check_terms(self._reward, terms)
        info["rewards"] = dict(terms)
        return float(sum(terms.values()))

    def _use_services(self) -> Services:
        if self._services is None:
            self._services = self._make_services()
        return self._services

    async def _drop_episode(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            await episode.sandbox.close()


def _as_dict(observation: Observation) -> ObservationDict:
    code = NO_EXIT_CODE if observation.exit_code is None else min(255, max(NO_EXIT_CODE, observation.exit_code))
    return {
        "text": observation.text[:MAX_TEXT_LENGTH],
        "exit_code": _integer(code),
        "truncated_bytes": _integer(observation.truncated_bytes),
        "remaining_turns": _integer(observation.remaining_turns),
    }


def _integer(value: int) -> NDArray[np.int64]:
    return np.array(value, dtype=np.int64)


def _as_call(action: object) -> ToolCall:
    if isinstance(action, ToolCall):
        return action
    if isinstance(action, Mapping) and "tool" in action and set(action) <= {"tool", "body"}:
        tool, body = action["tool"], action.get("body", "")
        if isinstance(tool, str) and isinstance(body, str):
            return ToolCall(tool=tool, body=body)
    raise ConfigError(f"an action is {{'tool': NAME, 'body': TEXT}} or a ToolCall, not {str(action)[:200]}")
