"""Ways out through files, processes, memory and what is inherited: to the host, to a neighbour, to the grader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swegym.core.errors import SandboxError
from swegym.core.outcome import Validity
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.core.task import TaskLimits
from swegym.envs import resolve_task_set
from swegym.envs.graders import SweGrader
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.local import LocalSandbox
from swegym.envs.tasksets import sandbox_spec
from swegym.envs.tools.base import make_tools
from swegym.envs.workspace import prepare_workspace
from tests.envs.sandboxes.attack import answer, attempt

pytestmark = [pytest.mark.attack, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file on the host that nobody inside may read or change."""
    path = tmp_path / "canary"
    path.write_text(secrets.token_hex(16))
    return path


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the host."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        assert process.poll() is None, "it was killed"
        process.kill()


# --- the host's files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "//", "/testbed/../..", "/oldroot", "/newroot", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/.."),
        *("/proc/1/cwd/..", "/proc/self/fd/0/../..", "/dev/fd/37/..", "/proc/self/task/1/root"),
    ],
)
async def test_no_path_leads_to_the_hosts_files(jail: Sandbox, canary: Path, prefix: str) -> None:
    assert await attempt(jail, f"open('{prefix}{canary}').read()") in ("ENOENT", "ENOTDIR", "EACCES")
    assert await attempt(jail, f"os.open('{prefix}{canary}', os.O_WRONLY)") in ("ENOENT", "ENOTDIR", "EACCES")


async def test_read_and_write_file_stay_inside(jail: Sandbox, canary: Path) -> None:
    text = canary.read_text()
    await jail.run(f"ln -sfn / /testbed/root; ln -sf {canary} /testbed/way_out; ln -sfn /proc/1/root /testbed/first")
    for path in ("way_out", f"root{canary}", f"first{canary}", f"../../../..{canary}", str(canary)):
        with pytest.raises(FileNotFoundError):
            await jail.read_file(path)
    for path in ("way_out", f"root{canary}", str(canary)):
        with contextlib.suppress(SandboxError):  # whether it fails or lands inside, the host's file is what counts
            await jail.write_file(path, b"changed")
    assert canary.read_text() == text


@pytest.mark.parametrize(
    "path", ["{canary}", "../../../../{canary}", "way_out", "root{canary}", "/proc/1/root{canary}"]
)
async def test_tools_stay_inside(jail: Sandbox, canary: Path, path: str) -> None:
    """edit and create take any path, and mean the sandbox's."""
    text = canary.read_text()
    await jail.run(f"ln -sfn / /testbed/root; ln -sf {canary} /testbed/way_out; rm -rf {canary.parent}")
    task, tools = resolve_task_set("tiny").get("tiny-wrap"), make_tools(("edit", "create"))
    target = path.format(canary=canary)
    edited = await tools["edit"].run(
        jail, task, f"{target}\n<<<<<<< SEARCH\n{text}\n=======\nchanged\n>>>>>>> REPLACE", TaskLimits()
    )
    assert edited.exit_code == 1
    await tools["create"].run(jail, task, f"{target}\nchanged", TaskLimits())
    assert canary.read_text() == text


async def test_hard_links_do_not_carry_what_is_read_only(
    jailer: SandboxProvider, jail_spec: SandboxSpec, tmp_path: Path
) -> None:
    folder = tmp_path / "dependencies"
    folder.mkdir()
    (folder / "module.py").write_text("value = 7\n")
    sandbox = await jailer.create(jail_spec.model_copy(update={"dependencies": str(folder)}))
    for target in ("/testbed/link", "/tmp/link", "$HOME/link"):
        await sandbox.run(f"ln /opt/swegym/dependencies/module.py {target}; echo changed >{target}")
        await sandbox.run(f"ln -s /opt/swegym/dependencies/module.py {target}.s; echo changed >{target}.s")
    await sandbox.run("mv /opt/swegym/dependencies /tmp/moved; echo changed >/tmp/moved/module.py")
    assert (folder / "module.py").read_text() == "value = 7\n"
    assert os.stat(folder / "module.py").st_nlink == 1  # noqa: PTH116 (the number of links is the point)
    await sandbox.close()


