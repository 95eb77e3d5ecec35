"""Models on several devices, measured in turn."""

from collections.abc import Iterator
from typing import ClassVar

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners import in_turn
from nasdeploy.latency.runners.in_turn import DeviceModel, measure_in_turn
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.runtimes.device import Device
from tests.conformance.runtime_models import small_onnx
from tests.latency.tables import timing

HASTY = MeasurementProtocol(
    networks=Rounds(group=1, visits=4), warmup=1, kept=2, shortest_run_s=1e-6, shortest_group_s=0, retries=0
)
DEVICES = {name: Device(name=name, runtime="onnxruntime") for name in ("one", "two", "lost")}


class Played:
    """A runner that has a time of its own for each opening, and is lost where the device says so."""

    opened: ClassVar[list[str]] = []

    def __init__(self, device: Device) -> None:
        self.device = device
        self.opened.append(device.name)

    def __enter__(self) -> "Played":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def measure(self, models, rounds, protocol, *, on_visits, reference=None) -> Iterator[dict[str, Timing]]:
        if self.device.name == "lost" and self.opened.count("lost") == 2:
            raise UserError("device lost: the process that measures was killed by signal 11")
        assert (rounds.group, protocol.shortest_group_s) == (1, 0)
        on_visits(rounds.visits)
        yield {key: timing(1e-3 * self.opened.count(self.device.name)) for key in models}


def test_each_is_opened_once_before_any_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "ProcessRunner", Played)
    monkeypatch.setattr(in_turn, "PROCESSES", 3)
    monkeypatch.setattr(Played, "opened", [])
    visits: list[int] = []
    models = {name: DeviceModel(device, b"") for name, device in DEVICES.items()}
    found = measure_in_turn(models, HASTY, print, visits.append)
    assert Played.opened == ["one", "two", "lost", "one", "two", "lost", "one", "two"]
    for name in ("one", "two"):
        outcome = found[name]
        assert isinstance(outcome, Timing)
        assert (outcome.median, outcome.processes) == (2e-3, (1e-3, 2e-3, 3e-3))
    assert found["lost"] == Refusal("device lost: the process that measures was killed by signal 11")
    assert sum(visits) == 7 * 2


def test_what_takes_minutes_to_open_is_opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "ProcessRunner", Played)
    monkeypatch.setattr(Played, "opened", [])
    model = DeviceModel(Device(name="engine", runtime="tensorrt"), b"")
    assert model.visits(HASTY) == 4
    found = measure_in_turn({"engine": model}, HASTY, print, lambda visits: None)["engine"]
    assert isinstance(found, Timing)
    assert (Played.opened, found.processes) == (["engine"], ())


def test_a_file_is_run_in_processes_and_junk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_turn, "PROCESSES", 2)
    models = {"one": DeviceModel(DEVICES["one"], small_onnx("batch")), "two": DeviceModel(DEVICES["two"], b"junk")}
    found = measure_in_turn(models, HASTY, print, lambda visits: None)
    assert isinstance(found["one"], Timing) and len(found["one"].processes) == 2
    assert isinstance(found["two"], Refusal) and "ONNX Runtime cannot load it" in found["two"].reason
