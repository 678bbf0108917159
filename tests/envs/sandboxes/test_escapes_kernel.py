"""Ways out through the kernel: system calls, /proc, /sys, devices, capabilities. Nothing is ever written to the host's.

Files of the kernel are opened for writing and nothing is written; calls get arguments that would fail by themselves.
"""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import pytest

from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec
from swegym.envs.sandboxes import make_provider
from swegym.envs.sandboxes.local import LocalProvider
from swegym.envs.sandboxes.seccomp import ABSENT, DENIED, MACHINES
from tests.envs.sandboxes.attack import answer, attempt

pytestmark = [pytest.mark.attack, pytest.mark.asyncio(loop_scope="module")]
MACHINE = MACHINES[platform.machine()]
ENGINE_ALLOWS = {"modify_ldt", "name_to_handle_at", "set_mempolicy_home_node", "open_tree_attr"}
"""What newer engines' own profiles let pass, which they check themselves."""


def is_ours(provider: SandboxProvider) -> bool:
    """Whether the filter is this package's and not the engine's own."""
    options: list[str] = getattr(provider, "security_options", [])
    return provider.name == "local" or any(option.startswith("seccomp=") for option in options)


async def test_denied_calls(jail: Sandbox, jailer: SandboxProvider) -> None:
    numbers = {name: found for name, pair in (DENIED | ABSENT).items() if (found := pair[MACHINE.column]) is not None}
    if not is_ours(jailer):
        numbers = {name: number for name, number in numbers.items() if name not in ENGINE_ALLOWS}
    script = f"""
        import json
        answers = {{}}
        for name, number in json.loads('{json.dumps(numbers)}').items():
            try:
                call(number, 0, 0, 0, 0, 0, 0)
                answers[name] = "done"
            except OSError as error:
                answers[name] = errno.errorcode[error.errno]
        print(json.dumps(answers))
    """
    answers = json.loads(await answer(jail, script))
    assert len(answers) > 50
    wrong = {name: said for name, said in answers.items() if said not in ("EPERM", "ENOSYS")}
    assert wrong == {}
    assert answers["clone3"] == "ENOSYS"


@pytest.mark.parametrize(
    "flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000], ids=hex
)
async def test_no_new_namespace_by_clone(jail: Sandbox, flag: int) -> None:
    """17 is SIGCHLD. A clone that passed would return twice, so its child ends at once."""
    script = f"""
        pid = libc.syscall(ctypes.c_long({MACHINE.clone}), ctypes.c_long({flag} | 17), 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        print(errno.errorcode[ctypes.get_errno()] if pid < 0 else "done")
    """
    assert await answer(jail, script) == "EPERM"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("socket.socket(40, socket.SOCK_STREAM)", {"EAFNOSUPPORT", "EPERM"}),  # VSOCK: to the host of a virtual machine
        (f"call({MACHINE.socket}, (1 << 32) | 40, 1, 0)", {"EAFNOSUPPORT", "EPERM"}),  # the kernel takes 32 bits of it
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", {"EAFNOSUPPORT", "EPERM"}),
        ("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", {"EPERM"}),
        (f"call({MACHINE.personality}, 0x0040000)", {"EPERM"}),
        ("os.nice(-5)", {"EPERM", "EACCES"}),
        ("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", {"EPERM"}),
        ("os.setuid(65533)", {"EPERM", "EINVAL"}),
        ("os.setgroups([0, 4, 27])", {"EPERM"}),
        ("os.chroot('/tmp')", {"EPERM"}),
        ("time.clock_settime(time.CLOCK_REALTIME, time.time())", {"EPERM"}),
        ("socket.sethostname('elsewhere')", {"EPERM"}),
        ("os.mknod('/tmp/disk', 0o60666, os.makedev(254, 0))", {"EPERM"}),
        ("os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))", {"EPERM"}),
        ("c('mount', b'none', b'/tmp', b'tmpfs', 0, None)", {"EPERM"}),
        ("c('mount', None, b'/usr', None, 32 | 4096, None)", {"EPERM"}),  # remount, bind: writable again
        ("c('umount2', b'/proc/sys', 2)", {"EPERM"}),
        ("c('umount2', b'/', 2)", {"EPERM"}),
        ("c('prctl', 38, 0, 0, 0, 0)", {"EINVAL"}),  # no-new-privileges off again
        ("c('prctl', 24, 21, 0, 0, 0)", {"EPERM"}),  # change the bounding set
        ("c('prctl', 47, 2, 21, 0, 0)", {"EPERM"}),  # raise an ambient capability
        ("c('setns', os.open('/proc/self/ns/net', os.O_RDONLY), 0)", {"EPERM"}),
        ("c('setns', os.pidfd_open(os.getpid()), 0x10000000)", {"EPERM"}),
    ],
)
async def test_refused_calls(jail: Sandbox, statement: str, expected: set[str]) -> None:
    assert await attempt(jail, statement) in expected


