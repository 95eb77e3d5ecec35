"""Finalists are measured beside the reference graph, as the table's networks are."""

from collections.abc import Iterator

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.profile import named_parts
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.searching import finalists as module
from nasdeploy.searching.finalists import measure_networks
from tests.latency.tables import DEVICE, SPACE, archs, timing

CHOSEN = archs()[:3]


class Runner:
    """Says one millisecond of all, and refuses networks in `refused`."""

    def __init__(self, refused: str = "") -> None:
        self.refused, self.asked, self.reference = refused, list[str](), None

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *of_error: object) -> None:
        pass

    def measure(self, models, rounds, protocol, *, on_visits, reference) -> Iterator[dict]:
        self.asked += models
        self.reference = reference
        yield {key: Refusal("no such operator") if key == self.refused else timing(1e-3) for key in models}


def measured(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.setattr(module, "open_processes", lambda device, say: runner)
    return measure_networks(CHOSEN, lambda arch: None, SPACE, DEVICE, Progress(quiet=True))


def test_the_reference_is_measured_and_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner()
    found = measured(runner, monkeypatch)
    assert list(found) == CHOSEN
    assert runner.asked == [key for arch in CHOSEN for key in named_parts(arch.text, SPACE.plan(arch))]
    assert runner.reference is not None
    # Each part takes a millisecond for each time that it runs.
    runs = [sum(part.runs for part in SPACE.plan(arch).parts) for arch in CHOSEN]
    assert [found[arch].median for arch in CHOSEN] == pytest.approx([1e-3 * each for each in runs])


def test_a_refused_network_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = next(iter(named_parts(CHOSEN[1].text, SPACE.plan(CHOSEN[1]))))
    with pytest.raises(UserError, match=f"network {CHOSEN[1].digest}: no such operator"):
        measured(Runner(refused=refused), monkeypatch)
