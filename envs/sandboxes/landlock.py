"""What a local sandbox on the host's network still must not reach: the host's abstract Unix sockets.

They belong to the network namespace and have neither owner nor mode; some daemons trust whoever is root there. Landlock
(Linux 6.12, version 6 of its interface) closes them to a process and all that descends from it.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["closes_abstract_sockets", "without_abstract_sockets"]

_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # on every architecture
_FIRST_WITH_SCOPES = 6
# struct landlock_ruleset_attr: u64 handled_access_fs, handled_access_net, scoped; 1 is ..._SCOPE_ABSTRACT_UNIX_SOCKET.
# A failure ends the sandbox: it must not run unprotected.
_SCRIPT = f"""
import ctypes, os, sys
kernel = ctypes.CDLL(None, use_errno=True)
kernel.syscall.restype = ctypes.c_long
attributes = (ctypes.c_uint64 * 3)(0, 0, 1)
rules = kernel.syscall(ctypes.c_long({_CREATE_RULESET}), attributes, ctypes.c_size_t(24), ctypes.c_long(0))
if rules < 0 or kernel.syscall(ctypes.c_long({_RESTRICT_SELF}), ctypes.c_long(rules), ctypes.c_long(0)) < 0:
    sys.exit("Landlock refuses: " + os.strerror(ctypes.get_errno()))
os.close(rules)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@cache
def closes_abstract_sockets() -> bool:
    """Whether this kernel can."""
    kernel = ctypes.CDLL(None, use_errno=True)
    kernel.syscall.restype = ctypes.c_long
    version: int = kernel.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_long(1))
    return version >= _FIRST_WITH_SCOPES


def without_abstract_sockets(command: list[str]) -> list[str]:
    """A command that restricts itself and becomes the given one. It needs this interpreter's prefix to be visible."""
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return [python, "-I", "-S", "-c", _SCRIPT, *command]
