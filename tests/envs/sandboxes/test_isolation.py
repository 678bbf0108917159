"""What is inside cannot see or touch what is outside: one test per way out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec

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
