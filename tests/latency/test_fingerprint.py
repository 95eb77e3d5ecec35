"""What a table was measured on."""

from dataclasses import fields, replace

import pytest

from nasdeploy.latency import machine as module
from nasdeploy.latency.machine import Fingerprint, differences
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.runtimes.device import Device, load_device
from tests.latency.tables import FINGERPRINT

INTEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor

processor\t: 1
model name\t: another
"""


def test_this_machine():
    import onnxruntime

    found = fingerprint(Device(name="x", runtime="onnxruntime", threads=2, batch=3, options={"b": "2", "a": "1"}))
    assert found.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert (found.threads, found.batch, found.precision, found.options) == (2, 3, "fp32", "a=1, b=2")
    assert found.cpu
    assert found.cores >= 1


def test_a_quota_is_part_of_it_and_tables_from_before_had_none(monkeypatch):
    monkeypatch.setattr(module, "cpu_quota", lambda: 0.5)
    found = fingerprint(load_device("cpu"))
    assert found.cpu_quota == 0.5
    assert differences(replace(found, cpu_quota=None), found) == ["cpu quota: measured with none known, here 0.5"]
    assert FINGERPRINT.cpu_quota is None


def test_the_precision_that_is_computed_in_is_said_where_it_is_not_the_devices(monkeypatch):
    half = Device(name="x", runtime="onnxruntime", precision="fp16")
    monkeypatch.setattr("nasdeploy.runtimes.onnxruntime.machine", lambda: "x86_64")
    without = fingerprint(half)
    assert without.computed_in == "fp32"
    assert fingerprint(load_device("cpu")).computed_in == ""
    # Tables of earlier versions do not say it.
    assert differences(replace(without, computed_in=""), without) == []
    monkeypatch.setattr("nasdeploy.runtimes.onnxruntime.machine", lambda: "aarch64")
    assert fingerprint(half).computed_in == ""
    assert differences(without, fingerprint(half)) == ["computed in: measured with fp32, here none known"]


def test_is_the_same_each_time():
    assert differences(fingerprint(load_device("cpu")), fingerprint(load_device("cpu"))) == []


def test_processor_and_frequency_are_read_from_the_system(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(INTEL)
    (tmp_path / "cpuinfo_max_freq").write_text("3500000\n")
    (tmp_path / "scaling_governor").write_text("powersave\n")
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(module, "_CPUFREQ", tmp_path)
    found = fingerprint(load_device("cpu"))
    assert found.cpu == "Intel(R) Xeon(R) Processor (family 6, model 143)"
    assert (found.max_frequency, found.governor) == ("3500 MHz", "powersave")


def test_what_cannot_be_read_is_left_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(module, "_CPUFREQ", tmp_path / "absent")
    found = fingerprint(load_device("cpu"))
    assert (found.max_frequency, found.governor) == ("", "")
    assert found.cpu


@pytest.mark.parametrize("field", [field.name for field in fields(Fingerprint)])
def test_every_field_counts(field):
    before = getattr(FINGERPRINT, field)
    other = replace(FINGERPRINT, **{field: 7 if isinstance(before, int) else "other"})
    now = getattr(other, field)
    known = "none known" if before in ("", None) else 0 if before == 0.0 else before
    expected = f"{field.replace('_', ' ')}: measured with {known}, here {now}"
    assert differences(FINGERPRINT, other) == [expected]
