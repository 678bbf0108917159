"""Files go in and come out byte for byte."""

from __future__ import annotations

import random

import pytest

from swegym.core.errors import SandboxError
from swegym.core.sandbox import Sandbox, SandboxProvider, SandboxSpec


@pytest.mark.parametrize("size", [0, 1, 4095, 65_537, 3_000_000])
async def test_round_trip(sandbox: Sandbox, size: int) -> None:
    data = random.Random(size).randbytes(size)
    await sandbox.write_file("/tmp/a file", data)
    assert await sandbox.read_file("/tmp/a file") == data
    assert (await sandbox.run("wc -c <'/tmp/a file'")).text == f"{size}\n"


@pytest.mark.parametrize("data", [b"x", b"x\r\ny\r\n", b"\0\0\xff\xfe", "\ufeffé\u2028\n".encode(), b"\x1e" * 70_000])
async def test_awkward_content(sandbox: Sandbox, data: bytes) -> None:
    await sandbox.write_file("file", data)
    assert await sandbox.read_file("file") == data


@pytest.mark.parametrize(
    "name", ["new\nline", "grüße 日本 🐍", "-n", "$(touch x)`y`'\"", " lead ", "a/b/c/d", "*", "~"]
)
async def test_names(sandbox: Sandbox, name: str) -> None:
    await sandbox.write_file(f"/testbed/names/{name}", b"content")
    assert await sandbox.read_file(f"/testbed/names/{name}") == b"content"
    assert (await sandbox.run("find names -type f | wc -l")).text.strip() != "0"


async def test_relative_paths_start_at_the_working_directory(sandbox: Sandbox) -> None:
    await sandbox.run("cd package")
    assert await sandbox.read_file("module.py") == b"def double(x):\n    return 2 * x\n"
    await sandbox.write_file("other.py", b"1\n")
    assert (await sandbox.run("cat /testbed/package/other.py")).text == "1\n"


async def test_modes(sandbox: Sandbox) -> None:
    await sandbox.write_file("new", b"")
    await sandbox.write_file("new_script", b"#!/bin/sh\necho hi\n", mode=0o755)
    await sandbox.write_file("private", b"", mode=0o600)
    await sandbox.write_file("run.sh", b"#!/bin/sh\necho changed\n")  # an existing file keeps its mode
    result = await sandbox.run("stat -c %a new new_script private run.sh; ./run.sh; ./new_script")
    assert result.text == "644\n755\n600\n755\nchanged\nhi\n"


async def test_writing_through_a_link_keeps_it(sandbox: Sandbox) -> None:
    await sandbox.write_file("link", b"changed\n")
    assert (await sandbox.run("readlink link; cat package/module.py")).text == "package/module.py\nchanged\n"


async def test_what_cannot_be_read(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        await sandbox.read_file("/testbed/nothing")
    for path in ("/testbed", "/dev/zero", "/dev/stdin"):
        with pytest.raises(SandboxError, match="not a regular file"):
            await sandbox.read_file(path)
    await sandbox.run("mkfifo fifo; ln -s loop loop")
    with pytest.raises(SandboxError, match="not a regular file"):
        await sandbox.read_file("fifo")
    with pytest.raises(FileNotFoundError):
        await sandbox.read_file("loop")
    for path in ("", "a\0b"):
        with pytest.raises(SandboxError, match="not a path"):
            await sandbox.read_file(path)
    assert (await sandbox.run("echo fine")).text == "fine\n"


@pytest.mark.parametrize("path", ["/testbed", "/proc/version", "/testbed/run.sh/below", "/testbed/" + "x" * 300])
async def test_what_cannot_be_written(sandbox: Sandbox, path: str) -> None:
    with pytest.raises(SandboxError, match="cannot write"):
        await sandbox.write_file(path, b"echo not a command\n" * 10_000)
    assert (await sandbox.run("echo fine")).text == "fine\n"


async def test_full_disk(provider: SandboxProvider, spec: SandboxSpec) -> None:
    limits = spec.limits.model_copy(update={"disk_bytes": 2**20})
    sandbox = await provider.create(spec.model_copy(update={"limits": limits}))
    with pytest.raises(SandboxError, match="cannot write"):
        await sandbox.write_file("big", random.Random(5).randbytes(3_000_000))
    assert (await sandbox.run("echo fine")).text == "fine\n"


async def test_a_noisy_background_job_does_not_get_into_files(sandbox: Sandbox) -> None:
    await sandbox.run("(while :; do echo noise; echo noise >&2; done) & true")
    data = random.Random(7).randbytes(300_000)
    await sandbox.write_file("file", data)
    assert await sandbox.read_file("file") == data
    await sandbox.run("kill %1")


async def test_special_files_of_proc(sandbox: Sandbox) -> None:
    assert b"processor" in await sandbox.read_file("/proc/cpuinfo")
