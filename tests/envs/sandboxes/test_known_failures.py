"""What has bitten others around the life of a sandbox; each test names the row of the collected reports."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import list_sandboxes, make_provider, reap
from swegym.envs.sandboxes.docker import DockerProvider
from swegym.envs.sandboxes.identity import OWNER_FILE
from swegym.envs.sandboxes.local import LocalSandbox
from tests.envs.sandboxes.watched import docker_cli


@pytest.mark.docker
async def test_a_ghost_with_the_same_name(base_image: str, spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """swe-failures F7 and rl-failures 139 (SWE-bench#534, 409): another name is taken, the ghost is not touched."""
    ghost = f"swegym-{os.urandom(6).hex()}"
    container = docker_cli("create", "--name", ghost, "--network", "none", base_image, "true")
    try:
        provider = make_provider("docker", base_image=base_image)
        monkeypatch.setattr("swegym.envs.sandboxes.base.new_sandbox_id", lambda: ghost)
        sandbox = await provider.create(spec)
        assert sandbox.sandbox_id != ghost
        assert (await sandbox.run("./run.sh")).text == "ran\n"
        await provider.close()
        assert docker_cli("inspect", "-f", "{{.State.Status}}", ghost) == "created"
    finally:
        docker_cli("rm", "-f", container)


async def test_labels_need_not_be_names(provider: SandboxProvider, spec: SandboxSpec, tmp_path: Path) -> None:
    """swe-failures F7 (SWE-bench#443: a "/" in the run's id made an invalid container name)."""
    labels = {"run": f"a/b c:{tmp_path}", "task": "owner/repo#1\n'\"é"}
    sandbox = await provider.create(spec.model_copy(update={"labels": labels}))
    record = next(item for item in list_sandboxes(str(tmp_path / "sandboxes")) if item.sandbox_id == sandbox.sandbox_id)
    assert (record.run, record.labels["task"], record.state) == (labels["run"], labels["task"], "in use")
    assert 0 <= record.age_s < 600


async def test_no_zombies_and_no_waiting_for_a_stop(provider: SandboxProvider, sandbox: Sandbox) -> None:
    """swe-failures F1, F2: without an init process, orphans stay zombies and a stop takes 10 s."""
    await sandbox.run("for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.05' &) ; done; trap '' TERM; sleep 0.3")
    states = await sandbox.run("cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | cut -c1 | grep -c Z")
    assert states.text == "0\n"
    running = asyncio.create_task(sandbox.run("trap '' TERM INT HUP; sleep 600", timeout_s=600))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(9):
        await provider.close()
    with pytest.raises(SandboxLost):
        await running


async def test_a_repository_of_another_user(sandbox: Sandbox) -> None:
    """swe-failures F4: "dubious ownership"."""
    result = await sandbox.run("git init -q . && chown -R 1234 .git . 2>/dev/null; git status --short | head -1")
    assert "dubious" not in result.text
    assert result.text == "?? link\n"


@pytest.mark.docker
async def test_no_network_is_allocated(base_image: str, spec: SandboxSpec) -> None:
    """swe-failures F5: a network per sandbox exhausts the address pool after 31, a bridge after 1023."""
    provider = make_provider("docker", base_image=base_image)
    sandbox = await provider.create(spec)
    networks = docker_cli("inspect", "-f", "{{json .NetworkSettings.Networks}}", sandbox.sandbox_id)
    assert networks.startswith('{"none"')
    assert docker_cli("inspect", "-f", "{{.HostConfig.AutoRemove}}", sandbox.sandbox_id) == "true"
    await provider.close()


@pytest.mark.docker
async def test_volumes_go_with_the_container(base_image: str, tmp_path: Path) -> None:
    """rl-failures 41 (trajectoryRL#203): anonymous volumes filled the disk."""
    maker = docker_cli("create", base_image, "true")
    image = f"swegym-volume-test:{os.urandom(4).hex()}"
    docker_cli("commit", "-c", "VOLUME /data", maker, image)
    docker_cli("rm", maker)
    provider = make_provider("docker", base_image=base_image, temp_folder=str(tmp_path))
    try:
        sandbox = await provider.create(SandboxSpec(image=image, workdir="/data"))
        await sandbox.run("echo x >/data/x")
        volume = docker_cli("inspect", "-f", "{{(index .Mounts 0).Name}}", sandbox.sandbox_id)
        assert docker_cli("volume", "inspect", volume)
        await sandbox.close()
        await asyncio.sleep(0.2)
        assert subprocess.run(["docker", "volume", "inspect", volume], capture_output=True, check=False).returncode
    finally:
        await provider.close()
        docker_cli("rmi", "-f", image)


async def test_a_start_that_takes_too_long_leaves_nothing(
    backend: str, base_image: str, spec: SandboxSpec, tmp_path: Path
) -> None:
    """swe-failures F8 (OpenEnv#1144: the container leaked when waiting for it failed)."""
    temp_folder, labels = str(tmp_path / "s"), {"run": tmp_path.as_posix()}
    options = {"base_image": base_image, "temp_folder": temp_folder, "labels": labels}
    provider = make_provider(backend, start_timeout_s=0.000_1, **options)
    with pytest.raises(SandboxError, match="did not start"):
        await provider.create(spec)
    assert [item for item in list_sandboxes(temp_folder) if item.run == labels["run"]] == []
    await provider.close()


async def test_a_cancelled_start_leaves_nothing(
    backend: str, base_image: str, spec: SandboxSpec, tmp_path: Path
) -> None:
    """Whatever it was doing; a thread that makes a container cannot be cancelled."""
    temp_folder, labels = str(tmp_path / "s"), {"run": tmp_path.as_posix()}
    provider = make_provider(backend, base_image=base_image, temp_folder=temp_folder, labels=labels)
    await (await provider.create(spec)).close()
    for delay_ms in (0, 1, 2, 5, 10, 20, 40, 80):
        starting = asyncio.create_task(provider.create(spec))
        await asyncio.sleep(delay_ms / 1000)
        starting.cancel()
        result = (await asyncio.gather(starting, return_exceptions=True))[0]
        if not isinstance(result, BaseException):
            await result.close()
    left = [item.sandbox_id for item in list_sandboxes(temp_folder) if item.run == labels["run"]]
    assert left == []
    await provider.close()


async def test_cancelling_ends_everything_inside(sandbox: Sandbox) -> None:
    """rl-failures 32 (verifiers#1628, #974): children lived on after a cancel."""
    mark = f"sleep 98{os.getpid()}"
    running = asyncio.create_task(sandbox.run(f"(setsid {mark} &); {mark} & {mark}", timeout_s=600))
    await asyncio.sleep(0.3)
    assert subprocess.run(["pgrep", "-fx", mark], check=False, capture_output=True).returncode == 0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await sandbox.close()
    deadline = time.monotonic() + 10
    while subprocess.run(["pgrep", "-fx", mark], check=False, capture_output=True).returncode == 0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_one_that_cannot_be_removed_keeps_no_other(spec: SandboxSpec, tmp_path: Path) -> None:
    """rl-failures 24 (slime#2078: a bare gather): the others are removed, and the first error is told."""
    provider = make_provider("local", temp_folder=str(tmp_path))
    sandboxes = [await provider.create(spec) for _ in range(3)]
    stuck = sandboxes[1]
    assert isinstance(stuck, LocalSandbox)
    (stuck.folder / "home" / "stuck").touch()
    chattr = ["chattr", "+i", str(stuck.folder / "home" / "stuck")]
    if subprocess.run(chattr, capture_output=True, check=False).returncode:
        pytest.skip("chattr cannot make a file immutable here")
    try:
        with pytest.raises(OSError, match="not permitted"):
            await provider.close()
        assert [path.name for path in tmp_path.glob("swegym-*")] == [stuck.sandbox_id]
    finally:
        subprocess.run(["chattr", "-i", chattr[-1]], check=True)
    (stuck.folder / OWNER_FILE).write_text("1:1")
    assert stuck.sandbox_id in [record.sandbox_id for record in reap(str(tmp_path))]


async def test_full_disk_at_the_start(spec: SandboxSpec, tmp_path: Path) -> None:
    """rl-failures 41: a full disk is an infrastructure failure that says so, and leaves nothing."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=24", "swegym-test", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        provider = make_provider("local", temp_folder=str(tmp_path), workdir_storage="copy")
        before = sorted(path.name for path in tmp_path.iterdir())
        with pytest.raises(SandboxError, match="No space left on device"):
            await asyncio.gather(*(provider.create(spec) for _ in range(4)))
        await provider.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.docker
def test_no_hidden_limits_of_the_client(base_image: str) -> None:
    """rl-failures 30, 35: the engine's time limit is the config's, and what must be a whole number is one."""
    provider = make_provider("docker", base_image=base_image, engine_timeout_s=7.5)
    assert isinstance(provider, DockerProvider)
    assert provider.client.timeout == 7.5


@pytest.mark.docker
async def test_a_fraction_of_a_processor(base_image: str, spec: SandboxSpec) -> None:
    """rl-failures 35 (verifiers#1210: limits must be integers on the wire)."""
    provider = make_provider("docker", base_image=base_image)
    sandbox = await provider.create(spec.model_copy(update={"limits": SandboxLimits(cpus=1 / 3)}))
    assert docker_cli("inspect", "-f", "{{.HostConfig.NanoCpus}}", sandbox.sandbox_id) == "333333334"
    await provider.close()
