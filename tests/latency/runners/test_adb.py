"""Measuring on a phone: an `adb` whose phone is a directory of this machine."""

from pathlib import Path

import pytest

from nasdeploy.blocks.heads import Stem
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.profile import block_models
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.adb import AdbRunner
from nasdeploy.latency.runners.open_runner import RunnerPool, open_runner
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.workflows.models import bench
from tests.latency.runners.boards import HASTY, measured
from tests.latency.runners.fake_adb import FakePhones, in_path

ROUNDS = Rounds(group=4, visits=2)
MODELS = {f"m{number}": lambda number=number: b"takes %d" % (1000 * number) for number in (1, 2, 3, 4, 5)}


@pytest.fixture
def phone(tmp_path, monkeypatch):
    made = FakePhones(tmp_path)
    monkeypatch.setenv("PATH", in_path(tmp_path))
    yield made
    assert made.left() == []


def device(phone, **changes):
    facts = {"name": "phone", "runtime": "litert", "host": "adb:phone-1", "benchmark": str(phone.program)}
    return Device(**{**facts, **changes})


def runner(phone, say=lambda text: None, waits=(0.01, 0.02), **changes):
    found = device(phone, **changes)
    return AdbRunner(found, found.boards[0], say, waits)


def test_outcomes_are_timings_of_every_model_in_interleaved_visits(phone):
    visits = []
    with runner(phone) as there:
        found = measured(there, MODELS, ROUNDS, on_visits=visits.append)
    assert list(found) == list(MODELS)
    for number, timing in enumerate(found.values(), start=1):
        assert isinstance(timing, Timing) and timing.n == 2
        assert timing.median == timing.p90 == pytest.approx(number / 1e3)
    assert sum(visits) == 2 * len(MODELS)
    first = [f"model-{number}.tflite" for number in range(4)]
    assert phone.visits == first * 2 + ["model-0.tflite"] * 2
    assert "--num_threads=1 --warmup_runs=1 --warmup_min_secs=0 --num_runs=2 --min_secs=2e-06" in phone.commands[-3]


def test_each_visit_of_the_reference_graph_counts(phone):
    with runner(phone) as there:
        (found,) = there.measure(
            {"m1": MODELS["m1"]}, Rounds(4, 3), HASTY, on_visits=lambda made: None, reference=lambda: b"takes 2000"
        )
    assert phone.visits == ["reference.tflite", "model-0.tflite"] * 3
    assert found["m1"].reference == pytest.approx(2e-3)


def test_a_reference_that_is_refused_tells_nothing(phone):
    with runner(phone) as there:
        (found,) = there.measure(
            {"m1": MODELS["m1"]}, Rounds(4, 1), HASTY, on_visits=lambda made: None, reference=lambda: b"refused"
        )
    assert found["m1"].reference is None


def test_models_that_cannot_run_do_not_stop_the_others(phone):
    models = {"m1": MODELS["m1"], "crash": lambda: b"crash", "refused": lambda: b"refused"}
    with runner(phone) as there:
        found = measured(there, models, ROUNDS)
        again = measured(there, {"crash": lambda: b"crash"}, ROUNDS)
    assert isinstance(found["m1"], Timing)
    assert found["crash"] == again["crash"] == Refusal("benchmark_model cannot run it (it was killed by signal 11)")
    assert found["refused"] == Refusal(
        "benchmark_model cannot run it (it ended with status 1: ERROR: Benchmarking failed.)"
    )


def test_networks_are_measured_after_gaps_and_for_throughput(phone):
    protocol = MeasurementProtocol(warmup=1, kept=2, shortest_group_s=0, sustained_s=0.05)
    with runner(phone) as there:
        found = measured(there, {"m1": MODELS["m1"]}, Rounds(1, 2, idle_s=0.01), protocol)["m1"]
    assert found.throughput.calls == 50
    assert found.throughput.seconds == pytest.approx(0.05)
    assert "--num_runs=2 --min_secs=0 --max_secs=150 --run_delay=0.01" in "\n".join(phone.commands)


def test_a_group_of_few_fast_models_is_visited_for_longer(phone):
    protocol = MeasurementProtocol(warmup=1, kept=2, shortest_group_s=0.12)
    with runner(phone) as there:
        measured(there, {"m1": MODELS["m1"], "m2": MODELS["m2"]}, Rounds(2, 2), protocol)
    assert "--min_secs=0.03 " in phone.commands[-3]


def test_what_a_phone_is(phone):
    with runner(phone, threads=2, options={"use_gpu": "true", "taskset": "1"}) as there:
        machine = there.fingerprint
        measured(there, {"m1": MODELS["m1"]}, Rounds(1, 1))
    assert machine.system == "Android 15"
    assert machine.cores >= 1 and machine.memory.endswith(" GiB")
    assert machine.runtime.startswith("litert benchmark_model ")
    assert (machine.threads, machine.options) == (2, "taskset=1, use_gpu=true")
    command = phone.commands[-3]
    assert command.startswith("shell ( taskset 1 /data/local/tmp/nasdeploy.")
    assert "--num_threads=2" in command and "--use_gpu=true" in command


# -- mistakes


