"""What is inside cannot see or touch what is outside: one test per way out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swegym.core.errors import ConfigError
from swegym.core.sandbox import Sandbox, SandboxLimits, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.cgroups import ControlGroup
from swegym.envs.sandboxes.detect import Bwrap
from swegym.envs.sandboxes.local import LocalProvider

pytestmark = pytest.mark.attack


async def succeeds(sandbox: Sandbox, command: str) -> bool:
    return (await sandbox.run(command, timeout_s=20)).exit_code == 0


async def test_network_is_off(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=3)"
        assert not await succeeds(sandbox, f'python -c "{script}"')
    assert (await sandbox.run("cat /proc/net/route")).text.count("\n") <= 1


async def test_host_files_are_invisible(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    checkout = Path(__file__).resolve().parents[3]
    for path in (secret, checkout / "pyproject.toml", checkout / "tests", Path.home() / ".ssh"):
        assert not await succeeds(sandbox, f"test -e '{path}'"), path
    if sandbox.backend == "local":
        for path in (Path("/etc/shadow"), Path("/sys/kernel"), Path("/run"), Path("/boot"), Path("/var/lib")):
            assert not await succeeds(sandbox, f"test -e '{path}'"), path


async def test_dotdot_and_links_lead_nowhere(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    await sandbox.run(f"ln -s '{secret}' way_out")
    with pytest.raises(FileNotFoundError):
        await sandbox.read_file("way_out")
    with pytest.raises(FileNotFoundError):
        await sandbox.read_file(f"/testbed/../..{secret}")
    await sandbox.run(f"mkdir -p '{tmp_path}' && echo changed >'{secret}'")
    assert secret.read_text() == "secret"


async def test_the_workspace_on_the_host_is_never_changed(sandbox: Sandbox, workspace: Path) -> None:
    await sandbox.run("rm -rf /testbed/* /testbed/.[!.]*; echo x >/testbed/new; chmod 700 /testbed")
    assert sorted(path.name for path in workspace.iterdir()) == ["link", "package", "run.sh"]
    assert workspace.joinpath("run.sh").read_text() == "#!/bin/sh\necho ran\n"


async def test_dependencies_are_read_only(provider: SandboxProvider, spec: SandboxSpec, tmp_path: Path) -> None:
    dependencies = tmp_path / "dependencies"
    dependencies.mkdir()
    (dependencies / "depended_on.py").write_text("value = 7\n")
    sandbox = await provider.create(spec.model_copy(update={"dependencies": str(dependencies)}))
    assert (await sandbox.run("python -c 'import depended_on; print(depended_on.value)'")).text == "7\n"
    await sandbox.run("echo 'value = 8' >/opt/swegym/dependencies/depended_on.py")
    assert (dependencies / "depended_on.py").read_text() == "value = 7\n"
    fresh = await provider.create(spec.model_copy(update={"dependencies": str(dependencies)}))
    assert (await fresh.run("python -c 'import depended_on; print(depended_on.value)'")).text == "7\n"


async def test_host_processes_are_out_of_reach(sandbox: Sandbox) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        await sandbox.run(f"kill -9 {victim.pid} {os.getpid()}; kill -9 -1; true", timeout_s=20)
        assert victim.poll() is None
        victim.terminate()
    assert not await succeeds(sandbox, f"grep -qs {victim.pid} /proc/[0-9]*/status")


async def test_sandboxes_do_not_see_each_other(provider: SandboxProvider, spec: SandboxSpec) -> None:
    first, second = await provider.create(spec), await provider.create(spec)
    await first.run("echo mine | tee /testbed/mine /tmp/mine ~/mine; sleep 321 &")
    assert not await succeeds(second, "ls /testbed/mine /tmp/mine ~/mine 2>&1 | grep -qv 'No such file'")
    assert not await succeeds(second, "grep -qs 321 /proc/[0-9]*/cmdline")


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs tmpfs /mnt",
        "unshare --user --map-root-user mount -t tmpfs tmpfs /mnt",
        "chroot / true",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "echo h >/proc/sysrq-trigger",
        "ls /var/run/docker.sock",
        "dmesg",
        "nice -n -5 true 2>&1 | grep -q . && false",
        "echo x >/proc/1/oom_score_adj && echo -1000 >/proc/1/oom_score_adj",
        "ip link add dummy0 type dummy",
        "date -s 2000-01-01",
    ],
)
async def test_privileged_things_are_refused(sandbox: Sandbox, command: str) -> None:
    assert not await succeeds(sandbox, f"( {command} ) 2>/dev/null")


async def test_the_kernels_settings_cannot_be_written(sandbox: Sandbox) -> None:
    """Opened for writing and nothing written, since a failure of this test must not change the host's kernel."""
    script = """
        for path in $(find /proc/sys /proc/irq /proc/bus /proc/fs /proc/acpi /proc/scsi -type f 2>/dev/null) \\
                /proc/sysrq-trigger /proc/mtrr /proc/kcore; do
            [[ -c $path ]] && continue # hidden: it is /dev/null
            (exec 3>>"$path") 2>/dev/null && echo "$path"
        done; find /proc/sys -type f | wc -l"""
    *writable, count = (await sandbox.run(script, timeout_s=60)).text.split()
    assert writable == []
    assert int(count) > 100


