"""Limits on time, memory, processes and processors: what hits one is told, is gone, and the next command works."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from swegym.core.errors import SandboxLost
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.cgroups import ControlGroup
from swegym.envs.sandboxes.local import child_pids


async def processes(sandbox: Sandbox) -> list[str]:
    """Command lines of what runs beside process 1, the watchdog and the shell, which is asked by builtins only."""
    command = r"""for p in /proc/[0-9]*; do
        line=; while read -rd '' word; do line+="$word "; done 2>/dev/null <$p/cmdline
        [[ $line && $line != *'eval "$s"'* && $line != 'bash --norc'* ]] && echo "$line"
    done; unset p line word; true"""
    return (await sandbox.run(command)).text.splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "sleep 600",
        "sleep 600 | cat",
        "setsid sleep 600",
        "setsid bash -c '(setsid sleep 600 &) ; sleep 600' & disown; sleep 600",
        "while :; do sleep 600; done",
        "while :; do :; done",
        "trap '' USR1 TERM INT HUP; while :; do :; done",
        "x=$(sleep 600)",
        "python -c 'import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 10, 15)]; time.sleep(600)'",
        "exec sleep 600",
        "kill -STOP $$",
        "mkfifo fifo; exec 5<fifo",
        "wait & sleep 600; wait",
        "nohup sleep 600 & sleep 600 & disown -a; wait; sleep 600",
        "(kill -STOP $BASHPID; sleep 600) & sleep 600",
        "f() { (trap '' TERM; sleep 600 & wait) & f; }; ulimit -u 40; f 2>/dev/null; sleep 600",
        "for p in /proc/[0-9]*; do [[ $p == /proc/$$ ]] || kill -STOP ${p#/proc/}; done; kill -CONT -1; sleep 600",
    ],
)
async def test_time_limit_leaves_nothing_running(sandbox: Sandbox, command: str) -> None:
    await sandbox.run("cd package; x=1; sleep 1000 &")
    result = await sandbox.run(f"echo partial; {command}", timeout_s=0.4)
    assert (result.output, result.exit_code, result.killed_by) == (b"partial\n", 124, "timeout")
    assert result.shell_restarted
    assert await processes(sandbox) == ["sleep 1000 "]  # the job of an earlier command is not this one's
    assert (await sandbox.run("pwd; echo $x")).text.startswith("/testbed/package\n")


async def test_state_is_kept_over_a_time_limit(sandbox: Sandbox) -> None:
    await sandbox.run("export F=file L=3; f() { echo $F:$L; }")
    await sandbox.run("later=1; sleep 600", timeout_s=0.2)
    assert (await sandbox.run("f; echo $later")).text == "file:3\n1\n"


async def test_endless_output_runs_until_its_limit(sandbox: Sandbox) -> None:
    result = await sandbox.run("yes", timeout_s=1.0, limit_bytes=1000)
    assert (result.exit_code, result.killed_by) == (124, "timeout")
    assert result.output == b"y\n" * 500
    assert result.truncated_bytes > 1_000_000
    assert (await sandbox.run("echo fine")).text == "fine\n"


async def test_commands_that_end_just_when_their_time_does(sandbox: Sandbox) -> None:
    for i in range(12):
        result = await sandbox.run(f"echo {i}; sleep 0.1", timeout_s=0.1 + 0.002 * (i - 4))
        assert result.text == f"{i}\n"
        assert (result.exit_code == 124) == (result.killed_by == "timeout")
        assert result.exit_code in (0, 124)
        assert (await sandbox.run(f"echo next {i}")).text == f"next {i}\n"


async def test_output_after_a_time_limit_is_not_the_next_commands(sandbox: Sandbox) -> None:
    await sandbox.run("(while :; do echo noise; sleep 0.01; done) & sleep 600", timeout_s=0.3)
    assert (await sandbox.run("sleep 0.1; echo clean")).text == "clean\n"


@pytest.mark.attack
async def test_fork_bomb(provider: SandboxProvider, spec: SandboxSpec) -> None:
    if provider.name == "local" and os.geteuid() == 0 and ControlGroup.create("probe", SandboxLimits()) is None:
        pytest.skip("root, and no control group can be made: nothing limits processes")
    ControlGroup.remove_named("probe")
    spec = spec.model_copy(update={"limits": SandboxLimits(num_processes=64)})
    sandbox = await provider.create(spec)
    result = await sandbox.run("b() { b | b & }; b; sleep 600", timeout_s=1.5)
    assert result.killed_by == "timeout"
    assert await processes(sandbox) == []
    assert (await sandbox.run("echo fine")).text == "fine\n"


def has_control_group(sandbox: Sandbox) -> bool:
    """Without one, local memory is limited for each process only."""
    return sandbox.backend == "docker" or any(Path("/sys/fs/cgroup").glob(f"**/swegym.{sandbox.sandbox_id}"))


async def test_memory_limit(provider: SandboxProvider, spec: SandboxSpec) -> None:
    spec = spec.model_copy(update={"limits": SandboxLimits(memory_bytes=128 * 2**20)})
    sandbox = await provider.create(spec)
    result = await sandbox.run("python -c 'x = bytearray(10**9)'", timeout_s=60)
    if not has_control_group(sandbox):
        assert result.exit_code == 1
        assert "MemoryError" in result.text
        return
    assert (result.exit_code, result.killed_by) == (137, "oom")
    assert (await sandbox.run("sh -c 'kill -9 $$'")).killed_by is None  # also 137, and nobody's memory

    grow = "python -c 'x = bytearray(10**9)'"
    assert (await sandbox.run(f'bash -c "{grow}; exit 3"', timeout_s=60)).killed_by == "oom"  # not the shell's child
    assert (await sandbox.run(f"{grow}; echo done", timeout_s=60)).text.endswith("done\n")
    await sandbox.run("sleep 0.5")
    assert (await sandbox.run("false")).killed_by is None  # of an earlier command

    await sandbox.run("y=1")
    result = await sandbox.run("x=x; while :; do x=$x$x; done", timeout_s=60)  # the shell itself
    assert (result.exit_code, result.killed_by, result.shell_restarted) == (137, "oom", True)
    assert (await sandbox.run("echo fine")).text == "fine\n"


async def test_processor_limit(provider: SandboxProvider, spec: SandboxSpec) -> None:
    spec = spec.model_copy(update={"limits": SandboxLimits(cpus=1.5)})
    sandbox = await provider.create(spec)
    quotas = {path.read_text() for path in Path("/sys/fs/cgroup").glob(f"**/swegym.{sandbox.sandbox_id}/cpu*quota_us")}
    quotas |= {path.read_text() for path in Path("/sys/fs/cgroup").glob(f"**/swegym.{sandbox.sandbox_id}/cpu.max")}
    if provider.name == "docker":
        file = "cat /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
        quotas = {(await sandbox.run(file)).text}
    elif not quotas:
        pytest.skip("no control group of processors can be made here")
    assert quotas <= {"150000\n", "150000 100000\n"}


async def test_out_of_memory_spares_what_guards_the_sandbox(provider: SandboxProvider, spec: SandboxSpec) -> None:
    sandbox = await provider.create(spec)
    scores = (await sandbox.run("cat /proc/1/oom_score_adj /proc/self/oom_score_adj")).text.split()
    assert int(scores[0]) < int(scores[1])


async def test_a_stopped_watchdog(backend: str, workspace: Path, base_image: str, tmp_path: Path) -> None:
    """The host then reaches for process 1, which nothing inside can stop."""
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path), answer_timeout_s=2.5)
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=str(workspace)))
    await sandbox.run("x=1; cd package")
    stop = "for p in /proc/[0-9]*; do [[ $p == /proc/$$ ]] || kill -STOP ${p#/proc/}; done 2>/dev/null"
    result = await sandbox.run(f"echo partial; {stop}; sleep 600", timeout_s=0.3)
    assert (result.output, result.exit_code, result.killed_by) == (b"partial\n", 124, "timeout")
    assert (await sandbox.run("pwd; sleep 0.1")).text == "/testbed/package\n"
    assert (await sandbox.run("sleep 600", timeout_s=0.3)).killed_by == "timeout"
    assert await processes(sandbox) == []
    await provider.close()


async def test_everything_stopped_goes_on(sandbox: Sandbox) -> None:
    """Process 1 wakes its children: it would spin, and never see the end of its owner."""
    others = "for p in /proc/[0-9]*; do [[ $p == /proc/$$ ]] || kill -STOP ${p#/proc/}; done"
    result = await sandbox.run(f"echo stopped; {others}; kill -STOP $$", timeout_s=30)
    assert (result.output, result.exit_code) == (b"stopped\n", 0)
    await sandbox.run("(sleep 0.2; kill -STOP -1) & disown")  # while no command runs
    await asyncio.sleep(0.4)
    ticks = "read -r -a stat </proc/1/stat; echo $((stat[13] + stat[14]))"
    before = int((await sandbox.run(ticks)).text)
    await asyncio.sleep(0.5)
    assert int((await sandbox.run(ticks)).text) - before < 25  # hundredths of a second: it does not spin
    assert (await sandbox.run("sleep 600", timeout_s=0.3)).killed_by == "timeout"


async def test_a_watchdog_that_was_stopped_answers_in_the_end(
    backend: str, workspace: Path, base_image: str, tmp_path: Path
) -> None:
    """A command that outlives its limit and ends by itself before the host acts is not the end of its sandbox."""
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path), answer_timeout_s=1.5)
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=str(workspace)))
    result = await sandbox.run("kill -STOP -1; python -c 'import time; time.sleep(1)'; echo late", timeout_s=0.3)
    assert result.output == b"late\n"
    assert (await sandbox.run("sleep 600", timeout_s=0.3)).killed_by == "timeout"
    await provider.close()


async def test_an_idle_sandbox_takes_no_processor_time(workspace: Path, tmp_path: Path) -> None:
    provider = make_provider("local", temp_folder=str(tmp_path))
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=str(workspace)))
    await sandbox.run("echo used; head -c 1000000 /dev/zero >f")
    first = child_pids(sandbox._process.pid)[0]  # type: ignore[attr-defined]
    inside = [first, *child_pids(first)]
    assert len(inside) == 4  # and the watchdog, the inspector, the shell

    def times_woken() -> list[str]:
        return [Path(f"/proc/{pid}/schedstat").read_text().split()[2] for pid in inside]

    await asyncio.sleep(1.0)  # the watchdog's last look
    before = times_woken()
    await asyncio.sleep(1.0)
    assert times_woken() == before
    await provider.close()


async def test_health_has_a_bound(backend: str, workspace: Path, base_image: str, tmp_path: Path) -> None:
    options = {"answer_timeout_s": 0.5, "health_timeout_s": 0.5}
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path), **options)
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=str(workspace)))
    assert await sandbox.is_healthy()
    sandbox.session._write = lambda data: None  # type: ignore[attr-defined]
    sandbox.session._interrupt = None  # type: ignore[attr-defined]
    assert not await sandbox.is_healthy()
    with pytest.raises(SandboxLost, match=r"no answer within 0.5 s and 0.5 s more"):
        await sandbox.run("true")
    await provider.close()
