"""How an escape is tried: a Python statement inside, and what the kernel says to it.

Asking for the error's name keeps a test from passing because a program was missing or a word misspelt.
"""

from __future__ import annotations

import textwrap

from swegym.core.sandbox import Sandbox

__all__ = ["answer", "attempt"]

_PRELUDE = """
import ctypes, errno, fcntl, os, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def c(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


async def answer(sandbox: Sandbox, script: str, *, timeout_s: float = 60.0) -> str:
    """What a Python script prints; `call`, `c` and the usual modules are there. It must end well."""
    await sandbox.write_file("/tmp/attack.py", (_PRELUDE + textwrap.dedent(script)).encode())
    result = await sandbox.run("python3 /tmp/attack.py", timeout_s=timeout_s)
    assert result.exit_code == 0, result.text
    return result.text.strip()


async def attempt(sandbox: Sandbox, statement: str) -> str:
    """Name of the error that a statement meets, such as EPERM; "done" when it meets none."""
    body = textwrap.indent(textwrap.dedent(statement).strip(), "    ")
    tail = "except OSError as error:\n    print(errno.errorcode[error.errno])\nelse:\n    print('done')\n"
    return await answer(sandbox, f"try:\n{body}\n{tail}")
