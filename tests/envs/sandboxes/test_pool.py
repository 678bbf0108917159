"""The warm pool: what is handed out, how many there are, who waits, and what becomes of failures."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError, SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import list_sandboxes, make_provider
from swegym.envs.sandboxes.local import LocalSandbox
from swegym.envs.sandboxes.pool import SandboxPool
from tests.envs.sandboxes.watched import Watched, environment, folders, inner, until


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    real = make_provider("local", temp_folder=str(tmp_path / "sandboxes"))
    yield Watched(real)
    await real.close()


# --- handing out ------------------------------------------------------------------------------------------------------


async def test_ready_ones_are_handed_out_with_the_labels_of_the_request(
    backend: str, base_image: str, spec: SandboxSpec, tmp_path: Path
) -> None:
    temp_folder, run = str(tmp_path / "sandboxes"), tmp_path.as_posix()
    pool = make_provider(backend, base_image=base_image, temp_folder=temp_folder, warm=1, labels={"run": run})
    assert isinstance(pool, SandboxPool)
    assert isinstance(pool, SandboxProvider)
    first = await pool.create(spec.model_copy(update={"labels": {"task": "a"}}))
    assert isinstance(first, Sandbox)
    await until(lambda: pool.num_ready == 1)
    ready = [record for record in list_sandboxes(temp_folder) if record.state == "ready" and record.run == run]
    second = await pool.create(spec.model_copy(update={"labels": {"task": "b"}}))
    assert [second.sandbox_id] == [record.sandbox_id for record in ready]
    records = {record.sandbox_id: record for record in list_sandboxes(temp_folder)}
    for sandbox, task in ((first, "a"), (second, "b")):
        record = records[sandbox.sandbox_id]
        assert (record.state, record.run, record.labels["task"]) == ("in use", run, task)
    assert (await second.run("./run.sh; echo $?")).text == "ran\n0\n"
    await pool.close()
    assert [record for record in list_sandboxes(temp_folder) if record.run == run] == []
    assert not list(Path(temp_folder).glob("containers/*"))


async def test_a_used_sandbox_never_comes_back(watched: Watched, spec: SandboxSpec, tmp_path: Path) -> None:
    pool = SandboxPool(watched, warm=2)
    seen: set[str] = set()
    for _ in range(5):
        sandbox = await pool.create(spec)
        assert sandbox.sandbox_id not in seen
        seen.add(sandbox.sandbox_id)
        assert (await sandbox.run("ls /tmp; echo mark >/tmp/mark")).text == ""
        await sandbox.close()
        await sandbox.close()
        assert sandbox.sandbox_id not in folders(tmp_path)
    await until(lambda: pool.num_ready == 2)
    assert pool.num_sandboxes == 2
    await pool.close()


async def test_only_equal_specs_share(watched: Watched, spec: SandboxSpec) -> None:
    """In RL all tasks cut from one repository have one spec: the task is in its labels, its edits come later."""
    pool = SandboxPool(watched, warm=1)
    await pool.create(spec)
    await until(lambda: pool.num_ready == 1)
    other = await pool.create(environment(spec, X="1"))
    assert (await other.run("echo $X")).text == "1\n"
    assert inner(other) is not watched.made[1]
    same = await pool.create(spec.model_copy(update={"labels": {"task": "another"}}))
    assert inner(same) is watched.made[1]
    await pool.close()


def inner_is_alive(sandbox: Sandbox) -> bool:
    assert isinstance(sandbox, LocalSandbox)
    return sandbox.session.lost_reason is None


async def test_a_dead_ready_one_is_never_handed_out(
    watched: Watched, spec: SandboxSpec, caplog: pytest.LogCaptureFixture
) -> None:
    """rl-failures 37 (rllm#616, #644: dead warm sandboxes handed out)."""
    pool = SandboxPool(watched, warm=2)
    await pool.create(spec)
    await until(lambda: pool.num_ready == 2)
    for dead in watched.made[1:3]:
        assert isinstance(dead, LocalSandbox)
        assert dead._process is not None
        os.kill(dead._process.pid, signal.SIGKILL)
    await until(lambda: not any(inner_is_alive(dead) for dead in watched.made[1:3]))
    with caplog.at_level(logging.WARNING):
        sandbox = await pool.create(spec)
    assert inner(sandbox) not in watched.made[:3]
    assert (await sandbox.run("echo alive")).text == "alive\n"
    assert caplog.text.count("died while it waited") == 2
    await sandbox.close()
    await until(lambda: pool.num_sandboxes == 3)  # the first one and two ready ones
    await pool.close()


async def test_the_life_time_begins_when_it_is_handed_out(watched: Watched, spec: SandboxSpec) -> None:
    """swe-failures F8 (rllm#736: a life time that began too early ended the sandbox in the middle of grading)."""
    pool = SandboxPool(watched, warm=1)
    spec = spec.model_copy(update={"limits": SandboxLimits(lifetime_s=2.5)})
    await (await pool.create(spec)).close()
    await until(lambda: pool.num_ready == 1)
    await asyncio.sleep(1.5)
    sandbox = await pool.create(spec)
    await asyncio.sleep(1.5)
    assert (await sandbox.run("echo alive")).text == "alive\n"
    with pytest.raises(SandboxLost, match="life time"):
        await sandbox.run("sleep 60")
    await pool.close()


async def test_the_prepare_command_has_run(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, warm=1)
    spec = spec.model_copy(update={"prepare_command": "(echo once >>prepared; cd /; exit 3)"})
    await pool.create(spec)
    await until(lambda: pool.num_ready == 1)
    sandbox = await pool.create(spec)
    assert (await sandbox.run("pwd; cat prepared; rm prepared")).text == "/testbed\nonce\n"
    fork = await sandbox.fork()
    assert (await fork.run("cat prepared")).exit_code == 1
    snapshot = await fork.snapshot()
    again = await pool.create(spec.model_copy(update={"image": snapshot}))
    assert (await again.run("cat prepared")).exit_code == 1
    await pool.close()


# --- failures and the end ---------------------------------------------------------------------------------------------


async def test_failing_background_starts_do_not_spin_and_surface(
    watched: Watched, spec: SandboxSpec, caplog: pytest.LogCaptureFixture
) -> None:
    pool = SandboxPool(watched, warm=2, num_refills=1)
    first = await pool.create(spec)
    await until(lambda: pool.num_ready == 2)
    watched.failure = SandboxError("the disk is full")
    second = await pool.create(spec)
    await until(lambda: bool(pool._failures))
    await first.close()
    await second.close()
    await asyncio.sleep(0.1)
    assert watched.num_starts == 4
    assert pool.num_sandboxes == pool.num_ready == 1
    await (await pool.create(spec)).close()  # the last ready one still serves, and starts no other
    with pytest.raises(SandboxError, match="disk is full"):
        await pool.create(spec)
    assert watched.num_starts == 5
    assert "a ready sandbox did not start: SandboxError: the disk is full" in caplog.text
    await pool.close()  # a run that got all it asked for does not fail for this


async def test_a_request_that_succeeds_heals_its_spec(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, warm=1)
    watched.gate.clear()
    request = asyncio.create_task(pool.create(spec))
    await asyncio.sleep(0)
    watched.gate.set()
    await request
    await until(lambda: pool.num_ready == 1)
    watched.failure = SandboxError("for a moment")
    await pool.create(spec)
    await until(lambda: bool(pool._failures))
    watched.failure = None
    await pool.create(spec)
    await until(lambda: pool.num_ready == 1)
    await pool.close()


async def test_sandboxes_that_cannot_be_relabelled_are_not_kept_ready(
    watched: Watched, spec: SandboxSpec, caplog: pytest.LogCaptureFixture
) -> None:
    class Foreign:
        def __init__(self, sandbox: Sandbox) -> None:
            self.sandbox_id, self.backend = sandbox.sandbox_id, sandbox.backend
            self.close, self.is_healthy = sandbox.close, sandbox.is_healthy

    class ForeignProvider(Watched):
        async def create(self, spec: SandboxSpec) -> Sandbox:
            return Foreign(await super().create(spec))  # type: ignore[return-value]

    pool = SandboxPool(ForeignProvider(watched.real), warm=1)
    await (await pool.create(spec)).close()
    await until(lambda: bool(pool._failures))
    assert [type(error) for error in pool._failures.values()] == [ConfigError]
    assert "set sandbox.warm to 0" in caplog.text
    assert (await pool.create(spec)).backend == "local"  # it goes on without ready ones
    await pool.close()


async def test_close_while_starting_and_waiting(watched: Watched, spec: SandboxSpec, tmp_path: Path) -> None:
    pool = SandboxPool(watched, warm=3, max_sandboxes=3)
    await (await pool.create(spec)).close()
    await pool.create(spec)
    watched.gate.clear()
    requests = [asyncio.create_task(pool.create(environment(spec, N=str(number)))) for number in range(4)]
    await asyncio.sleep(0.02)
    closing = [asyncio.create_task(pool.close()) for _ in range(3)]
    await asyncio.sleep(0)
    watched.gate.set()
    await asyncio.gather(*closing)
    for result in await asyncio.gather(*requests, return_exceptions=True):
        assert isinstance(result, SandboxError)
        assert "closed" in str(result)
    assert folders(tmp_path) == set()
    with pytest.raises(SandboxError, match="closed"):
        await pool.create(spec)
    await pool.close()


async def test_close_in_the_middle_of_real_starts(spec: SandboxSpec, tmp_path: Path) -> None:
    for delay_ms in (0, 3, 10, 30):
        pool = make_provider("local", temp_folder=str(tmp_path / "sandboxes"), warm=4, max_starts=8)
        await pool.create(spec)
        await asyncio.sleep(delay_ms / 1000)
        await pool.close()
        assert folders(tmp_path) == set()
    mounts = Path("/proc/mounts").read_text()
    assert str(tmp_path) not in mounts
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], check=False, capture_output=True).returncode == 1


def test_options_make_a_pool() -> None:
    assert not isinstance(make_provider("local"), SandboxPool)
    assert isinstance(make_provider("local", warm=1), SandboxPool)
    assert isinstance(make_provider("local", max_sandboxes=1), SandboxPool)
    with pytest.raises(ConfigError, match=r"sandbox\.max_sandboxes"):
        make_provider("local", max_sandboxes=0)
