"""The filter of system calls notices what it is for."""

import subprocess
import sys

import pytest

from tests.sealed import GUARD, GUARDED


@pytest.mark.skipif(not GUARDED, reason="the filter is for x86-64")
@pytest.mark.parametrize("breach", ["import socket; socket.socket()", "import subprocess; subprocess.run(['true'])"])
def test_the_filter_would_notice(breach: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"{GUARD}\n{breach}"], capture_output=True, check=False)
    assert done.returncode == -31