async def test_overlay_attributes_do_not_redirect(
    jailer: SandboxProvider, jail_spec: SandboxSpec, canary: Path
) -> None:
    """An overlay keeps redirects in extended attributes: one written inside must not be followed later."""
    sandbox = await jailer.create(jail_spec)
    await sandbox.run("mkdir /testbed/redirected /testbed/package2")
    for name in ("user.overlay.redirect", "trusted.overlay.redirect", "user.overlay.opaque", "user.overlay.metacopy"):
        await attempt(sandbox, f"os.setxattr('/testbed/redirected', '{name}', b'{canary.parent}')")
    fork = await sandbox.fork()
    assert (await fork.run("ls -A /testbed/redirected")).text == ""
    assert await attempt(fork, f"os.stat('/testbed/redirected/{canary.name}')") == "ENOENT"
    await fork.close()
    await sandbox.close()


async def test_the_workspace_of_the_host_cannot_be_reached_for_writing(jail: Sandbox, workspace: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in workspace.rglob("*")}
    await jail.run(
        "cd /testbed; chmod -R 777 .; touch run.sh; truncate -s 0 package/module.py; mv package package2;"
        "ln -sf /etc/passwd /testbed/link; setfattr -n user.x -v y /testbed/run.sh; mkfifo /testbed/fifo"
    )
    assert {path: (path.stat().st_mtime_ns, path.stat().st_mode) for path in workspace.rglob("*")} == before


async def test_folders_of_a_sandbox_are_closed_to_other_users(jail: Sandbox) -> None:
    """Inside, root may make programs with the set-user-id bit; on the host nobody else may get at them."""
    await jail.run("cp /bin/true /tmp/true; chmod 4777 /tmp/true; chmod 777 /tmp /testbed ~ 2>/dev/null")
    if isinstance(jail, LocalSandbox):
        assert (jail.folder / "tmp" / "true").stat().st_mode & 0o4000
        assert jail.folder.stat().st_mode & 0o077 == 0


async def test_the_hosts_users_are_unknown(jail: Sandbox) -> None:
    system = {"root", "nobody"} if jail.backend == "local" else {user.pw_name for user in pwd.getpwall()}
    found = {line.split(":")[0] for line in (await jail.run("cat /etc/passwd")).text.splitlines()}
    assert found <= system | {line.pw_name for line in pwd.getpwall() if line.pw_uid < 1000}
    if jail.backend == "local":
        assert found == system
        assert await attempt(jail, "open('/etc/shadow')") == "ENOENT"


# --- what is inherited ------------------------------------------------------------------------------------------------