async def test_no_capability_beyond_the_listed(sandbox: Sandbox) -> None:
    status = (await sandbox.run("cat /proc/self/status")).text
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    file_capabilities = 1 << 0 | 1 << 1 | 1 << 3  # CHOWN, DAC_OVERRIDE, FOWNER
    allowed = file_capabilities if sandbox.backend == "docker" else 0
    assert int(fields["CapEff"], 16) & ~allowed == 0
    assert int(fields["CapBnd"], 16) & ~allowed == 0
    assert fields["NoNewPrivs"] == "1"


async def test_host_environment_does_not_leak(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.environ.get("HOME")
    text = (await sandbox.run("env; cat /proc/1/environ | tr '\\0' '\\n'")).text
    assert "PYTEST_CURRENT_TEST" not in text
    assert "swegym_" not in text.lower().replace("_swegym_", "")


async def test_the_session_secret_is_not_in_the_shell(sandbox: Sandbox) -> None:
    secret: str = sandbox.session._secret  # type: ignore[attr-defined]
    found = await sandbox.run("declare -p; declare -f; env; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ; ls -R /tmp")
    assert secret.encode() not in found.output


ORDINARY = {
    "git": "git init -q /tmp/repository && cd /tmp/repository && git commit -q --allow-empty -m x && git log | grep x",
    "pipes": "seq 2000 | sort -R | sort -n | tail -1 | grep -q 2000",
    "links and modes": "touch a && ln a b && ln -s a c && chmod 600 a && mkfifo p && mv a d && rm -r b c d p",
    "archives": "tar cf /tmp/x.tar package && tar xf /tmp/x.tar -C /tmp && diff -r package /tmp/package",
    "threads": """python3 -c "
import threading
for thread in [threading.Thread(target=print) for _ in range(20)]: thread.start(); thread.join()" """,
    "processes": """python3 -c "
import multiprocessing as m
with m.get_context('fork').Pool(2) as p: assert p.map(abs, [-1, 2]) == [1, 2]
with m.get_context('spawn').Pool(1) as p: assert p.map(abs, [-1, 2]) == [1, 2]
from multiprocessing.shared_memory import SharedMemory as S
s = S(create=True, size=10); s.close(); s.unlink()" """,
    "asyncio": """python3 -c "
import asyncio
async def f():
    p = await asyncio.create_subprocess_exec('echo', 'x', stdout=-1)
    assert (await p.communicate())[0].strip() == b'x'
asyncio.run(f())" """,
    "unix sockets": """python3 -c "
import socket; s = socket.socket(1); s.bind('/tmp/socket'); s.listen(); socket.socket(1).connect('/tmp/socket')" """,
    "terminals": """python3 -c "import pty; assert pty.spawn(['true']) == 0" """,
    "tracing": """python3 -c "
import ctypes, os
libc = ctypes.CDLL(None)
pid = os.fork()
if not pid: libc.ptrace(0, 0, 0, 0); os.kill(os.getpid(), 19); os._exit(7)
assert os.WIFSTOPPED(os.waitpid(pid, 0)[1]); libc.ptrace(7, pid, 0, 0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7" """,
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("program", ORDINARY)
async def test_ordinary_programs_work(jail: Sandbox, program: str) -> None:
    """In a folder of its own each, in one sandbox."""
    await jail.run("git config --global user.name a; git config --global user.email a@b")
    await jail.run('cd "$(mktemp -d)" && cp -r /testbed/package .')
    result = await jail.run(ORDINARY[program], timeout_s=60)
    assert result.exit_code == 0, result.text


@pytest.mark.asyncio(loop_scope="module")
async def test_a_compiler_works(jail: Sandbox) -> None:
    if not await succeeds(jail, "command -v gcc"):
        pytest.skip("no compiler in there")
    assert await succeeds(jail, "cd /tmp && echo 'int main() { return 0; }' >a.c && gcc -pthread a.c && ./a.out")


@pytest.mark.slow
async def test_pip_works(sandbox: Sandbox) -> None:
    """Offline, with the pip that comes with Python, into an environment of the sandbox's own."""
    if not await succeeds(sandbox, "python3 -c 'import ensurepip'"):
        pytest.skip("no ensurepip in there")
    made = await sandbox.run("python3 -m venv /tmp/venv && /tmp/venv/bin/pip --version", timeout_s=120)
    assert made.exit_code == 0, made.text


async def test_commands_run_as_another_user(backend: str, base_image: str, spec: SandboxSpec, tmp_path: Path) -> None:
    provider = make_provider(backend, base_image=base_image, temp_folder=str(tmp_path), user="1234:1234")
    sandbox = await provider.create(spec)
    assert (await sandbox.run("id -u; id -g")).text == "1234\n1234\n"
    assert await succeeds(
        sandbox, "echo x >new && rm run.sh && touch ~/mine && [[ $(stat -c %u new package) == *1234* ]]"
    )
    await sandbox.write_file("/testbed/deep/file", b"x")
    assert await sandbox.read_file("/testbed/deep/file") == b"x"
    assert "CapEff:\t0000000000000000" in (await sandbox.run("cat /proc/self/status")).text
    for command in (
        "touch /usr/x",
        "cat /etc/shadow",
        "chown 0 new",
        "su root -c true",
        "sudo -n true",
        "echo >/etc/hosts",
    ):
        assert not await succeeds(sandbox, f"({command}) 2>/dev/null"), command
    await provider.close()


@pytest.mark.parametrize("user", ["alice", "1000:staff", "-1", "", "1:2:3"])
def test_a_user_that_local_cannot_have(user: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="UID or UID:GID"):
        make_provider("local", user=user, temp_folder=str(tmp_path))


def test_no_namespaces_no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel without them, played by a bubblewrap that is told to fail."""
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo bubblewrap 0.11.0 && exit\necho no namespaces >&2; exit 1\n"
    )
    bwrap.chmod(0o755)
    monkeypatch.setattr("swegym.envs.sandboxes.local.require_bwrap", lambda: Bwrap(str(bwrap), "0.11.0"))
    for unsafe in (False, True):  # unsafe gives up the user namespace, never all of them
        with pytest.raises(ConfigError, match="no namespaces"):
            make_provider("local", unsafe=unsafe, temp_folder=str(tmp_path))


def test_no_filter_no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ConfigError, match=r"no system call filter is written for 'riscv64'.*--unsafe"):
        make_provider("local", temp_folder=str(tmp_path))
    provider = make_provider("local", unsafe=True, temp_folder=str(tmp_path))
    assert isinstance(provider, LocalProvider)
    assert not provider.has_filter


async def test_processors_are_limited(backend: str, provider: SandboxProvider, spec: SandboxSpec) -> None:
    """As the kernel has it: a quota of 150 ms in every 100."""
    sandbox = await provider.create(spec.model_copy(update={"limits": SandboxLimits(cpus=1.5)}))
    root = Path("/sys/fs/cgroup")
    if backend == "docker":
        found = await sandbox.run("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null")
        assert found.text.split()[0] == "150000"
        return
    group = ControlGroup.create("probe", SandboxLimits())
    if group is None:
        pytest.skip("no control group can be made here")
    group.remove()
    name = f"swegym.{sandbox.sandbox_id}"
    quotas = [file for file in (root / "cpu" / name / "cpu.cfs_quota_us", root / name / "cpu.max") if file.exists()]
    assert [file.read_text().split()[0] for file in quotas] == ["150000"]
    await sandbox.close()
    assert not any(file.exists() for file in quotas)
