"""Beginnings and copies: reset to the first observation, and fork of a 100 MB workspace."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path

from contenders import Engine
from measure import Action, interleave, same_output
from setting import Setting
from workload import WORKDIR, make_big

from swegym.core.errors import DependencyMissing
from swegym.core.sandbox import Sandbox
from swegym.core.task import Task
from swegym.envs.sandboxes.pool import SandboxPool
from swegym.envs.swe_env import SweEnv
from swegym.envs.tasksets import sandbox_spec

__all__ = ["measure_fork", "measure_reset"]

DOCKER_RUN = "docker run, first command"
DOCKER_RUN_NO_NETWORK = "docker run --network none, first command"
SWEREX_START = "SWE-ReX start, session, first command"
_FIRST = "cat README.md"
_NUM_WARM = 2


async def measure_reset(setting: Setting) -> None:
    """Rows reset/... : `SweEnv.start` of the tiny task, from a warm pool and without one."""
    async with AsyncExitStack() as stack:
        actions: dict[str, Action] = {}
        slow: list[str] = []
        image = ""
        for backend in setting.backends:
            provider = setting.ours(stack, backend)
            cold = SweEnv(taskset="tiny", sandbox=provider)
            task = next(iter(cold.taskset))
            if backend == "docker":
                probe = await provider.create(sandbox_spec(task, cold.taskset))
                image = setting.image_of(probe)
                await probe.close()
            actions[f"cold, {backend}"] = _reset(cold, task)
            slow += [f"cold, {backend}"]
            pool = setting.ours(stack, backend, warm=_NUM_WARM)
            assert isinstance(pool, SandboxPool)
            warm = SweEnv(taskset="tiny", sandbox=pool)
            await warm.start(task)  # from now on the pool keeps sandboxes ready for this task
            await warm.aclose()
            actions[f"warm, {backend}"] = _reset(warm, task, pool)
        missing = {
            DOCKER_RUN: setting.no_engine,
            DOCKER_RUN_NO_NETWORK: setting.no_engine,
            SWEREX_START: setting.no_engine,
        }
        if image and setting.engine is not None:
            readme = (Path(cold.taskset.folder()) / "workspace" / "README.md").read_bytes()
            actions[DOCKER_RUN] = _docker_run(setting.engine, image, readme, setting.engine.network)
            actions[DOCKER_RUN_NO_NETWORK] = _docker_run(setting.engine, image, readme, "none")
            try:
                actions[SWEREX_START] = _swerex_start(setting, await setting.swerex_image(image), readme)
            except DependencyMissing as error:
                missing[SWEREX_START] = str(error)
        slow += [name for name in missing if name in actions]
        counts = setting.counts
        every = dict.fromkeys(slow, max(1, counts.resets // counts.resets_slow))
        samples = await interleave(actions, counts.resets, every=every, num_warmups=1)
        for temperature, aims in (("warm", {DOCKER_RUN: 20.0, SWEREX_START: 100.0}), ("cold", {})):
            for backend in setting.backends:
                measure, name = f"reset/{temperature} ({backend})", f"{temperature}, {backend}"
                if name not in samples:
                    continue
                for peer in missing:
                    if peer in samples:
                        ours, against = ([seconds * 1000 for seconds in samples[key]] for key in (name, peer))
                        setting.results.compare(measure, ours, against, peer, "ms", aim=aims.get(peer))
                    else:
                        setting.results.leave_out(measure, peer, missing[peer] or "docker is not in --backends")
    setting.results.write()


def _reset(environment: SweEnv, task: Task, pool: SandboxPool | None = None) -> Action:
    async def reset() -> float:
        async with asyncio.timeout(60):
            while pool is not None and pool.num_ready < _NUM_WARM:
                await asyncio.sleep(0.005)
        started = time.perf_counter()
        observation, _ = await environment.start(task)
        seconds = time.perf_counter() - started
        same_output(task.statement.encode(), observation.text.encode(), "first observation")
        await environment.aclose()
        return seconds

    return reset


def _docker_run(engine: Engine, image: str, expected: bytes, network: str) -> Action:
    async def run() -> float:
        name = f"swegym-benchmark-{secrets.token_hex(6)}"
        try:
            seconds, output = await asyncio.to_thread(_run_first, engine, name, image, _FIRST, network)
        finally:
            await asyncio.to_thread(engine.remove, name)
        same_output(expected, output, DOCKER_RUN)
        return seconds

    return run


def _run_first(engine: Engine, name: str, image: str, command: str, network: str) -> tuple[float, bytes]:
    """Start a container with a shell in it by `docker run -i` and have it run one command."""
    arguments = ["docker", "run", "-i", "--rm", "--name", name, "--network", network, "--label", engine.label]
    arguments += ["-w", WORKDIR, "--entrypoint", "bash", image]
    started = time.perf_counter()
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, process_group=0)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(f"{command}; echo END\n".encode())
        output = b""
        while not output.endswith(b"END\n"):
            piece = process.stdout.read(1 << 16)
            if not piece:
                raise RuntimeError(f"docker run of {image} ended with {process.wait()}: {output[-300:]!r}")
            output += piece
        seconds = time.perf_counter() - started
    process.wait(timeout=60)
    return seconds, output.removesuffix(b"END\n")


def _swerex_start(setting: Setting, image: str, expected: bytes) -> Action:
    async def start() -> float:
        assert setting.peers is not None
        assert setting.engine is not None
        answer = await setting.peers.ask(
            "start",
            peer="swerex",
            image=image,
            label=setting.engine.label,
            workdir=WORKDIR,
            network=setting.engine.network,
            command=_FIRST,
        )
        same_output(expected, answer["output"].encode(), SWEREX_START)
        return float(answer["seconds"])

    return start


# --- fork -------------------------------------------------------------------------------------------------------------

_COPY = "cp -r data copy"
_LOOK = "cat marker.txt; ls | wc -l; cat */099.bin | cksum"


async def measure_fork(setting: Setting) -> None:
    """Rows fork/... : a copy in the middle of an episode until its first command, against commit and run."""
    big = await asyncio.to_thread(make_big, setting.temp / "big")
    for name, rounds in (("unchanged", setting.counts.forks), ("100 MB written", setting.counts.forks_written)):
        measure = f"fork/{name}"
        if not setting.wants(measure):
            continue
        async with AsyncExitStack() as stack:
            actions: dict[str, Action] = {}
            expected: list[bytes] = []
            peer = "docker commit + docker run"
            for backend in setting.backends:
                sandbox = await setting.ours(stack, backend).create(setting.spec(big, "big"))
                change = "echo here > marker.txt" + (f" && {_COPY}" if name != "unchanged" else "")
                if (done := await sandbox.run(change)).exit_code:
                    raise RuntimeError(f"{change!r} in {backend}: {done.text}")
                actions[backend] = _fork(sandbox, expected)
                if backend == "docker" and setting.engine is not None:
                    actions[peer] = _commit_and_run(setting.engine, sandbox.sandbox_id, expected)
            samples = await interleave(actions, rounds, num_warmups=1)
        for backend in setting.backends:
            if peer not in samples:
                setting.results.leave_out(
                    f"{measure} ({backend})", peer, setting.no_engine or "no docker in --backends"
                )
                continue
            ours, against = ([seconds * 1000 for seconds in samples[key]] for key in (backend, peer))
            aim = 10.0 if backend == "local" else 1.0
            setting.results.compare(f"{measure} ({backend})", ours, against, peer, "ms", aim=aim)
        setting.results.write()


def _fork(sandbox: Sandbox, expected: list[bytes]) -> Action:
    async def fork() -> float:
        started = time.perf_counter()
        child = await sandbox.fork()
        try:
            first = await child.run("cat marker.txt")
            seconds = time.perf_counter() - started
            same_output(b"here", first.output, "fork")
            _as_expected(expected, (await child.run(_LOOK)).output, "fork")
            await child.run("echo changed > marker.txt")
            same_output(b"here", (await sandbox.run("cat marker.txt")).output, "what a fork was made of")
        finally:
            await child.close()
        return seconds

    return fork


def _commit_and_run(engine: Engine, container: str, expected: list[bytes]) -> Action:
    async def commit_and_run() -> float:
        tag = f"swegym/benchmark-commit:{secrets.token_hex(6)}"
        engine.images.append(tag)
        try:
            started = time.perf_counter()
            await asyncio.to_thread(_commit, container, tag)
            committed = time.perf_counter() - started
            name = f"swegym-benchmark-{secrets.token_hex(6)}"
            seconds, output = await asyncio.to_thread(_run_first, engine, name, tag, "cat marker.txt", "none")
            same_output(b"here", output, "docker commit")
            await asyncio.to_thread(engine.remove, name)
            name = f"swegym-benchmark-{secrets.token_hex(6)}"
            _, output = await asyncio.to_thread(_run_first, engine, name, tag, _LOOK, "none")
            _as_expected(expected, output, "docker commit")
            await asyncio.to_thread(engine.remove, name)
        finally:
            await asyncio.to_thread(engine.remove_image, tag)
        engine.images.remove(tag)
        return committed + seconds

    return commit_and_run


def _commit(container: str, tag: str) -> None:
    subprocess.run(["docker", "commit", container, tag], check=True, capture_output=True)


def _as_expected(expected: list[bytes], output: bytes, what: str) -> None:
    if not expected:
        expected.append(output)
    same_output(expected[0], output, what)
