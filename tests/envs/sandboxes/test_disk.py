"""The limit on what commands write: one file, many files, deleted ones that are open; everywhere they can write."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider

DISK_BYTES = 8 * 2**20
MANY = 'mkdir {0} && cd {0} && for ((i = 0; ; i++)); do printf %s "$text" >$i; done'


@pytest.fixture
async def small(provider: SandboxProvider, spec: SandboxSpec) -> Sandbox:
    sandbox = await provider.create(spec.model_copy(update={"limits": SandboxLimits(disk_bytes=DISK_BYTES)}))
    await sandbox.run("printf -v text '%020000d' 0")
    return sandbox


async def test_one_big_file(small: Sandbox) -> None:
    result = await small.run("head -c 30000000 /dev/zero >big")
    assert (result.exit_code, result.killed_by) == (153, "disk")
    assert (await small.run("wc -c <big; rm big")).text == f"{DISK_BYTES}\n"
    assert (await small.run("head -c 3000000 /dev/zero >big; wc -c <big")).text == "3000000\n"


async def test_many_small_files(small: Sandbox) -> None:
    result = await small.run(f"echo partial; {MANY.format('many')}", timeout_s=60)
    assert (result.output, result.exit_code, result.killed_by) == (b"partial\n", 137, "disk")
    assert result.shell_restarted
    # over the limit, a command that only reads goes on, one that writes more does not, one that makes room does
    assert (await small.run("sleep 1.6; echo $((1 + 1))")).text == "2\n"
    assert (await small.run(MANY.format("~/more"), timeout_s=60)).killed_by == "disk"
    result = await small.run("cd /testbed; rm -rf ~/more many; sleep 1.6; echo done")
    assert (result.text, result.killed_by) == ("done\n", None)
    assert (await small.run("head -c 5000000 /dev/zero >part; sleep 1.6; echo done")).text == "done\n"


async def test_every_place_counts(small: Sandbox) -> None:
    """The working directory, /tmp and the home, together; a file with two names once."""
    await small.run("for place in /testbed /tmp ~; do head -c 2500000 /dev/zero >$place/f; ln $place/f $place/g; done")
    assert (await small.run("sleep 1.6; echo below")).text == "below\n"
    result = await small.run("head -c 2500000 /dev/zero >/tmp/h; sleep 20", timeout_s=60)
    assert result.killed_by == "disk"


async def test_deleted_files_count_while_they_are_open(small: Sandbox) -> None:
    script = """
import os, time
files = [open(f"/tmp/{i}", "wb") for i in range(3)]
for file in files:
    os.unlink(file.name)
for file in files:
    file.write(bytes(5_000_000)); file.flush()
time.sleep(20)
"""
    await small.write_file("fill.py", script.encode())
    assert (await small.run("python fill.py", timeout_s=60)).killed_by == "disk"


async def test_empty_files_count_a_little(small: Sandbox) -> None:
    loop = "mkdir empty && cd empty && for ((i = 0; ; i++)); do >$i; done"
    assert (await small.run(loop, timeout_s=120)).killed_by == "disk"


async def test_what_was_there_before_does_not_count(provider: SandboxProvider, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    for i in range(4):
        (tmp_path / "workspace" / f"file{i}").write_bytes(bytes(5_000_000))
    limits = SandboxLimits(disk_bytes=DISK_BYTES)
    spec = SandboxSpec(image="disk-suite", workspace=str(tmp_path / "workspace"), limits=limits)
    sandbox = await provider.create(spec)
    assert (await sandbox.run("cat file*|wc -c; head -c 3000000 /dev/zero >new; sleep 1.6; echo done")).text.endswith(
        "done\n"
    )


async def test_the_program_that_counts_is_killed(small: Sandbox) -> None:
    """All children of process 1 but the shell are; the new ones know nothing, and count."""
    await small.run("head -c 7000000 /dev/zero >/tmp/first; kill -9 -1; true")
    assert (await small.run("head -c 7000000 /dev/zero >/tmp/second; sleep 20", timeout_s=60)).killed_by == "disk"


@pytest.mark.parametrize("lacks", ["stat", "head", "find"])
async def test_a_missing_program_is_named(provider: SandboxProvider, tmp_path: Path, lacks: str) -> None:
    """An image without one of ours; without `find` there is still `du`."""
    folder = tmp_path / "workspace" / "bin"
    folder.mkdir(parents=True)
    for program in {"bash", "chmod", "du", "find", "head", "mkdir", "readlink", "stat", "sleep"} - {lacks}:
        (folder / program).symlink_to(f"/usr/bin/{program}")
    limits = SandboxLimits(disk_bytes=DISK_BYTES)
    spec = SandboxSpec(
        image="disk-suite", workspace=str(folder.parent), environment={"PATH": "/testbed/bin"}, limits=limits
    )
    if lacks == "find":
        sandbox = await provider.create(spec)
        await sandbox.run("printf -v text '%020000d' 0")
        assert (await sandbox.run(MANY.format("many"), timeout_s=60)).killed_by == "disk"
        return
    with pytest.raises(SandboxError, match=rf"the image lacks {lacks} \(package coreutils\) in PATH=/testbed/bin"):
        await provider.create(spec)


async def test_a_file_too_large_to_read(backend: str, base_image: str, workspace: Path, tmp_path: Path) -> None:
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path), max_file_bytes=100_000)
    sandbox = await provider.create(SandboxSpec(image="contract-suite", workspace=str(workspace)))
    await sandbox.run("head -c 100000 /dev/zero >fits; head -c 100001 /dev/zero >large")
    assert await sandbox.read_file("fits") == bytes(100_000)
    with pytest.raises(SandboxError, match=r"larger than 100000 bytes \(sandbox.max_file_bytes\)"):
        await sandbox.read_file("large")
    await provider.close()


@pytest.mark.slow
async def test_room_that_others_free_hides_nothing_for_long(workspace: Path, tmp_path: Path) -> None:
    provider = make_provider("local", temp_folder=str(tmp_path / "sandboxes"))
    limits = SandboxLimits(disk_bytes=64 * 2**20)
    sandbox = await provider.create(SandboxSpec(image="disk-suite", workspace=str(workspace), limits=limits))
    ballast = tmp_path / "ballast"
    ballast.write_bytes(bytes(256 * 2**20))
    write = (
        "until [[ -e /tmp/go ]]; do sleep 0.05; done; for i in 1 2; do head -c 48000000 /dev/zero >f$i; done; sleep 40"
    )
    running = asyncio.create_task(sandbox.run(write, timeout_s=60))
    await asyncio.sleep(1.5)
    ballast.unlink()
    Path(sandbox.folder, "tmp", "go").touch()  # type: ignore[attr-defined]
    assert (await running).killed_by == "disk"
    await provider.close()
