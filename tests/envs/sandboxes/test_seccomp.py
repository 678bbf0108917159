"""The filter's program, run call by call as the kernel would: also for the machine that this one is not."""

from __future__ import annotations

import errno
import json
import re
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swegym.envs.sandboxes.seccomp import ABSENT, DENIED, MACHINES, PERSONALITIES, SOCKET_FAMILIES, seccomp_program
from swegym.envs.sandboxes.seccomp_docker import docker_profile, docker_security_options

ALLOW, KILL = 0x7FFF0000, 0x80000000


def run(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the program answers: an error number, 0 for allowed, KILL."""
    padded = [*arguments, *[0] * 6][:6]
    data = struct.pack("<IIQ6Q", number, MACHINES[machine].audit_arch if arch is None else arch, 0, *padded)
    program = [*struct.iter_unpack("<HBBI", seccomp_program(machine))]
    at, word = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        match code:
            case 0x20:
                (word,) = struct.unpack_from("<I", data, value)
            case 0x15:
                at += if_true if word == value else if_false
            case 0x35:
                at += if_true if word >= value else if_false
            case 0x45:
                at += if_true if word & value else if_false
            case 0x06:
                return 0 if value == ALLOW else value & 0xFFFF if value & 0xFFFF0000 == 0x50000 else value
            case _:
                raise AssertionError(f"instruction {code:#x} at {at}")


def denied(machine: str) -> dict[int, int]:
    column = MACHINES[machine].column
    codes = {pair[column]: errno.EPERM for pair in DENIED.values()}
    codes |= {pair[column]: errno.ENOSYS for pair in ABSENT.values()}
    return {number: code for number, code in codes.items() if number is not None}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number(machine: str) -> None:
    wanted = denied(machine)
    special = {MACHINES[machine].personality, MACHINES[machine].socket, MACHINES[machine].socketpair}
    for number in [*range(470), 470, 1000, 0x40000000, 0x40000000 + 39, 0xFFFFFFFF]:
        if number not in special:
            assert run(machine, number) == wanted.get(number, errno.ENOSYS if number >= 470 else 0), number


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 469), arch=st.integers(0, 2**32 - 1))
def test_another_architecture_dies(machine: str, number: int, arch: int) -> None:
    if arch != MACHINES[machine].audit_arch:
        assert run(machine, number, arch=arch) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@given(low=st.integers(0, 2**32 - 1), high=st.sampled_from([0, 1, 2**31]))
def test_arguments(machine: str, low: int, high: int) -> None:
    """The kernel takes the lower 32 bits of these, so the upper ones may not change the answer."""
    value, calls = high << 32 | low, MACHINES[machine]
    new_namespace = any(low >> bit & 1 for bit in (17, 25, 26, 27, 28, 29, 30))
    assert run(machine, calls.clone, value) == (errno.EPERM if new_namespace else 0)
    assert run(machine, calls.ioctl, 3, value) == (errno.EPERM if low in (0x5412, 0x541C) else 0)
    assert run(machine, calls.personality, value) == (0 if low in PERSONALITIES else errno.EPERM)
    for number in (calls.socket, calls.socketpair):
        assert run(machine, number, value) == (0 if low in SOCKET_FAMILIES else errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("high", [0, 2**32])
def test_arguments_that_matter(machine: str, high: int) -> None:
    calls = MACHINES[machine]
    assert run(machine, calls.ioctl, 0, high | 0x5412) == errno.EPERM
    assert run(machine, calls.ioctl, 0, high | 0x5413) == 0
    assert run(machine, calls.socket, high | 1) == 0
    assert run(machine, calls.socket, high | 40) == errno.EAFNOSUPPORT
    assert run(machine, calls.personality, high | 0xFFFFFFFF) == 0
    assert run(machine, calls.clone, high | 0x3D0F00) == 0  # a thread of glibc
    assert run(machine, calls.clone, high | 0x10000011) == errno.EPERM


@pytest.mark.parametrize(
    ("machine", "header", "pattern"),
    [
        ("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"#define __NR_(\w+)\s+(\d+)"),
        ("aarch64", "/usr/include/asm-generic/unistd.h", r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
    ],
)
def test_numbers_are_the_kernels(machine: str, header: str, pattern: str) -> None:
    if not Path(header).exists():
        pytest.skip("no kernel headers here")
    known = {name: int(number) for name, number in re.findall(pattern, Path(header).read_text())}
    ours = {name: pair[MACHINES[machine].column] for name, pair in (DENIED | ABSENT).items()}
    ours |= {
        name: getattr(MACHINES[machine], name) for name in ("clone", "ioctl", "personality", "socket", "socketpair")
    }
    assert len(ours.keys() & known.keys()) > 50
    assert {name: number for name, number in ours.items() if known.get(name, number) != number} == {}


def test_profile_for_old_engines() -> None:
    """It allows nothing that the filter refuses, and ordinary calls."""
    profile = json.loads(docker_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    always = {name for rule in profile["syscalls"] if "args" not in rule for name in rule["names"]}
    assert always & DENIED.keys() == set()
    assert always >= {"read", "openat", "execve", "futex", "ptrace", "clone3", "ioctl"}
    assert {rule["errnoRet"] for rule in profile["syscalls"] if "clone3" in rule["names"]} == {errno.ENOSYS}
    assert always & {"clone", "socket", "socketpair", "personality"} == set()
    families = [rule["args"][0]["valueTwo"] for rule in profile["syscalls"] if "socket" in rule["names"]]
    assert families == [*SOCKET_FAMILIES]


@pytest.mark.parametrize(
    ("component", "version", "is_ours"),
    [
        ("Engine", "20.10.24+dfsg1", True),
        ("Engine", "19.03.1", False),
        ("Engine", "23.0.0", False),
        ("Engine", "28.2.2", False),
        ("Engine", "", False),
        ("Podman Engine", "4.3.1", False),
    ],
)
def test_which_engines_get_the_profile(component: str, version: str, is_ours: bool) -> None:
    options = docker_security_options({"Components": [{"Name": component}], "Version": version})
    assert options[0] == "no-new-privileges"
    assert (len(options) == 2) is is_ours
    assert docker_security_options({}) == ["no-new-privileges"]
