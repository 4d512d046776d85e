"""
A process whose every change of the disk is a place where it can be killed or be told that the disk failed: real system
calls of whatever library makes them, watched by ptrace. Linux on x86-64 only.
"""

import ctypes
import errno
import gc
import os
import platform
import signal
import struct
import unittest
from collections.abc import Callable
from dataclasses import dataclass

CALLS = {
    1: "write", 18: "pwrite", 20: "writev", 40: "sendfile", 326: "copy_file_range", 77: "ftruncate", 285: "fallocate",
    2: "open", 257: "open", 85: "open", 74: "fsync", 75: "fsync", 82: "rename", 264: "rename", 316: "rename",
    87: "unlink", 263: "unlink", 84: "rmdir", 83: "mkdir", 258: "mkdir", 86: "link", 265: "link",
    90: "chmod", 91: "chmod", 268: "chmod",
}  # fmt: skip
BY_HANDLE = {"write", "pwrite", "writev", "sendfile", "copy_file_range", "ftruncate", "fallocate", "fsync"}
ALLOCATING = {"write", "pwrite", "writev", "sendfile", "copy_file_range", "fallocate", "open", "mkdir", "link"}
"""The calls that fail on a full disk. Renaming and deleting work there."""

_libc = ctypes.CDLL(None, use_errno=True)
_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 12, 13, 0x4200
_EXITKILL_AND_SECCOMP, _SECCOMP_STOP = 0x100000 | 0x80, 7


class _Registers(ctypes.Structure):
    _NAMES = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base"
    _fields_ = [(name, ctypes.c_ulonglong) for name in (*_NAMES.split(), "ds", "es", "fs", "gs")]


@dataclass(frozen=True)
class Plan:
    """
    What happens to a process.

    Attributes:
        at: the number of the call, from 0, at which; None for nothing.
        kill: "before" the call, "after" it, or "half" way through it, if it writes.
        error: the number of the error that the call fails with; nothing is done then.
        lasts: whether all further calls fail as well: "allocating" ones, "all", or "" for none.
    """

    at: int | None = None
    kill: str = ""
    error: int = 0
    lasts: str = ""


def watch_from_here() -> None:
    """In the traced process: every call of `CALLS` from now on is a stop."""
    allow, trace, load, jump = 0x7FFF0000, 0x7FF00000, 0x20, 0x15
    numbers = sorted(CALLS)
    program = [(load, 0, 0, 0)]
    program += [(jump, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(0x06, 0, 0, allow), (0x06, 0, 0, trace)]
    packed = b"".join(struct.pack("HBBI", *one) for one in program)
    code = ctypes.create_string_buffer(packed, len(packed))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    if _libc.prctl(38, 1, 0, 0, 0) or _libc.prctl(22, 2, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def traced(work: Callable[[], int], plan: Plan) -> tuple[int, list[str]]:
    """
    Does it in a forked process, which calls `watch_from_here` when it is about to write: (its status, below 0 for the
    signal that killed it; the calls that it made).
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise unittest.SkipTest("system calls are watched on Linux on x86-64 only")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            gc.disable()  # what earlier work of this process left would be closed at any moment, with calls of its own
            _libc.ptrace(_TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            status = work()
        finally:
            os._exit(status)
    os.waitpid(pid, 0)
    _libc.ptrace(_SETOPTIONS, pid, 0, _EXITKILL_AND_SECCOMP)
    calls: list[str] = []
    registers, deliver, due = _Registers(), 0, False
    while True:
        _libc.ptrace(_CONT, pid, 0, ctypes.c_void_p(deliver))
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status), calls
        deliver = 0
        if status >> 16 != _SECCOMP_STOP:
            deliver = os.WSTOPSIG(status)
            continue
        if due:  # the call before is done
            os.kill(pid, signal.SIGKILL)
            continue
        _libc.ptrace(_GETREGS, pid, 0, ctypes.byref(registers))
        name = CALLS[registers.orig_rax]
        if not _changes_files(pid, name, registers):
            continue
        number = len(calls)
        calls.append(name)
        due = _act(pid, registers, name, number, plan)


def _changes_files(pid: int, name: str, registers: _Registers) -> bool:
    """Whether a call changes named files: not pipes, nor what a test runner keeps of a process's messages."""
    if name == "open":
        flags = {2: registers.rsi, 257: registers.rdx, 85: os.O_CREAT}[registers.orig_rax]
        return bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))
    if name not in BY_HANDLE:
        return True
    try:
        path = os.readlink(f"/proc/{pid}/fd/{registers.rdi}")
    except OSError:  # no file of the process
        return False
    return registers.rdi > 2 and path.startswith("/") and not path.startswith("/dev/") and "(deleted)" not in path


def _act(pid: int, registers: _Registers, name: str, number: int, plan: Plan) -> bool:
    """Does what the plan says of this call; whether the process is to be killed when the call is done."""
    if plan.at is None or number < plan.at:
        return False
    if plan.kill:
        if plan.kill == "before":
            os.kill(pid, signal.SIGKILL)
            return False
        if plan.kill == "half" and name in ("write", "pwrite"):
            registers.rdx //= 2
            _libc.ptrace(_SETREGS, pid, 0, ctypes.byref(registers))
        return True
    lasts = plan.lasts == "all" or (plan.lasts == "allocating" and name in ALLOCATING)
    if number == plan.at or lasts:
        registers.orig_rax = 2**64 - 1
        registers.rax = 2**64 - plan.error
        _libc.ptrace(_SETREGS, pid, 0, ctypes.byref(registers))
    return False


ERRORS = {"disk full": errno.ENOSPC, "quota": errno.EDQUOT, "read-only": errno.EROFS, "not permitted": errno.EACCES}
