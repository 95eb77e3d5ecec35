"""A process that a control group stops for nine tenths of the time."""

import json
import sys

import pytest

from tests.quota import NoQuota, quota_of, run_in

pytestmark = pytest.mark.latency

_CODE = """
import json, time
from dataclasses import asdict
from nasdeploy.latency.machine import fingerprint_here
from nasdeploy.latency.measure import measure
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.runtimes.runtime import LocalTarget

class Busy:
    calls = 0
    def call(self):
        Busy.calls += 1
        end = time.thread_time() + 1e-3
        while time.thread_time() < end: pass
    def close(self): pass

protocol = MeasurementProtocol(networks=Rounds(1, 20), shortest_group_s=0, sustained_s=3.0)
(found,) = measure({"busy": Busy}, protocol.networks, protocol)
start, before = time.perf_counter(), Busy.calls
while time.perf_counter() - start < 3: Busy().call()
done = (Busy.calls - before) / (time.perf_counter() - start)
print(json.dumps({**asdict(found["busy"]), "done": done, **asdict(fingerprint_here(LocalTarget("x", "y"), ""))}))
"""


def test_a_tenth_of_a_processor_is_told_flagged_and_what_throughput_is_of():
    try:
        with quota_of(0.1) as group:
            done = run_in(group, [sys.executable, "-c", _CODE])
    except NoQuota as reason:
        pytest.skip(f"no group with a quota can be made here: {reason}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["cpu_quota"] == 0.1
    assert found["noise"] == "quota"
    throughput = found["throughput"]["calls"] / found["throughput"]["seconds"]
    assert throughput == pytest.approx(found["done"], rel=0.1)
    # Most calls are stopped by nothing, and one over their median is far from what is done.
    assert 1 / found["median"] > 3 * throughput
