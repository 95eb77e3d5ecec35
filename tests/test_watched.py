"""Attempts at a network are noticed, whoever makes them, and none succeeds."""

import sys
from pathlib import Path

import pytest

from tests.watched import lacking, run_watched

pytestmark = pytest.mark.skipif(lacking() is not None, reason=str(lacking()))

_PYTHON = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 80)))"
_NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
address = b"\\x02\\x00\\x00\\x50\\xc0\\x00\\x02\\x01" + bytes(8)
print(libc.connect(libc.socket(2, 1, 0), address, 16))
"""
_DATAGRAM = """
import socket
try:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b"x", ("2001:db8::1", 53))
except OSError:
    print("unreachable")
"""
_NAME = """
import socket
try:
    socket.getaddrinfo("example.com", 80)
except OSError:
    print("unknown")
"""
# As a library does that reports its use: whoever started it hears nothing of how it ends.
_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_PYTHON!r}], stdout=subprocess.DEVNULL)"
_LOCAL = "import socket; a, b = socket.socketpair(); a.sendall(b'x'); print(b.recv(1).decode())"


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (_PYTHON, "101", ["connect 192.0.2.1"]),  # ENETUNREACH
        (_NATIVE, "-1", ["connect 192.0.2.1"]),
        (_DATAGRAM, "unreachable", ["sendto 2001:db8::1"]),
        (_NAME, "unknown", ["getaddrinfo example.com"]),
        (_CHILD, "", ["connect 192.0.2.1"]),
        (_LOCAL, "x", []),
    ],
)
def test_what_is_tried_is_written_down(tmp_path: Path, code: str, said: str, expected: list[str]) -> None:
    attempts = tmp_path / "attempts"
    done = run_watched([sys.executable, "-c", code], tmp_path, attempts)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, said, "")
    assert attempts.read_text().splitlines() == expected
