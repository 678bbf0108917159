import asyncio
import multiprocessing
import threading

import pytest

from swegym.core.aio import run_sync


async def double(value: int) -> int:
    await asyncio.sleep(0)
    return 2 * value


async def fail() -> None:
    raise ValueError("from the loop")


def test_runs_on_one_background_loop_from_any_thread() -> None:
    async def where() -> tuple[int, str]:
        return id(asyncio.get_running_loop()), threading.current_thread().name

    found = {run_sync(where())}

    def ask() -> None:
        found.add(run_sync(where()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert next(iter(found))[1] == "swegym-loop"


def test_errors_come_back() -> None:
    with pytest.raises(ValueError, match="from the loop"):
        run_sync(fail())


async def test_works_inside_another_running_loop() -> None:
    assert run_sync(double(21)) == 42


def in_child() -> None:
    assert run_sync(double(4)) == 8


def test_works_after_a_fork() -> None:
    assert run_sync(double(1)) == 2
    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(60)
    assert child.exitcode == 0
