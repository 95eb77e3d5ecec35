"""From a device to its runner."""

from dataclasses import replace

import pytest

from nasdeploy.latency.runners.open_runner import crowding, open_runner
from nasdeploy.runtimes.device import Device
from tests.latency.tables import FINGERPRINT


@pytest.mark.parametrize(
    ("threads", "cores", "quota", "said"),
    [
        (1, 1, None, None),
        (4, 4, None, None),
        (2, 4, 2.0, None),
        (3, 2, None, "3 threads for 2 cores: they wait for each other, which threads: 2 would not"),
        (
            2,
            8,
            1.5,
            "2 threads for 8 cores, of which a quota leaves 1.5: they wait for each other, which threads: 1 would not",
        ),
        (1, 8, 0.5, "1 thread for 8 cores, of which a quota leaves 0.5: calls stand still whenever it is used up"),
    ],
)
def test_more_threads_than_cores_are_said(threads, cores, quota, said):
    device = Device(name="mine", runtime="onnxruntime", threads=threads)
    found = crowding(device, replace(FINGERPRINT, cores=cores, cpu_quota=quota))
    assert found == (said and f"device mine: {said}")


def test_opening_a_place_says_it_once():
    said = []
    with open_runner(Device(name="mine", runtime="onnxruntime", threads=1000), said.append):
        assert len(said) == 1
        assert "1000 threads" in said[0]
