"""What becomes of the sandboxes of a dead owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from swegym.envs.sandboxes import list_sandboxes, reap
from swegym.envs.sandboxes.identity import OWNER_LABEL, is_surely_dead, owner_is_alive, owner_token
from tests.envs.sandboxes.watched import docker_cli

OWNER = """
import asyncio, sys
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import make_provider
async def main():
    provider = make_provider(sys.argv[1], base_image=sys.argv[2], temp_folder=sys.argv[3])
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=sys.argv[4]))
    print(sandbox.sandbox_id, flush=True)
    await sandbox.run("sleep 4321", timeout_s=600)
asyncio.run(main())
"""


MANY = """
import asyncio, sys
from swegym.core.sandbox import SandboxSpec
from swegym.envs.sandboxes import make_provider
async def main():
    options = {"base_image": sys.argv[2], "temp_folder": sys.argv[3], "labels": {"run": "many"}}
    provider = make_provider(sys.argv[1], warm=3, **options)
    spec = SandboxSpec(image="contract-suite", workspace=sys.argv[4])
    first = await provider.create(spec)
    print(await first.snapshot(), flush=True)
    while True:
        sandboxes = await asyncio.gather(*(provider.create(spec) for _ in range(4)))
        await asyncio.gather(*(sandbox.close() for sandbox in sandboxes))
asyncio.run(main())
"""


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_dead_owner(
    backend: str, base_image: str, workspace: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """rl-failures 33 (verifiers#1733), 42 (repopilot#87): containers outlived a killed run."""
    arguments = [backend, base_image, str(tmp_path / "s"), str(workspace)]
    with subprocess.Popen([sys.executable, "-c", OWNER, *arguments], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        sandbox_id = owner.stdout.readline().strip()
        assert sandbox_id.startswith("swegym-")
        alive = {record.sandbox_id: record for record in list_sandboxes(str(tmp_path / "s"))}
        assert not alive[sandbox_id].is_orphan
        assert sandbox_id not in [record.sandbox_id for record in reap(str(tmp_path / "s"))]
        owner.send_signal(number)
    reap(str(tmp_path / "s"))
    deadline = time.monotonic() + 30
    while subprocess.run(["pgrep", "-f", "^sleep 4321"], check=False).returncode == 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert subprocess.run(["pgrep", "-f", "^sleep 4321"], check=False).returncode == 1
    assert sandbox_id not in [record.sandbox_id for record in list_sandboxes(str(tmp_path / "s"))]


def test_owner_tokens() -> None:
    assert owner_is_alive(owner_token())
    with subprocess.Popen(["sleep", "60"]) as child:
        token = owner_token(child.pid)
        assert owner_is_alive(token)
        child.kill()
    assert not owner_is_alive(token)
    pid, ticks, boot, namespace = owner_token().split(":")
    assert not owner_is_alive(f"{pid}:{int(ticks) + 1}:{boot}:{namespace}")
    assert not owner_is_alive(f"{pid}:{ticks}:another-boot:{namespace}")
    assert not owner_is_alive(f"{pid}:{ticks}:{boot}:1")
    assert not owner_is_alive("")
    reused = f"{pid}:{int(ticks) + 1}:{boot}:{namespace}"
    assert is_surely_dead(reused, can_outlive_boot=False)
    assert is_surely_dead(reused, can_outlive_boot=True)
    rebooted = f"{pid}:{ticks}:another-boot:{namespace}"
    assert is_surely_dead(rebooted, can_outlive_boot=False)
    assert not is_surely_dead(rebooted, can_outlive_boot=True)  # it may be another machine's
    assert not is_surely_dead(f"{pid}:{ticks}:{boot}:1", can_outlive_boot=False)  # in another container of this one
    assert is_surely_dead("nonsense", can_outlive_boot=False)


@pytest.mark.chaos
@pytest.mark.parametrize("delay_s", [0.02, 0.15, 0.4])
def test_owner_killed_while_it_starts_and_removes(
    backend: str, base_image: str, workspace: Path, tmp_path: Path, delay_s: float
) -> None:
    """swe-failures F8 (OpenEnv#1144: leaked when the start did not come to its end); snapshots and pools as well."""
    (tmp_path / "s").mkdir()
    arguments = [backend, base_image, str(tmp_path / "s"), str(workspace)]
    with subprocess.Popen([sys.executable, "-c", MANY, *arguments], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert "snapshot" in owner.stdout.readline()
        token = owner_token(owner.pid)
        time.sleep(delay_s)
        owner.kill()
    for path in (tmp_path / "s").iterdir():  # as if the last minutes had passed
        os.utime(path, (1, 1))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        reap(str(tmp_path / "s"))
        left = [path.name for path in (tmp_path / "s").iterdir() if not path.name.startswith(("etc", "containers"))]
        left += [record.sandbox_id for record in list_sandboxes(str(tmp_path / "s")) if record.owner == token]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
    assert list((tmp_path / "s").glob("containers/*")) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert subprocess.run(["pgrep", "-f", str(tmp_path / "s")], check=False, capture_output=True).returncode == 1


def test_half_made_folders_are_removed_when_they_are_old(tmp_path: Path) -> None:
    for name in ("swegym-0123456789ab", "probe-0123456789ab", "swegym-snapshot-0123456789ab", "etc"):
        (tmp_path / name / "upper").mkdir(parents=True)
    reap(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4  # they may be in the making
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    reap(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["etc"]


@pytest.mark.docker
def test_containers_of_owners_elsewhere_are_left_alone(base_image: str, tmp_path: Path) -> None:
    """A run on another machine, or in another container, may use the same engine."""
    run = tmp_path.as_posix()
    labels = ["--label", f"{OWNER_LABEL}=1:1:another-boot:1", "--label", f"run={run}"]
    container = docker_cli("create", *labels, "--network", "none", base_image, "true")
    try:
        record = next(record for record in list_sandboxes(str(tmp_path)) if record.run == run)
        assert (record.state, record.is_orphan) == ("in use", False)
        assert [record for record in reap(str(tmp_path)) if record.run == run] == []
        assert reap(str(tmp_path), run="another run", everything=True) == []
        assert len(reap(str(tmp_path), run=run, everything=True)) == 1
        assert [record for record in list_sandboxes(str(tmp_path)) if record.run == run] == []
    finally:
        subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=False)
