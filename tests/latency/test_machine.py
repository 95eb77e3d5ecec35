"""What /sys and /proc say, laid out in a folder as the kernel lays it out."""

import pytest

from nasdeploy.latency.machine import SensorReading, read_sensors


@pytest.fixture
def write(tmp_path):
    def written(name, text):
        path = tmp_path / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    return written


def test_a_machine_that_tells_nothing(tmp_path):
    assert read_sensors(tmp_path) == SensorReading(0, False, 0)


def test_counters_are_added_up(tmp_path, write):
    for cpu, (core, package) in enumerate([(1, 10), (2, 10)]):
        write(f"devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count", core)
        write(f"devices/system/cpu/cpu{cpu}/thermal_throttle/package_throttle_count", package)
    assert read_sensors(tmp_path) == SensorReading(throttles=23, capped=False)


@pytest.mark.parametrize(
    ("kind", "state", "capped"),
    [("Processor", 2, True), ("cpufreq-cpu0", 1, True), ("thermal-cpufreq-0", 0, False), ("pwm-fan", 3, False)],
)
def test_a_processor_kept_slow_because_it_is_hot(tmp_path, write, kind, state, capped):
    write("class/thermal/cooling_device0/type", kind)
    write("class/thermal/cooling_device0/cur_state", state)
    assert read_sensors(tmp_path).capped == capped


def test_text_where_a_number_belongs_is_left_out(tmp_path, write):
    write("devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "<unknown>")
    assert read_sensors(tmp_path).throttles == 0


def test_periods_that_a_quota_ended_are_counted(tmp_path, write):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("26 23 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    write("fs/cgroup/cpu.stat", "usage_usec 9\nnr_periods 40\nnr_throttled 12\nthrottled_usec 5")
    assert read_sensors(tmp_path) == SensorReading(stops=12)


def test_this_machine_can_be_read():
    assert read_sensors().throttles >= 0
