"""The system call filter of a local sandbox: a classic BPF program that bubblewrap installs (`--seccomp FD`).

It refuses what Docker's default profile refuses a process without capabilities (mounting, namespaces, keyrings, BPF,
io_uring, kernel modules, clocks), and what is newer than the newest call known here. Only names are looked at, and
numbers in registers; a filter cannot follow a pointer. The kernel's answer for calls that pass is cached per call
number, so the length of the program costs nothing.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

__all__ = ["ABSENT", "CLONE_NEW", "DENIED", "MACHINES", "PERSONALITIES", "SOCKET_FAMILIES", "TERMINAL_COMMANDS"]
__all__ += ["Machine", "seccomp_problem", "seccomp_program", "write_filter"]

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6], little-endian on both machines.
_NR, _ARCH = 0, 4
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000

CLONE_NEW = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET. `clone` cannot make a time namespace."""
TERMINAL_COMMANDS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX type into a terminal. The kernel ignores the upper half of the number, and so must a filter."""
SOCKET_FAMILIES = (1, 2, 10, 16)
"""UNIX, INET, INET6 and NETLINK. Others are little used kernel code, and VSOCK, without a namespace, leads outside."""
PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

DENIED: dict[str, tuple[int | None, int | None]] = {
    # Numbers on x86_64 and aarch64, None where there is no such call. All of them give EPERM.
    # Mounts and file handles
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    # Namespaces
    "setns": (308, 268),
    "unshare": (272, 97),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    # Kernel interfaces with a long record of holes
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "modify_ldt": (154, None),
    # Keyrings have no namespace of their own
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # The machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "create_module": (174, None),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "get_kernel_syms": (177, None),
    "query_module": (178, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "iopl": (172, None),
    "ioperm": (173, None),
    "lookup_dcookie": (212, 18),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
    # Placement of memory
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "get_mempolicy": (239, 236),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "set_mempolicy_home_node": (450, 450),
}
ABSENT: dict[str, tuple[int | None, int | None]] = {"clone3": (435, 435)}
"""Calls that give ENOSYS. The flags of clone3 lie behind a pointer; C libraries fall back to clone."""
_NEWEST = 469
"""file_setattr of Linux 6.17. A later call gives ENOSYS, which programs know from older kernels."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between processor architectures."""

    audit_arch: int
    column: int
    """Place in the tables above."""
    clone: int
    ioctl: int
    personality: int
    socket: int
    socketpair: int


MACHINES = {
    "x86_64": Machine(0xC000003E, 0, clone=56, ioctl=16, personality=135, socket=41, socketpair=53),
    "aarch64": Machine(0xC00000B7, 1, clone=220, ioctl=29, personality=92, socket=198, socketpair=199),
}


def seccomp_problem() -> str | None:
    """Why no filter can be had here, or None."""
    if platform.machine() not in MACHINES:
        return f"no system call filter is written for {platform.machine()!r} (there is one for {', '.join(MACHINES)})"
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123 (a special file)
            known = any(line.startswith("Seccomp:") for line in status)
    except OSError as error:
        return f"/proc/self/status cannot be read ({error})"
    return None if known else "the kernel has no seccomp (CONFIG_SECCOMP_FILTER)"


@cache
def seccomp_program(machine_name: str | None = None) -> bytes:
    """The filter: an array of `struct sock_filter` (u16 code, u8 jump if true, u8 jump if false, u32 value).

    Args:
        machine_name: key of MACHINES; this machine's by default.

    Raises:
        KeyError: no filter is written for this machine.
    """
    machine = MACHINES[machine_name or platform.machine()]
    program = [
        _statement(_LOAD, _ARCH),
        # Numbers of another architecture's calls (32-bit code) mean something else: none of the tests below would hold.
        _jump(_JUMP_EQUAL, machine.audit_arch, 1, 0),
        _statement(_RETURN, _KILL_PROCESS),
        _statement(_LOAD, _NR),
        # With what is too new go the numbers of x32, which are ours with bit 30 set.
        *_answer_if(_JUMP_AT_LEAST, _NEWEST + 1, errno.ENOSYS),
    ]
    for table, code in ((DENIED, errno.EPERM), (ABSENT, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[machine.column]
            if number is not None:
                program += _answer_if(_JUMP_EQUAL, number, code)
    program += _argument(machine.clone, 0, [*_answer_if(_JUMP_ANY_BIT, CLONE_NEW, errno.EPERM)])
    commands = [part for command in TERMINAL_COMMANDS for part in _answer_if(_JUMP_EQUAL, command, errno.EPERM)]
    program += _argument(machine.ioctl, 1, commands)
    program += _argument(machine.personality, 0, _only(PERSONALITIES, errno.EPERM))
    for number in (machine.socket, machine.socketpair):
        program += _argument(number, 0, _only(SOCKET_FAMILIES, errno.EAFNOSUPPORT))
    return b"".join([*program, _statement(_RETURN, _ALLOW)])


def write_filter() -> int:
    """A new descriptor, to be closed by the caller, from which bubblewrap reads this machine's filter to its end."""
    descriptor = os.memfd_create("swegym-seccomp")
    program = seccomp_program()
    os.pwrite(descriptor, program, 0)  # leaves the position at the start
    return descriptor


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _answer_if(code: int, value: int, number: int) -> list[bytes]:
    """End with an error number if the loaded word compares so, else go on."""
    return [_jump(code, value, 0, 1), _statement(_RETURN, _ERRNO | number)]


def _argument(number: int, index: int, tests: list[bytes]) -> list[bytes]:
    """Run tests on the lower half of one argument of one call; a call that passes them is allowed."""
    body = [_statement(_LOAD, 16 + 8 * index), *tests, _statement(_RETURN, _ALLOW)]
    return [_jump(_JUMP_EQUAL, number, 0, len(body)), *body]


def _only(values: Iterable[int], number: int) -> list[bytes]:
    """End with an error number unless the loaded word is one of the values."""
    allowed = [part for value in values for part in (_jump(_JUMP_EQUAL, value, 0, 1), _statement(_RETURN, _ALLOW))]
    return [*allowed, _statement(_RETURN, _ERRNO | number)]
