"""Measuring on a board: a real SSH server on the loopback interface."""

import sys
import time

import pytest

from nasdeploy.latency.measure import Protocol, Rounds, Timing
from nasdeploy.latency.places.local import LocalPlace
from nasdeploy.latency.places.ssh import SshPlace
from nasdeploy.runtimes.device import Device
from tests.conformance.test_runtimes import model
from tests.latency.places.sshd import SSHD, Sshd

pytestmark = pytest.mark.skipif(SSHD is None, reason="no sshd here: apt-get install openssh-server")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("HOME", str(running.folder / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield running
    assert list(running.tmp.iterdir()) == []


HASTY = Protocol(warmup=1, discarded=0, kept=2, shortest_run_s=1e-6, retries=0)
ROUNDS = Rounds(group=3, visits=2)
MODELS = {f"m{number}": lambda number=number: model(number) for number in range(1, 8)}


def device(server, **changes):
    return Device(
        **{"name": "board", "runtime": "onnxruntime", "host": server.url, "python": sys.executable, **changes}
    )


def place(server, say=lambda text: None, **changes):
    found = device(server, **changes)
    return SshPlace(found, found.boards[0], say, waits=(0.05, 0.1, 0.2))


def measured(where, models=MODELS):
    outcomes = list(where.measure(models, ROUNDS, HASTY, on_visits=lambda visits: None))
    keys = [key for some in outcomes for key in some]
    assert len(keys) == len(set(keys))
    return {key: outcome for some in outcomes for key, outcome in some.items()}


def test_outcomes_are_timings_of_every_model_in_order(server):
    with place(server) as board:
        found = measured(board)
    assert list(found) == list(MODELS)
    assert all(isinstance(timing, Timing) and timing.n == 4 for timing in found.values())


def test_fingerprint_is_that_of_the_same_machine_measured_here(server):
    here = LocalPlace(Device(name="here", runtime="onnxruntime"))
    with place(server) as board:
        assert board.fingerprint == here.fingerprint


def test_nothing_is_left_behind(server):
    with place(server) as board:
        measured(board)
        assert len(list(server.tmp.iterdir())) == 1
    until(lambda: not server.programs())


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
