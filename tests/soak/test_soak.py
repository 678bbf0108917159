"""Thousands of episodes that end in every way an episode can end; nothing may be left of them.

`SWEGYM_SOAK_EPISODES` sets the number for the long variants (`make soak`), which print one line per checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from swegym.agents.forager import ForagerAgent
from swegym.agents.parse import TagProtocol
from swegym.agents.policies.oracle import apply_patch_command
from swegym.agents.policies.scripted import ScriptedPolicy
from swegym.core.action import StepResult, ToolCall
from swegym.core.outcome import Validity
from swegym.core.policy import PolicyRequest
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.core.store import EpisodeStore
from swegym.core.task import Task, TaskLimits
from swegym.core.trajectory import Trajectory
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.swe_env import SweEnv
from swegym.envs.tasksets.folder import resolve_task_set
from swegym.run.rollout import rollout
from tests.soak.census import Census, descendants, open_files, rss_bytes

BASE_IMAGE = os.environ.get("SWEGYM_TEST_IMAGE", "swegym-base:bookworm")
CONCURRENCY = 12
MAX_RSS_BYTES_PER_EPISODE = 4096
"""Slope over the second half. What is kept per episode on purpose is a cached grade of about 2 KiB."""
NOISE_BYTES = 1_000_000
"""What the second half may grow by however short it is."""
LIMITS = SandboxLimits(memory_bytes=192 * 1024**2, num_processes=64, disk_bytes=64 * 1024**2)
TASK_LIMITS = TaskLimits(max_turns=6, command_timeout_s=3.0, test_timeout_s=60.0, observation_limit_bytes=16_384)
Script = Sequence[str] | Callable[[PolicyRequest], str]


def say(tool: str, body: str = "") -> str:
    return TagProtocol().render(ToolCall(tool=tool, body=body))


SUBMIT = say("submit")
PWD = say("bash", "pwd")
ALLOCATE = "python3 -c 'b = bytearray(10**9); print(len(b))'"


def report(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def crash(_: PolicyRequest) -> str:
    raise RuntimeError("the agent has a bug")


# Behaviour -> (share of the episodes, texts of the turns). `solve` and the two after it get theirs per task.
BEHAVIOURS: dict[str, tuple[int, Script]] = {
    "solve": (30, ()),
    "solve_from_file": (5, ()),
    "wrong": (8, [say("create", "notes.txt\nnothing"), SUBMIT]),
    "exit": (6, [say("bash", "exit 7"), PWD, say("bash", "exec true"), PWD, SUBMIT]),
    "kill_shell": (4, [say("bash", "kill -9 $$"), PWD, say("bash", "kill -9 -1"), PWD, SUBMIT]),
    "timeout": (5, [say("bash", "sleep 300"), PWD, SUBMIT]),
    "background": (6, [say("bash", "sleep 300 & (setsid sleep 300 &) ; nohup sleep 300 >/dev/null 2>&1 &"), SUBMIT]),
    "oom": (4, [say("bash", ALLOCATE), PWD, SUBMIT]),
    "many_processes": (4, [say("bash", "for i in $(seq 100); do sleep 60 & done 2>/dev/null; echo made"), PWD, SUBMIT]),
    "much_output": (4, [say("bash", "head -c 20000000 /dev/zero | tr '\\0' 'x'"), PWD, SUBMIT]),
    "endless_output": (1, [say("bash", "yes"), PWD, SUBMIT]),
    "big_file": (3, [say("bash", "head -c 30000000 /dev/urandom > /tmp/big; ls -l /tmp/big"), SUBMIT]),
    "malformed": (4, ["I would rather talk.", "<tool: nothing>\n</tool>", SUBMIT]),
    "turn_limit": (4, [PWD] * 20),
    "policy_fails": (4, [PWD]),
    "agent_fails": (4, crash),
    "lost": (4, [say("bash", "echo LOSE ME"), PWD, SUBMIT]),
}

FAILURES = {"policy_fails": "error:PolicyError", "agent_fails": "error:RuntimeError", "lost": "error:SandboxLost"}
"""Tried again with another behaviour; seen when the second attempt fails as well."""


class SoakProvider:
    """The real back end with small limits; remembers every sandbox, and kills from outside those that ask for it."""

    def __init__(self, inner: SandboxProvider) -> None:
        self.name = inner.name
        self.sandbox_ids: set[str] = set()
        self._inner = inner

    async def create(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await self._inner.create(spec.model_copy(update={"limits": LIMITS}))
        self.sandbox_ids.add(sandbox.sandbox_id)
        return sandbox

    async def close(self) -> None:
        await self._inner.close()


def kill_from_outside(sandbox: Sandbox) -> None:
    """End the sandbox's first process behind our back."""
    if sandbox.backend == "docker":
        import docker

        client = docker.DockerClient.from_env(timeout=60)
        try:
            client.api.kill(sandbox.sandbox_id)
        finally:
            client.close()
        return
    for pid in descendants(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended with one killed before
            if sandbox.sandbox_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


class SoakEnv(SweEnv):
    """Closed twice, and now and then forgotten by its sandbox."""

    async def aclose(self) -> None:
        await super().aclose()
        await super().aclose()

    async def act(self, call: ToolCall | None, *, error: str = "") -> StepResult:
        if call is not None and "LOSE ME" in call.body:
            assert self._episode is not None
            await asyncio.to_thread(kill_from_outside, self._episode.sandbox)
        return await super().act(call, error=error)


class Soak:
    """One provider, grader and store under many rollouts."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend, self.temp_folder = backend, folder / "sandboxes"
        self.provider = SoakProvider(make_provider(backend, base_image=BASE_IMAGE, temp_folder=str(self.temp_folder)))
        self.taskset = resolve_task_set("tiny")
        self.store = EpisodeStore(folder / "episodes")
        self.grader = SweGrader(self.provider, self.taskset, jobs=4)
        self.random = random.Random(0)
        self.tasks = [
            self.taskset.get(task_id).model_copy(update={"limits": TASK_LIMITS}) for task_id in self.taskset.ids()
        ]
        self.endings: Counter[tuple[str, str]] = Counter()
        self.num_made = 0

    def make_env(self) -> SoakEnv:
        return SoakEnv(taskset=self.taskset, sandbox=self.provider, grade="deferred")

    def make_agent(self, task: Task) -> ForagerAgent:
        """The next behaviour: each of them in turn at first, then at random by its share."""
        names = list(BEHAVIOURS)
        shares = [share for share, _ in BEHAVIOURS.values()]
        name = names[self.num_made] if self.num_made < len(names) else self.random.choices(names, shares)[0]
        self.num_made += 1
        script = BEHAVIOURS[name][1]
        if name.startswith("solve"):
            # a file that differs every time, so that no grade comes from the cache
            patch = apply_patch_command(self.taskset.secret(task.task_id).patch)
            apply = say("bash", f"{patch}\necho {self.num_made} > number.txt; git add -N .")
            hand_in = [say("bash", "git diff > /tmp/my.patch"), say("submit", "/tmp/my.patch")]
            script = [apply, say("pytest"), *(hand_in if name == "solve_from_file" else [SUBMIT])]
        return ForagerAgent(ScriptedPolicy(script, name=name), profile="short")

    async def episodes(self, number: int, num_retries: int = 1) -> None:
        tasks = [self.tasks[index % len(self.tasks)] for index in range(number)]
        found = await rollout(
            tasks,
            self.make_env,
            self.make_agent,
            self.grader,
            {"tests": 1.0},
            concurrency=CONCURRENCY,
            store=self.store,
            seed=self.random.randrange(2**31),
            num_retries=num_retries,
        )
        assert len(found) == number
        self.endings.update((item.policy, check(item)) for item in found)

    async def cancelled_episodes(self) -> None:
        """A rollout that is cancelled somewhere in the middle."""
        running = asyncio.create_task(self.episodes(CONCURRENCY))
        await asyncio.sleep(self.random.uniform(0.05, 1.0))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    async def take(self, expected: Census | None = None) -> Census:
        """Look when background work has ended: gradings and threads of a cancelled rollout go on for a while."""
        for _ in range(100):
            found = Census.take(self.backend, self.temp_folder, self.provider.sandbox_ids)
            is_quiet = found.num_async_tasks == 1 and not found.num_sandbox_processes and not found.num_containers
            if is_quiet and (expected is None or found.leaks() == expected.leaks()):
                break
            await asyncio.sleep(0.1)
        return found

    async def close(self) -> None:
        await self.grader.close()
        await self.provider.close()
        self.store.close()


def check(item: Trajectory) -> str:
    """The episode's ending, after a look at whether it is a right one for its behaviour."""
    name = item.policy
    if name in FAILURES:
        assert (item.validity, item.end_reason) == (Validity.INFRASTRUCTURE, FAILURES[name]), name
        assert item.reward is None, f"{name}: an infrastructure failure has a reward"
        return item.end_reason
    assert item.validity is Validity.VALID, (name, item.validity_reason)
    assert item.outcome is not None
    assert item.outcome.resolved == name.startswith("solve"), (name, item.outcome.reason, item.outcome.log_tail)
    assert item.end_reason == ("turn_limit" if name == "turn_limit" else "submitted"), name
    killed = {turn.info.get("killed_by") for turn in item.turns} - {None}
    if name in ("timeout", "endless_output"):
        assert "timeout" in killed, name
    return item.end_reason


def slope(values: Sequence[float], width: float) -> float:
    """Least squares slope of equidistant values, `width` apart."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    top = sum((index - middle) * (value - mean) for index, value in enumerate(values))
    return top / sum((index - middle) ** 2 for index in range(len(values))) / width


async def soak(backend: str, folder: Path, num_episodes: int, num_checkpoints: int) -> None:
    running = Soak(backend, folder)
    share = -(-num_episodes // num_checkpoints)
    rows: list[Census] = []
    try:
        # Warm-up (imports, images, threads, caches), and every behaviour once, with its own ending
        await running.episodes(len(BEHAVIOURS), num_retries=0)
        assert {name for name, _ in running.endings} == set(BEHAVIOURS)
        await running.cancelled_episodes()
        first = await running.take()
        for index in range(num_checkpoints):
            await running.episodes(share)
            await running.cancelled_episodes()
            rows.append(await running.take(first))
            report(f"{(index + 1) * share} episodes, {rows[-1].rss_bytes / 1e6:.1f} MB, {rows[-1]}")
            assert rows[-1].leaks() == first.leaks()
    finally:
        await running.close()
    report(f"endings: {sorted(running.endings.items())}")
    half = rows[len(rows) // 2 :]
    before = [first, *rows[: len(rows) // 2]]
    assert max(row.num_threads for row in half) <= max(row.num_threads for row in before)
    # A pool of connections to an engine fills up in the first half
    assert max(row.num_descriptors for row in half) <= max(row.num_descriptors for row in before), open_files()
    if len(half) >= 5:
        growth = slope([row.rss_bytes for row in half], share)
        report(f"memory grows by {growth:.0f} bytes per episode over the second half")
        assert growth * len(half) * share < MAX_RSS_BYTES_PER_EPISODE * len(half) * share + NOISE_BYTES
    closed = await running.take()
    assert (closed.num_sandbox_processes, closed.num_children - first.num_children, closed.num_containers) == (0, 0, 0)
    assert len(running.provider.sandbox_ids) > num_episodes


@pytest.fixture(autouse=True)
def no_log_records() -> Iterator[None]:
    """Pytest keeps every record, with its traceback, until the test ends; that would count as growth of ours."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


async def test_a_few_episodes_of_every_kind_leave_nothing(tmp_path: Path) -> None:
    await soak("local", tmp_path, num_episodes=40, num_checkpoints=2)


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_thousands_of_episodes_leave_nothing(tmp_path: Path) -> None:
    number = int(os.environ.get("SWEGYM_SOAK_EPISODES", "2000"))
    await soak("local", tmp_path, num_episodes=number, num_checkpoints=20)


@pytest.mark.soak
@pytest.mark.docker
@pytest.mark.timeout(7200)
async def test_hundreds_of_episodes_in_containers_leave_nothing(tmp_path: Path) -> None:
    number = int(os.environ.get("SWEGYM_SOAK_EPISODES", "2000")) // 10
    await soak("docker", tmp_path, num_episodes=number, num_checkpoints=10)


async def idle_bytes(backend: str, folder: Path, number: int) -> float:
    """Resident memory of our process per environment that waits for its next action."""
    provider = make_provider(backend, base_image=BASE_IMAGE, temp_folder=str(folder / "sandboxes"))
    taskset = resolve_task_set("tiny")
    task = taskset.get(taskset.ids()[0])
    envs: list[SweEnv] = []

    async def begin() -> None:
        env = SweEnv(taskset=taskset, sandbox=provider, grade="deferred")
        await env.start(task)
        await env.act(ToolCall(tool="bash", body="ls"))
        envs.append(env)

    try:
        await asyncio.gather(*(begin() for _ in range(4)))  # warm-up
        before = rss_bytes()
        await asyncio.gather(*(begin() for _ in range(number)))
        return (rss_bytes() - before) / number
    finally:
        await asyncio.gather(*(env.aclose() for env in envs))
        await provider.close()


@pytest.mark.parametrize("backend", ["local", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.soak])])
async def test_an_idle_environment_takes_less_than_a_megabyte(backend: str, tmp_path: Path) -> None:
    each = await idle_bytes(backend, tmp_path, 64)
    report(f"{backend}: {each / 1000:.0f} kB per idle environment")
    assert each < 1_000_000
