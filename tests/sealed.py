"""A process that the kernel kills when it opens a socket or starts another: what libraries do besides is seen by that.

`GUARD` is code that a program runs once it has imported what it needs; elsewhere than on Linux on x86-64 it is empty.
"""

import platform
import sys

GUARDED = sys.platform == "linux" and platform.machine() == "x86_64"
# A filter of system calls, in the kernel's form: the architecture is x86-64, then each call's number; 1 kills.
_FILTER = """
import ctypes, struct
def statement(code, yes, no, value): return struct.pack("HBBI", code, yes, no, value)
calls = (41, 42, 56 + 1, 58, 59, 322)  # socket, connect, fork, vfork, execve, execveat
lines = [statement(0x20, 0, 0, 0)]
lines += [statement(0x15, len(calls) - place, 0, call) for place, call in enumerate(calls)]
lines += [statement(0x06, 0, 0, 0x7FFF0000), statement(0x06, 0, 0, 0x80000000)]
code = ctypes.create_string_buffer(b"".join(lines))
program = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
"""
GUARD = _FILTER if GUARDED else ""
