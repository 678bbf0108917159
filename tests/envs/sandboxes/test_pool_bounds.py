"""The warm pool's bounds: how many sandboxes there are, who waits for room, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.pool import PooledSandbox, SandboxPool
from tests.envs.sandboxes.watched import Watched, environment, folders, inner, until


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    real = make_provider("local", temp_folder=str(tmp_path / "sandboxes"))
    yield Watched(real)
    await real.close()


async def test_ready_ones_are_bounded_per_spec_and_in_all(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, warm=2, max_warm=3)
    for number in range(4):
        await (await pool.create(environment(spec, N=str(number)))).close()
        await until(lambda: not pool._refills and not pool._removals)
        assert pool.num_ready == min(2 * number + 2, 3)
    assert pool.num_sandboxes == 3
    num_starts = watched.num_starts
    sandbox = await pool.create(environment(spec, N="3"))  # the latest kept theirs
    assert inner(sandbox) in watched.made[:num_starts]
    await pool.close()


async def test_idle_ones_are_retired(watched: Watched, spec: SandboxSpec, tmp_path: Path) -> None:
    pool = SandboxPool(watched, warm=2, warm_idle_s=1.0)
    await (await pool.create(spec)).close()
    await until(lambda: pool.num_ready == 2)
    await until(lambda: pool.num_sandboxes == 0)
    assert folders(tmp_path) == set()
    assert watched.num_starts == 3  # and they are not replaced, since nobody asks any more
    await (await pool.create(spec)).close()
    await until(lambda: pool.num_ready == 2)
    await pool.close()


async def test_starts_of_ready_ones_are_bounded(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, warm=8, num_refills=2)
    await pool.create(spec)
    watched.gate.clear()
    await until(lambda: len(pool._refills) == 2)
    await asyncio.sleep(0.05)
    assert watched.num_starts == 3
    watched.gate.set()
    await until(lambda: pool.num_ready == 8)
    await pool.close()


async def test_never_more_than_max_sandboxes_and_in_order(watched: Watched, spec: SandboxSpec, tmp_path: Path) -> None:
    pool = SandboxPool(watched, warm=2, max_sandboxes=3)
    most, order = 0, []

    async def episode(number: int) -> None:
        nonlocal most
        sandbox = await pool.create(environment(spec, N=str(number % 2)))
        order.append(number)
        most = max(most, len(folders(tmp_path)))
        assert (await sandbox.run("echo $N")).text == f"{number % 2}\n"
        await sandbox.close()

    await asyncio.gather(*(episode(number) for number in range(14)))
    assert sorted(order) == list(range(14))
    assert sum(abs(number - place) for place, number in enumerate(order)) <= 2 * 14  # as they came, starts aside
    assert most <= 3
    await pool.close()
    assert folders(tmp_path) == set()


async def test_requests_are_served_in_order(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, max_sandboxes=1)
    held = await pool.create(spec)
    served: list[int] = []

    async def request(number: int) -> None:
        sandbox = await pool.create(spec)
        served.append(number)
        await sandbox.close()

    tasks = [asyncio.create_task(request(number)) for number in range(5)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await held.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert served == [0, 2, 3, 4]
    assert isinstance(results[1], asyncio.CancelledError)
    assert pool.num_sandboxes == 0
    await pool.close()


async def test_no_room_in_time_is_a_clear_error(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, max_sandboxes=1, max_wait_s=0.2)
    held = await pool.create(spec)
    with pytest.raises(SandboxError, match=r"no room .* within 0\.2 s.*sandbox\.max_sandboxes"):
        await pool.create(spec)
    with pytest.raises(SandboxError, match="no room"):
        await held.fork()
    await held.close()
    fork_origin = await pool.create(spec)
    assert (await fork_origin.run("echo on")).text == "on\n"
    await pool.close()


async def test_a_ready_one_makes_room_for_another_spec(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, warm=2, max_sandboxes=2)
    await (await pool.create(spec)).close()
    await until(lambda: pool.num_ready == 2)
    other = await pool.create(environment(spec, X="1"))
    assert (await other.run("echo $X")).text == "1\n"
    assert pool.num_sandboxes <= 2
    await pool.close()


async def test_a_fork_counts(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, max_sandboxes=2, max_wait_s=0.2)
    sandbox = await pool.create(spec)
    await sandbox.run("echo a >x")
    fork = await sandbox.fork()
    assert (await fork.run("cat x")).text == "a\n"
    assert pool.num_sandboxes == 2
    with pytest.raises(SandboxError, match="no room"):
        await fork.fork()
    await fork.close()
    await (await sandbox.fork()).close()
    assert pool.num_sandboxes == 1
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await sandbox.fork()
    assert pool.num_sandboxes == 0
    await pool.close()


@pytest.mark.parametrize("warm", [0, 2])
async def test_cancelled_requests_lose_no_room(watched: Watched, spec: SandboxSpec, tmp_path: Path, warm: int) -> None:
    """At every moment: while in line, while starting, while being handed out."""
    pool = SandboxPool(watched, warm=warm, max_sandboxes=3)
    for delay_ms in range(0, 60, 4):
        tasks = [asyncio.create_task(pool.create(spec)) for _ in range(4)]
        await asyncio.sleep(delay_ms / 1000)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, PooledSandbox):
                await result.close()
            else:
                assert isinstance(result, asyncio.CancelledError)
    await until(lambda: not pool._refills and not pool._removals)
    assert pool.num_sandboxes == pool.num_ready
    sandboxes = await asyncio.gather(*(pool.create(spec) for _ in range(3)))
    assert len({(await sandbox.run("hostname")).text for sandbox in sandboxes}) == 1
    await pool.close()
    assert folders(tmp_path) == set()


async def test_cancelled_at_the_moment_of_being_served(watched: Watched, spec: SandboxSpec) -> None:
    pool = SandboxPool(watched, max_sandboxes=1)
    held = await pool.create(spec)
    request = asyncio.create_task(pool.create(spec))
    await asyncio.sleep(0.01)
    await inner(held).close()
    pool.give_back()  # the room is the request's from here on, and it does not know yet
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert pool.num_sandboxes == 0
    assert watched.num_starts == 1
    await pool.close()