async def test_no_secret_of_the_environment(
    jailer: SandboxProvider, jail_spec: SandboxSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(16)
    for name in ("OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "LD_PRELOAD_", "PYTHONPATH_", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, secret)
    sandbox = await jailer.create(jail_spec)
    text = (await sandbox.run("env; declare -p; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'")).text
    assert "PAGER=cat" in text
    assert secret not in text
    await sandbox.close()


async def test_no_descriptor_of_ours(jailer: SandboxProvider, jail_spec: SandboxSpec, canary: Path) -> None:
    """Not even one that our process lets its children have."""
    descriptor = os.open(canary, os.O_RDWR)
    os.set_inheritable(descriptor, True)
    try:
        sandbox = await jailer.create(jail_spec)
        links = (await sandbox.run("for d in /proc/[0-9]*/fd/*; do readlink $d; done")).text.split("\n")
    finally:
        os.close(descriptor)
    kinds = {link.partition(":")[0] for link in links if link}
    assert {"pipe", "/dev/null"} <= kinds
    assert {kind for kind in kinds if kind not in ("pipe", "/dev/null") and not kind.startswith("/proc/")} == set()
    await sandbox.close()


async def test_command_lines_do_not_tell_of_the_host(jail: Sandbox, jailer: SandboxProvider) -> None:
    text = (await jail.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; readlink /proc/[0-9]*/exe")).text
    assert "bash" in text
    for word in ("bwrap", "--ro-bind", "runc", "containerd", str(getattr(jailer, "folder", "swegym-jail"))):
        assert word not in text


# --- the host's processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "os.kill({pid}, signal.SIGKILL)",
        "os.kill({pid}, 0)",
        "os.killpg({pid}, signal.SIGKILL)",
        "os.pidfd_open({pid})",
        "c('ptrace', 16, {pid}, None, None)",
        "part = (ctypes.c_size_t * 2)(id(b''), 8); c('process_vm_readv', {pid}, part, 1, part, 1, 0)",
        "os.open('/proc/{pid}/mem', os.O_RDWR)",
        "os.open('/proc/{pid}/environ', os.O_RDONLY)",
        "os.readlink('/proc/{pid}/cwd')",
        "os.listdir('/proc/{pid}/root')",
        "os.sched_getaffinity({pid})",
        "os.getpgid({pid})",
        "os.setpriority(os.PRIO_PROCESS, {pid}, 19)",
        "__import__('resource').prlimit({pid}, 7)",
    ],
)
async def test_the_hosts_processes(jail: Sandbox, victim: int, statement: str) -> None:
    assert await attempt(jail, statement.format(pid=victim)) in ("ESRCH", "ENOENT")


async def test_only_own_processes_are_listed(jail: Sandbox) -> None:
    listed = [int(name) for name in (await jail.run("cd /proc; echo [0-9]*; cd - >/dev/null")).text.split()]
    assert len(listed) < 40
    parents = (await jail.run("cut -d' ' -f4 /proc/1/stat; cut -d' ' -f6 /proc/1/stat")).text.split()
    assert parents == ["0", "1"]  # no parent, and a session of its own


async def test_a_signal_to_everything_stays_inside(jail: Sandbox, neighbour: Sandbox, victim: int) -> None:
    await neighbour.run("sleep 300 &")
    await jail.run("kill -9 -1")
    await jail.run("kill -9 1; kill -STOP 1; kill -9 -1 -2 -3")
    assert (await neighbour.run("jobs -r | wc -l")).text == "1\n"
    assert (await jail.run("echo alive")).text == "alive\n"


# --- neighbours -------------------------------------------------------------------------------------------------------


async def test_neighbours_share_no_memory_objects(jail: Sandbox, neighbour: Sandbox) -> None:
    """POSIX and System V shared memory, semaphores and message queues."""
    await answer(
        neighbour,
        """
        from multiprocessing.shared_memory import SharedMemory
        from multiprocessing import resource_tracker
        kept = SharedMemory("canary", create=True, size=16)
        resource_tracker.unregister(kept._name, "shared_memory")
        for make, rest in (("shmget", (4096, 0o1666)), ("semget", (1, 0o1666)), ("msgget", (0o1666,))):
            c(make, 0x5111, *rest)
        """,
    )
    assert await attempt(neighbour, "c('shmget', 0x5111, 4096, 0)") == "done"
    assert await attempt(neighbour, "os.stat('/dev/shm/canary')") == "done"
    assert await attempt(jail, "os.stat('/dev/shm/canary')") == "ENOENT"
    assert await attempt(jail, "c('shmget', 0x5111, 4096, 0)") == "ENOENT"
    assert await attempt(jail, "c('semget', 0x5111, 1, 0)") == "ENOENT"
    assert await attempt(jail, "c('msgget', 0x5111, 0)") == "ENOENT"
    assert "canary" not in (await jail.run("cat /proc/sysvipc/shm; ls -A /dev/shm /dev/mqueue 2>/dev/null")).text


async def test_neighbours_share_no_files(jail: Sandbox, neighbour: Sandbox) -> None:
    word = secrets.token_hex(8)
    await neighbour.run(f"for d in /tmp /testbed ~ /var/tmp /dev/shm; do echo {word} >$d/{word}; done")
    found = await jail.run(f"find / -name {word} -not -path '/proc/*' 2>/dev/null; grep -s {word} /proc/mounts")
    assert found.text == ""


async def test_neighbours_have_other_namespaces(jail: Sandbox, neighbour: Sandbox) -> None:
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        read = f"readlink /proc/self/ns/{kind}"
        assert (await jail.run(read)).text != (await neighbour.run(read)).text


# --- the grader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["local", pytest.param("docker", marks=pytest.mark.docker)])
async def test_the_secret_half_of_a_task_is_nowhere(backend: str, base_image: str, tmp_path: Path) -> None:
    """Neither its hidden tests nor its gold patch, while a grader works beside it with both."""
    tasks = resolve_task_set("tiny")
    task = tasks.get("tiny-wrap")
    secret = tasks.secret(task.task_id)
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path))
    grader = SweGrader(provider, tasks)
    spec = sandbox_spec(task, tasks)
    assert spec.workspace is not None
    public = "".join(file.read_text() for file in Path(spec.workspace).rglob("*.py"))
    gold = [line[1:] for line in secret.patch.splitlines() if line[:1] == "+" and line[:3] != "+++"]
    hidden = [line for text in secret.hidden_files.values() for line in text.splitlines()]
    wanted = [max(gold, key=len), *sorted((line for line in hidden if line not in public), key=len)[-5:]]
    assert min(map(len, wanted)) > 15
    sandbox = await provider.create(spec)
    await prepare_workspace(sandbox, task)
    await sandbox.write_file("/tmp/wanted", "\n".join(wanted).encode())
    places = "/testbed /tmp /home /root /opt /var /etc /run /srv /mnt /dev/shm"
    exclude = "--exclude=wanted --exclude-dir=.pyenv"
    assert (
        await sandbox.run("cp /tmp/wanted /tmp/found; grep -rsFlf /tmp/wanted /tmp --exclude=wanted")
    ).exit_code == 0
    await sandbox.run("rm /tmp/found")
    grading = asyncio.ensure_future(grader.grade(task, secret.patch))
    while not grading.done():
        assert (await sandbox.run(f"grep -rsFlf /tmp/wanted {places} {exclude}")).text == ""
    assert (await grading).validity is Validity.VALID
    await grader.close()
    await provider.close()


