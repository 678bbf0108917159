"""Limits: when the time is over nothing of the command is left, and what was there before still is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes.cgroups import ControlGroup


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


async def test_memory_limit(provider: SandboxProvider, spec: SandboxSpec) -> None:
    spec = spec.model_copy(update={"limits": SandboxLimits(memory_bytes=128 * 2**20)})
    sandbox = await provider.create(spec)
    result = await sandbox.run("python -c 'x = bytearray(10**9)'", timeout_s=60)
    if provider.name == "docker" or any(Path("/sys/fs/cgroup").glob(f"**/swegym.{sandbox.sandbox_id}")):
        assert (result.exit_code, result.killed_by) == (137, "oom")
    else:
        assert result.exit_code == 1
        assert "MemoryError" in result.text
    assert (await sandbox.run("echo fine")).text == "fine\n"


async def test_file_size_limit(provider: SandboxProvider, spec: SandboxSpec) -> None:
    spec = spec.model_copy(update={"limits": SandboxLimits(disk_bytes=2**20)})
    sandbox = await provider.create(spec)
    result = await sandbox.run("head -c 3000000 /dev/zero >big; wc -c <big")
    assert result.text.endswith("1048576\n")
