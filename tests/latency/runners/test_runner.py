"""The runner that is this process: how many sessions it has open together."""

import pytest

from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners import runner as local
from nasdeploy.latency.runners.runner import LocalRunner
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from tests.latency.runners.boards import HASTY, model

CPU = Device(name="cpu", runtime="onnxruntime")


class Memory:
    """A machine's memory, of which each open session takes a part; the runtime that counts them."""

    needs_gpu = False
    # What else the runner asks a runtime for.
    computes, version = RUNTIMES["onnxruntime"].computes, RUNTIMES["onnxruntime"].version

    def __init__(self, free, of_a_session):
        self.free, self._each = free, of_a_session

    def available(self):
        return self.free

    def open(self, content, device):
        self.free -= self._each
        return Taken(self, self._each)


class Taken:
    def __init__(self, memory, size):
        self._memory, self._size = memory, size

    def call(self):
        pass

    def close(self):
        self._memory.free += self._size


def groups(monkeypatch, memory, rounds, models=7, with_reference=False):
    """The keys of each group that so many models were measured in."""
    monkeypatch.setattr(local, "runtime_of", lambda device: memory)
    monkeypatch.setattr(local, "available_memory", memory.available)
    before, reference = memory.free, (lambda: model(3)) if with_reference else None
    makers = {number: lambda: model(3) for number in range(models)}
    with LocalRunner(CPU) as runner:
        found = list(runner.measure(makers, rounds, HASTY, on_visits=lambda visits: None, reference=reference))
    assert memory.free == before
    return [list(outcomes) for outcomes in found]


@pytest.mark.parametrize(
    ("of_a_session", "expected"),
    [
        (1, [[0, 1, 2, 3, 4, 5, 6]]),
        (15, [[0, 1, 2, 3], [4, 5, 6]]),
        (60, [[0, 1], [2, 3], [4, 5], [6]]),
    ],
)
def test_more_are_open_together_while_half_of_the_memory_is_left(monkeypatch, of_a_session, expected):
    rounds = Rounds(group=2, visits=1, group_with_room=9)
    assert groups(monkeypatch, Memory(100, of_a_session), rounds) == expected


def test_the_reference_is_one_of_a_group_that_has_room(monkeypatch):
    rounds = Rounds(group=2, visits=1, group_with_room=4)
    assert groups(monkeypatch, Memory(100, 1), rounds, with_reference=True) == [[0, 1, 2], [3, 4, 5], [6]]
    assert groups(monkeypatch, Memory(100, 90), rounds, models=2, with_reference=True) == [[0], [1]]


def test_what_lies_in_a_gpus_memory_does_not_go_by_the_machines(monkeypatch):
    memory = Memory(100, 1)
    memory.needs_gpu = True
    assert groups(monkeypatch, memory, Rounds(2, 1, group_with_room=9), models=5) == [[0, 1], [2, 3], [4]]


def test_every_network_of_a_table_may_be_open_together():
    protocol = MeasurementProtocol()
    number = protocol.calibration_networks + protocol.held_out_networks
    assert protocol.networks.group_with_room == number + 1
