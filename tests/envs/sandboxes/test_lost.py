"""The engine restarts, dies or hangs: whoever uses a sandbox learns it in time, and nothing stays behind.

With an engine of its own on a socket of its own, so that nobody else's containers are touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from swegym.core.errors import SandboxError, SandboxLost
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import list_sandboxes, make_provider, reap
from swegym.envs.sandboxes.engine import open_client
from swegym.envs.sandboxes.identity import OWNER_LABEL
from swegym.envs.sandboxes.pool import SandboxPool

pytestmark = [pytest.mark.chaos, pytest.mark.docker]

IMAGE = "swegym-lost:1"
PROGRAMS = ("bash", "cat", "chmod", "find", "head", "mkdir", "mv", "readlink", "rm", "sleep", "stat", "tar", "touch")
SPEC = SandboxSpec(image=IMAGE, workdir="/work")
ANSWER_S = 60.0


def small_root() -> bytes:
    """A root file system of this machine's bash and coreutils, with the libraries that they need."""
    files: dict[str, Path] = {}
    for name in PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        files[f"usr/bin/{name}"] = Path(program)
        for word in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split():
            if word.startswith("/"):
                files[word.lstrip("/")] = Path(word)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", dereference=True) as tar:
        for name, path in files.items():
            tar.add(path, arcname=name)
        for folder in ("work", "tmp", "root"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(entry)
    return stream.getvalue()


class OwnEngine:
    """A dockerd with everything in one folder and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        (self.folder / "pid").unlink(missing_ok=True)
        # a network namespace of its own: an engine without a bridge deletes the docker0 that it finds, anybody's
        command = ["unshare", "--net", "dockerd"]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        command += ["--pidfile", f"{self.folder}/pid", "-H", self.url, "--shutdown-timeout", "2"]
        command += ["--bridge=none", "--iptables=false", "--ip-masq=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.client().close()
            except Exception:  # noqa: BLE001 - not up yet, in whatever way
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"dockerd did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def client(self) -> Any:
        return open_client(self.url, 10.0)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals) -> None:
        """Stop or kill it. A killed one takes its containerd along and leaves the containers to its successor."""
        self.send(number)
        assert self.process is not None
        self.process.wait(30)
        # where nobody reaps it, the dead containerd would be taken for a living one
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def destroy(self) -> None:
        """End everything that runs in its folder, whatever state that is in, and remove the folder."""
        if self.process is not None and self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait(30)
        for name in ("containerd", "containerd-shim-runc-v2"):
            for pid in self._processes(name):
                for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                    os.kill(int(child), signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(self.folder))]):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
        shutil.rmtree(self.folder)

    def _processes(self, name: str) -> list[int]:
        """Ids of this engine's processes of a program."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                arguments = path.read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended
            is_ours = any(str(self.folder).encode() in argument for argument in arguments)
            if is_ours and arguments[0].rpartition(b"/")[2] == name.encode():
                found.append(int(path.parent.name))
        return found

    def containers(self) -> list[dict[str, Any]]:
        client = self.client()
        try:
            found: list[dict[str, Any]] = client.containers(all=True)
            return found
        finally:
            client.close()


@pytest.fixture(scope="module")
def own_engine() -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("an engine of one's own needs root and dockerd")
    # not in pytest's folder, which it deletes while something may still be mounted there
    engine = OwnEngine(Path(tempfile.mkdtemp(prefix="swegym-engine-")))
    try:
        engine.start()
        client = engine.client()
        client.import_image_from_data(small_root(), repository=IMAGE.partition(":")[0], tag="1")
        client.close()
        yield engine
    finally:
        engine.destroy()


@pytest.fixture
def engine(own_engine: OwnEngine) -> OwnEngine:
    """One that answers, whatever the last test did to it."""
    assert own_engine.process is not None
    own_engine.send(signal.SIGCONT) if own_engine.process.poll() is None else own_engine.start()
    return own_engine


@pytest.fixture
async def provider(engine: OwnEngine, tmp_path: Path) -> AsyncIterator[SandboxProvider]:
    made = make_provider(
        "docker",
        base_image=IMAGE,
        engine_url=engine.url,
        engine_timeout_s=3.0,
        answer_timeout_s=2.0,
        health_timeout_s=2.0,
        temp_folder=str(tmp_path / "s"),
    )
    yield made
    with contextlib.suppress(SandboxError):  # its engine may be gone: the next one finds what is left
        await made.close()


async def lost(sandbox: Sandbox, running: asyncio.Task[Any]) -> None:
    """The command in progress learns it, and so does the next."""
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(running, ANSWER_S)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(sandbox.run("true"), ANSWER_S)
    with pytest.raises(SandboxLost):
        await asyncio.wait_for(sandbox.read_file("/work/x"), ANSWER_S)
    assert not await asyncio.wait_for(sandbox.is_healthy(), ANSWER_S)


async def is_clean(engine: OwnEngine) -> None:
    deadline = time.monotonic() + ANSWER_S
    while engine.containers() and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    assert engine.containers() == []


@pytest.mark.parametrize("action", ["kill", "rm"])
async def test_container_removed_behind_our_back(engine: OwnEngine, provider: SandboxProvider, action: str) -> None:
    sandbox, other = await provider.create(SPEC), await provider.create(SPEC)
    running = asyncio.create_task(sandbox.run("sleep 600", timeout_s=600))
    await asyncio.sleep(0.1)
    arguments = ["kill"] if action == "kill" else ["rm", "-f"]
    subprocess.run(["docker", "-H", engine.url, *arguments, sandbox.sandbox_id], check=True, capture_output=True)
    await lost(sandbox, running)
    await sandbox.close()
    assert (await other.run("echo fine")).text == "fine\n"
    await other.close()
    await is_clean(engine)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
async def test_engine_ends_and_comes_back(
    engine: OwnEngine, provider: SandboxProvider, number: signal.Signals, tmp_path: Path
) -> None:
    sandbox, idle = await provider.create(SPEC), await provider.create(SPEC)
    running = asyncio.create_task(sandbox.run("sleep 600", timeout_s=600))
    await asyncio.sleep(0.1)
    await asyncio.to_thread(engine.end, number)
    await lost(sandbox, running)
    with pytest.raises(SandboxLost):
        await idle.run("true")
    with pytest.raises(SandboxError):
        await provider.create(SPEC)
    with pytest.raises(SandboxError, match="removing"):
        await asyncio.wait_for(sandbox.close(), ANSWER_S)
    with pytest.raises(SandboxError, match="removing"):  # and it says so every time
        await asyncio.wait_for(sandbox.close(), ANSWER_S)
    await asyncio.to_thread(engine.start)
    fresh = await provider.create(SPEC)
    assert (await fresh.run("echo back")).text == "back\n"
    await fresh.close()
    reap(str(tmp_path / "s"), engine_url=engine.url)
    await is_clean(engine)


async def test_engine_hangs(engine: OwnEngine, provider: SandboxProvider) -> None:
    """rl-failures 142: every call to the engine has its limit; 30: and it is the one of the config."""
    sandbox, idle = await provider.create(SPEC), await provider.create(SPEC)
    running = asyncio.create_task(sandbox.run("sleep 600", timeout_s=0.5))
    await asyncio.sleep(0.1)
    engine.send(signal.SIGSTOP)
    try:
        creating = asyncio.create_task(provider.create(SPEC))
        with pytest.raises(SandboxError, match="starting a container"):
            await asyncio.wait_for(creating, ANSWER_S)
        await lost(sandbox, running)
        assert not await asyncio.wait_for(idle.is_healthy(), ANSWER_S)
        with pytest.raises(SandboxError, match="removing"):
            await asyncio.wait_for(idle.close(), ANSWER_S)
    finally:
        engine.send(signal.SIGCONT)
    known, deadline = {sandbox.sandbox_id, idle.sandbox_id}, time.monotonic() + 10
    while time.monotonic() < deadline:  # what was asked for in vain is made now
        if {container["Names"][0].lstrip("/") for container in engine.containers()} - known:
            break
        await asyncio.sleep(0.1)
    await provider.close()  # removes that, and what could not be removed in time
    await is_clean(engine)


async def test_a_pool_over_a_dead_engine(engine: OwnEngine, tmp_path: Path) -> None:
    pool = make_provider("docker", base_image=IMAGE, engine_url=engine.url, engine_timeout_s=3.0, warm=2)
    assert isinstance(pool, SandboxPool)
    await (await pool.create(SPEC)).close()
    while pool.num_ready < 2:
        await asyncio.sleep(0.02)
    await asyncio.to_thread(engine.end, signal.SIGKILL)
    with pytest.raises(SandboxError):
        await asyncio.wait_for(pool.create(SPEC), ANSWER_S)
    await asyncio.to_thread(engine.start)
    sandbox = await pool.create(SPEC)
    assert (await sandbox.run("echo back")).text == "back\n"
    await sandbox.close()
    with contextlib.suppress(SandboxError):  # the dead ready ones could not be removed while there was no engine
        await pool.close()
    await is_clean(engine)


async def test_snapshots_of_the_dead_are_removed(engine: OwnEngine, provider: SandboxProvider, tmp_path: Path) -> None:
    sandbox = await provider.create(SPEC)
    first = await sandbox.snapshot()
    child = await provider.create(SPEC.model_copy(update={"image": first}))
    second = await child.snapshot()
    records = {record.sandbox_id: record for record in list_sandboxes(str(tmp_path / "s"), engine.url)}
    assert {records[name].state for name in (first, second)} == {"snapshot"}
    assert records[sandbox.sandbox_id].labels["swegym"] == "1"
    await sandbox.close()
    await child.close()
    client = engine.client()
    try:
        label = f"{OWNER_LABEL}=1:1:{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
        label += f":{Path('/proc/self/ns/pid').stat().st_ino}"
        orphan = client.create_container(IMAGE, ["true"])["Id"]
        client.commit(orphan, repository="swegym/snapshot", tag="orphan", changes=f"LABEL {label}")
        client.remove_container(orphan)
        removed = [record.sandbox_id for record in reap(str(tmp_path / "s"), engine_url=engine.url)]
        assert removed == ["swegym/snapshot:orphan"]
        tags = {tag for image in client.images() for tag in image["RepoTags"] or ()}
    finally:
        client.close()
    assert tags == {IMAGE, first, second}