# --- what can be filled -----------------------------------------------------------------------------------------------


async def test_shared_memory_is_bounded(jailer: SandboxProvider, jail_spec: SandboxSpec) -> None:
    limits = SandboxLimits(memory_bytes=64 * 2**20)
    sandbox = await jailer.create(jail_spec.model_copy(update={"limits": limits}))
    result = await sandbox.run("head -c 100000000 /dev/zero >/dev/shm/full; stat -c %s /dev/shm/full; rm /dev/shm/full")
    size = int(result.text.splitlines()[-1])
    assert 2**20 < size <= 32 * 2**20
    assert (await sandbox.run("echo alive")).text == "alive\n"
    await sandbox.close()


async def test_nothing_else_in_memory_can_be_filled(jail: Sandbox) -> None:
    """Every writable mount of kind tmpfs is small, or /dev/shm, whose size is the limit's."""
    script = """
        for line in open("/proc/self/mountinfo"):
            fields, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
            path = fields[4]
            if kind not in ("tmpfs", "ramfs", "devtmpfs") or "ro" in fields[5].split(",") or path == "/dev/shm":
                continue
            if os.path.isdir(path) and os.statvfs(path).f_blocks * os.statvfs(path).f_frsize > 64 * 2**20:
                try:
                    os.close(os.open(path + "/filled", os.O_CREAT | os.O_WRONLY))
                    os.remove(path + "/filled")
                    print(path)
                except OSError:
                    pass
    """
    found = await answer(jail, script)
    assert found.replace("/sys/fs/cgroup", "") == ""  # version 1 in a container: counted against its memory