@pytest.mark.parametrize(
    ("told", "changes", "message"),
    [
        ({}, {"host": "adb:phone-9"}, "adb:phone-9: no phone of that serial number is attached; see: adb devices -l"),
        ({"failure": "unauthorized"}, {}, "adb:phone-1: it has not authorised this machine; unlock its screen"),
        ({"failure": "offline"}, {}, "adb:phone-1: it is offline; plug it in again, or run: adb -s phone-1 reconnect"),
        ({"room": 5}, {}, "adb:phone-1: no space is left in /data/local/tmp for benchmark_model; free some there"),
        ({}, {"benchmark": "absent"}, "device phone: benchmark absent: no such file; it is LiteRT's benchmark_model"),
        ({}, {"runtime": "onnxruntime"}, "device phone: phones are measured with runtime litert, not onnxruntime"),
        ({}, {"options": {"use_gpo": "true"}}, "device phone: option 'use_gpo' is .*; did you mean 'use_gpu'"),
        ({}, {"options": {"num_runs": "1"}}, "device phone: option 'num_runs' is unknown to "),
        ({}, {"options": {"taskset": "big"}}, "device phone: option 'taskset' is \"big\"; write a mask"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_measured(phone, told, changes, message):
    phone.tell(**told)
    with pytest.raises(UserError, match=f"^{message}") as caught:
        runner(phone, **changes)
    assert "\n" not in str(caught.value)
    phone.tell()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\x7fELF of another processor", "benchmark_model cannot be run there (.*); build it for arm64-v8a"),
        ("#!/bin/sh\necho usage: ls\n", "no benchmark_model of LiteRT, it knows no flag graph; name another file"),
    ],
)
def test_a_program_that_is_none_is_said(phone, content, message):
    phone.program.write_text(content)
    with pytest.raises(UserError, match=message.replace("(.*)", r"\(.+\)")):
        runner(phone)


def test_a_program_that_gives_no_timings_is_said(phone):
    message = r"adb:phone-1: benchmark_model gave no timings \(INFO: nothing to tell\); use one that reports 'Inference"
    with runner(phone) as there, pytest.raises(UserError, match=message):
        measured(there, {"m1": lambda: b"silent"}, ROUNDS)


def test_without_adb_there_are_no_phones(phone, monkeypatch):
    monkeypatch.setenv("PATH", str(phone.state / "system"))
    with pytest.raises(UserError, match=r"^adb:phone-1: adb, which reaches phones, is not on PATH; install"):
        runner(phone)


# -- losses


@pytest.mark.parametrize("how", ["lost", "cut"])
def test_a_phone_that_is_lost_is_reached_again_and_only_that_visit_repeated(phone, how):
    said = []
    with runner(phone, said.append) as there:
        at = len(phone.commands) + 2 * 3 + 2
        phone.tell(**{how: at})
        models = {key: MODELS[key] for key in ("m1", "m2", "m3")}
        found = measured(there, models, Rounds(3, 2))
    assert all(timing.n == 2 for timing in found.values())
    assert sorted(phone.visits) == [f"model-{number}.tflite" for number in (0, 0, 1, 1, 1, 2, 2)]
    (line,) = said
    assert line.startswith("adb:phone-1: ") and line.endswith("; trying again in 0.01 s")


def test_a_phone_that_stays_away_is_given_up(phone):
    said = []
    with runner(phone, said.append) as there:
        phone.tell(failure="absent")
        with pytest.raises(UserError, match=r"no phone of .*; given up after 2 attempts, but what was measured is"):
            measured(there, MODELS, ROUNDS)
        phone.tell()
    assert len(said) == 2


def test_another_phone_than_before_is_refused(phone):
    with runner(phone) as there:
        phone.tell(lost=len(phone.commands) + 1)
        phone.tell_facts("Pixel 8", "Tensor G3", "16")
        with pytest.raises(UserError, match=r"another phone than before \(.*measured with Android 15, "):
            measured(there, MODELS, ROUNDS)


# -- several, and what is read


@pytest.mark.skipif(RUNTIMES["litert"].missing() is not None, reason="LiteRT is not installed")
def test_blocks_are_converted_for_the_phone_and_run_there(phone):
    block = Stem(side=8, out_channels=4, kernel_size=3, stride=2, activation="relu", in_channels=3)
    somewhere = device(phone, precision="fp16")
    models = block_models({block.key: block}, somewhere)
    with open_runner(somewhere) as there:
        found = measured(there, models, Rounds(2, 2))
    assert isinstance(found[block.key], Timing)
    # Arm's features are not those of this machine, unless it is one of Arm's.
    assert there.fingerprint.computed_in == ("" if "asimdhp" in Path("/proc/cpuinfo").read_text() else "fp32")


def test_files_are_measured_on_the_phone(phone, tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(b"takes 1500")
    (result,) = bench([str(file)], device(phone), Progress(quiet=True), protocol=HASTY)
    assert result.median_ms == pytest.approx(1.5)


def test_equal_phones_share_the_work(phone):
    with open_runner(device(phone, host="local", hosts=("adb:phone-1", "adb:phone-2"))) as pool:
        assert isinstance(pool, RunnerPool)
        pool._compared = True
        found = measured(pool, MODELS, ROUNDS)
    assert sorted(found) == sorted(MODELS)
