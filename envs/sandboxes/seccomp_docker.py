"""A seccomp profile for Docker engines whose own lets a container out of a virtual machine.

The default profile of Docker before 23 allows VSOCK sockets, which have no namespace: whatever a container's network
is set to, they lead from a virtual machine to its host. Newer engines refuse them, and their own default is kept.
This one is a list of what is allowed, as theirs is, and refuses what `seccomp` refuses in a local sandbox.
"""

from __future__ import annotations

import errno
import json
from functools import cache
from typing import Any

from swegym.envs.sandboxes.seccomp import ABSENT, CLONE_NEW, PERSONALITIES, SOCKET_FAMILIES

__all__ = ["docker_profile", "docker_security_options"]

_FIRST_WITH_ERROR_NUMBERS, _FIRST_WITHOUT_VSOCK = 20, 23
"""Major versions of Docker: the first whose profiles can name an error number, the first that needs no help."""
_WORD = 0xFFFFFFFF
_ALLOWED = """
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown clock_adjtime
    clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
    exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchown fchownat fcntl
    fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatat fstatfs fsync ftruncate futex
    futex_waitv futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid
    getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid
    getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch
    inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
    ioctl ioprio_get ioprio_set kcmp kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
    lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock
    munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_getfd pidfd_open pidfd_send_signal pipe
    pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_madvise
    process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead
    readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto
    set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority
    setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range
    sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4
    waitid write writev
"""
"""Calls that Linux had when those engines were current (up to 6.1), without the refused ones and those below."""


def docker_security_options(version: dict[str, Any]) -> list[str]:
    """What a container's `security_opt` needs, by the engine's answer to `version`.

    Podman keeps its own profile as well: over this API it would take the path of a file on its machine and no text.
    """
    names = {str(part.get("Name", "")).lower() for part in version.get("Components") or []}
    major = str(version.get("Version", "")).partition(".")[0]
    needs_ours = (
        "engine" in names and major.isdigit() and _FIRST_WITH_ERROR_NUMBERS <= int(major) < _FIRST_WITHOUT_VSOCK
    )
    return ["no-new-privileges", *([f"seccomp={docker_profile()}"] if needs_ours else [])]


@cache
def docker_profile() -> str:
    """The profile in Docker's JSON. A call of another architecture (32-bit code) ends its process."""
    rules: list[dict[str, Any]] = [
        {"names": _ALLOWED.split(), "action": "SCMP_ACT_ALLOW"},
        {"names": sorted(ABSENT), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        _allow(["clone"], CLONE_NEW, 0),
        *(_allow(["personality"], _WORD, value) for value in PERSONALITIES),
        *(_allow(["socket", "socketpair"], _WORD, family) for family in SOCKET_FAMILIES),
    ]
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules})


def _allow(names: list[str], mask: int, value: int) -> dict[str, Any]:
    """Allow calls whose first argument, seen through a mask, has a value."""
    test = {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": mask, "valueTwo": value}
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": [test]}