@pytest.mark.parametrize("command", [0x5412, 0x541C, (1 << 32) | 0x5412], ids=hex)
async def test_nothing_can_be_typed_into_a_terminal(jail: Sandbox, command: int) -> None:
    """Not even into one's own: a filter that looks at all 64 bits of the number would let the last one pass."""
    if jail.backend == "docker":
        pytest.skip("a container relies on there being no terminal")
    script = f"""
        pid = os.fork()
        if pid:
            sys.exit(os.waitpid(pid, 0)[1])
        os.setsid()
        end = os.openpty()[1]
        fcntl.ioctl(end, 0x540E, 0)  # TIOCSCTTY: it is the controlling terminal now, which TIOCSTI asks for
        letter = ctypes.create_string_buffer(b"x")
        try:
            call({MACHINE.ioctl}, end, {command}, ctypes.addressof(letter))
            print("done")
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    assert await answer(jail, script) == "EPERM"


async def test_there_is_no_controlling_terminal(jail: Sandbox) -> None:
    assert await attempt(jail, "os.open('/dev/tty', os.O_RDWR)") == "ENXIO"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other ways to number calls are x86's")
async def test_calls_by_other_numbers(jail: Sandbox, jailer: SandboxProvider) -> None:
    """x32 numbers, and 32-bit calls by `int 0x80`: mov eax, 20 (getpid); int 0x80; ret."""
    if not is_ours(jailer):
        pytest.skip("the engine's own profile allows these architectures under the same rules")
    script = r"""
        import mmap
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        for attack in (function, lambda: call(0x40000000 | 39)):
            pid = os.fork()
            if pid == 0:
                try:
                    attack()
                except OSError as error:
                    os._exit(error.errno)
                os._exit(0)
            status = os.waitpid(pid, 0)[1]
            print(signal.Signals(status).name if os.WIFSIGNALED(status) else errno.errorcode[os.WEXITSTATUS(status)])
    """
    assert (await answer(jail, script)).split() in (["SIGSYS", "ENOSYS"], ["SIGSYS", "SIGSYS"])


async def test_kernel_files_cannot_be_opened_for_writing(jail: Sandbox) -> None:
    script = """
        for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches",
                     "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/kernel/ns_last_pid",
                     "/proc/sys/fs/binfmt_misc/register", "/proc/irq/0/smp_affinity", "/proc/pressure/memory",
                     "/sys/kernel/uevent_helper", "/sys/power/state",
                     "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
                     "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/pids/cgroup.procs",
                     "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"):
            try:
                os.close(os.open(path, os.O_WRONLY))
                print(path)
            except OSError as error:
                assert error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT), (path, error)
    """
    assert await answer(jail, script) == ""


async def test_nothing_under_sys_is_writable(jail: Sandbox) -> None:
    """`open` decides, since `access` of a process with CAP_DAC_OVERRIDE knows no modes."""
    script = """
        for top, folders, names in os.walk("/sys"):
            for name in names:
                try:
                    os.close(os.open(f"{top}/{name}", os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                    print(f"{top}/{name}")
                except OSError:
                    pass
        for folder in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/init"):
            try:
                os.mkdir(f"{folder}/escape")
                print(folder)
            except OSError as error:
                assert error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT), (folder, error)
    """
    assert await answer(jail, script) == ""


@pytest.mark.parametrize(
    "path",
    [
        *("kcore", "kmsg", "keys", "key-users", "cmdline", "interrupts"),
        *("slabinfo", "kpageflags", "vmallocinfo", "timer_list", "pagetypeinfo"),
    ],
)
async def test_what_the_kernel_tells_root_is_hidden(jail: Sandbox, path: str) -> None:
    result = await jail.run(f"head -c 64 /proc/{path} | wc -c")
    assert result.text.splitlines()[-1] == "0", result.text


async def test_kernel_addresses_are_hidden(jail: Sandbox) -> None:
    text = (await jail.run("head -n 50 /proc/kallsyms 2>/dev/null | cut -d' ' -f1 | sort -u")).text
    assert text.strip("0\n") == ""


async def test_devices_are_the_harmless_ones(jail: Sandbox) -> None:
    script = """
        import stat
        for top, folders, names in os.walk("/dev"):
            for name in names:
                mode = os.lstat(f"{top}/{name}").st_mode
                if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                    print(name)
    """
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    found = set((await answer(jail, script)).split())
    assert {name for name in found - allowed if not name.isdigit()} == set()  # numbers: terminals of /dev/pts
    for path in (
        "/dev/mem",
        "/dev/kmem",
        "/dev/vsock",
        "/dev/kvm",
        "/dev/fuse",
        "/dev/net/tun",
        "/dev/sda",
        "/dev/vda",
    ):
        assert await attempt(jail, f"os.open('{path}', os.O_RDONLY)") == "ENOENT"


async def test_no_privilege_can_be_gained(jail: Sandbox) -> None:
    status = dict(
        line.split(":", 1) for line in (await jail.run("cat /proc/self/status")).text.splitlines() if ":" in line
    )
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    forbidden = sum(1 << number for number in range(64) if number not in (0, 1, 3))
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) & forbidden == 0


async def test_namespaces_are_not_the_hosts(jail: Sandbox) -> None:
    kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", *(["user"] if jail.backend == "local" else [])]
    for kind in kinds:
        inside = (await jail.run(f"readlink /proc/self/ns/{kind}")).text.strip()
        assert inside.startswith(kind)
        assert inside != str(Path(f"/proc/self/ns/{kind}").readlink()), kind


async def test_without_a_user_namespace_the_rest_still_holds(jail_spec: SandboxSpec, tmp_path: Path) -> None:
    """`--unsafe`, for root on a kernel that forbids them; that kernel is played by asking for none."""
    if os.geteuid() != 0:
        pytest.skip("only root can do without a user namespace")
    provider = make_provider("local", unsafe=True, temp_folder=str(tmp_path))
    assert isinstance(provider, LocalProvider)
    provider.has_user_namespace = False
    sandbox = await provider.create(jail_spec)
    status = (await sandbox.run("grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status")).text
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert await attempt(sandbox, "c('unshare', 0x10000000)") == "EPERM"
    assert await attempt(sandbox, "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)") == "EROFS"
    assert await attempt(sandbox, "os.open('/etc/shadow', os.O_RDONLY)") == "ENOENT"
    await provider.close()
