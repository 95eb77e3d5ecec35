"""SSH servers of the tests."""

import pytest

from tests.latency.runners.boards import until
from tests.latency.runners.sshd import SSHD, Sshd


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    if SSHD is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    """A server that runs; afterwards nothing may be left on it."""
    monkeypatch.setenv("HOME", str(running.folder / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield running
    until(lambda: not running.programs())
    until(lambda: not list(running.tmp.iterdir()))


@pytest.fixture
def own_server(tmp_path, monkeypatch):
    """A server of the test's own, not started yet."""
    if SSHD is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    server = Sshd(tmp_path / "sshd")
    monkeypatch.setenv("HOME", str(server.folder / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield server
    server.stop()
