"""Fork, snapshot, close, loss, and what becomes of the sandboxes of a dead owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError, ImageMissing, SandboxError, SandboxLost, UnknownName
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import list_sandboxes, make_provider, resolve_backend
from swegym.envs.sandboxes.base import ShellSandbox


async def test_contract_of_types(provider: SandboxProvider, sandbox: Sandbox) -> None:
    assert isinstance(provider, SandboxProvider)
    assert isinstance(sandbox, Sandbox)
    assert sandbox.backend == provider.name


async def test_fork_is_an_independent_copy(sandbox: Sandbox) -> None:
    await sandbox.run(
        "cd package; x=1; export e=2; f() { echo f$x; }; echo a >new; rm ../run.sh; echo t >/tmp/t; chmod 600 new"
    )
    fork = await sandbox.fork()
    assert fork.sandbox_id != sandbox.sandbox_id
    command = "pwd; f; printenv e; cat new /tmp/t; ls ..; stat -c %a new"
    expected = "/testbed/package\nf1\n2\na\nt\nlink\npackage\n600\n"
    assert (await fork.run(command)).text == expected
    await fork.run("x=5; echo b >new; rm /tmp/t; echo c >only_in_fork")
    assert (await sandbox.run(command)).text == expected
    await sandbox.run("echo d >only_in_origin")
    assert (await fork.run("f; cat new; ls")).text == "f5\nb\nmodule.py\nnew\nonly_in_fork\n"
    await sandbox.close()
    second = await fork.fork()
    assert (await second.run("f; cat only_in_fork")).text == "f5\nc\n"


async def test_the_latest_state_wins_whatever_the_times_of_files(sandbox: Sandbox) -> None:
    for i in range(1, 13):
        assert (await sandbox.run(f"x={i}; (exit 3); exit 3")).shell_restarted
        await sandbox.run("touch -d @1000000000 /tmp/.swegym/*")
        fork = await sandbox.fork() if i in (5, 6) else sandbox
        assert (await fork.run("echo $x")).text == f"{i}\n"


async def test_snapshot_starts_new_sandboxes(provider: SandboxProvider, sandbox: Sandbox, spec: SandboxSpec) -> None:
    await sandbox.run("cd package; x=1; echo a >new")
    snapshot = await sandbox.snapshot()
    await sandbox.run("x=2; echo b >new")
    first = await provider.create(spec.model_copy(update={"image": snapshot}))
    assert (await first.run("pwd; echo $x; cat new")).text == "/testbed/package\n1\na\n"
    await first.run("echo c >new")
    again = await provider.create(spec.model_copy(update={"image": snapshot}))
    assert (await again.run("cat new")).text == "a\n"


async def test_close_is_idempotent_and_final(sandbox: Sandbox) -> None:
    assert await sandbox.is_healthy()
    await asyncio.gather(sandbox.close(), sandbox.close())
    await sandbox.close()
    assert not await sandbox.is_healthy()
    with pytest.raises(SandboxLost, match="closed"):
        await sandbox.run("true")
    with pytest.raises(SandboxLost):
        await sandbox.write_file("x", b"")


async def test_close_leaves_nothing(provider: SandboxProvider, sandbox: Sandbox, tmp_path: Path) -> None:
    await sandbox.run("mkdir -p deep/er; touch deep/er/x; chmod 000 deep/er; chmod 500 deep; setsid sleep 5432 &")
    assert sandbox.sandbox_id in [record.sandbox_id for record in list_sandboxes(str(tmp_path / "sandboxes"))]
    await sandbox.close()
    assert sandbox.sandbox_id not in [record.sandbox_id for record in list_sandboxes(str(tmp_path / "sandboxes"))]
    assert subprocess.run(["pgrep", "-f", "^sleep 5432"], check=False).returncode == 1
    assert sandbox.sandbox_id not in Path("/proc/mounts").read_text()


async def test_close_during_a_command(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.run("sleep 600", timeout_s=600))
    await asyncio.sleep(0.2)
    await sandbox.close()
    with pytest.raises(SandboxLost):
        await running


async def test_cancelled_command_gives_the_sandbox_up(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.run("sleep 600", timeout_s=600))
    await asyncio.sleep(0.2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    with pytest.raises(SandboxLost, match="cancelled"):
        await sandbox.run("true")


async def test_lifetime(provider: SandboxProvider, spec: SandboxSpec) -> None:
    sandbox = await provider.create(spec.model_copy(update={"limits": SandboxLimits(lifetime_s=3.0)}))
    with pytest.raises(SandboxLost, match="life time"):
        await sandbox.run("sleep 600", timeout_s=600)


@pytest.mark.chaos
async def test_killed_from_outside_is_lost_and_the_others_live(provider: SandboxProvider, spec: SandboxSpec) -> None:
    lost, other = await provider.create(spec), await provider.create(spec)
    running = asyncio.create_task(lost.run("sleep 600", timeout_s=600))
    await asyncio.sleep(0.2)
    if provider.name == "docker":
        subprocess.run(["docker", "kill", lost.sandbox_id], check=True, capture_output=True)
    else:
        os.kill(lost._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(running, 30)
    assert not await lost.is_healthy()
    assert (await other.run("echo fine")).text == "fine\n"


async def test_many_at_once(provider: SandboxProvider, spec: SandboxSpec) -> None:
    sandboxes = await asyncio.gather(*(provider.create(spec) for _ in range(12)))
    results = await asyncio.gather(*(box.run(f"x={i}; echo {i}") for i, box in enumerate(sandboxes)))
    assert [result.text for result in results] == [f"{i}\n" for i in range(12)]
    assert len({box.sandbox_id for box in sandboxes}) == 12
    await provider.close()
    assert not any([await box.is_healthy() for box in sandboxes])


async def test_closed_provider_refuses(provider: SandboxProvider, spec: SandboxSpec) -> None:
    await provider.close()
    await provider.close()
    with pytest.raises(SandboxError, match="closed"):
        await provider.create(spec)


async def test_missing_folders_and_images(provider: SandboxProvider, spec: SandboxSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absolute path of a folder"):
        await provider.create(spec.model_copy(update={"workspace": str(tmp_path / "nothing")}))
    with pytest.raises(ImageMissing, match="docker"):
        await provider.create(SandboxSpec(image="no-such-image-anywhere:1"))


async def test_failed_start_says_why_and_leaves_nothing(tmp_path: Path, workspace: Path) -> None:
    provider = make_provider("local", temp_folder=str(tmp_path))
    with pytest.raises(SandboxError, match=r"did not start: .*bwrap"):
        await provider.create(SandboxSpec(image="", workspace=str(workspace), workdir="/proc/version/below"))
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("etc")] == []


async def test_workdir_can_be_a_copy(tmp_path: Path, spec: SandboxSpec) -> None:
    provider = make_provider("local", temp_folder=str(tmp_path), workdir_storage="copy")
    sandbox = await provider.create(spec)
    assert (await sandbox.run("./run.sh; rm run.sh; ls")).text == "ran\nlink\npackage\n"
    fork = await sandbox.fork()
    assert (await fork.run("ls")).text == "link\npackage\n"
    assert isinstance(fork, ShellSandbox)
    await provider.close()


def test_names_and_options() -> None:
    with pytest.raises(UnknownName, match="docker"):
        make_provider("dokcer")
    with pytest.raises(ConfigError, match=r"sandbox\.max_starts"):
        make_provider("local", max_starts=0)
    with pytest.raises(ConfigError, match=r"sandbox\.no_such"):
        make_provider("local", no_such=1)
    assert resolve_backend("auto") in ("docker", "local")
    assert resolve_backend("local") == "local"
