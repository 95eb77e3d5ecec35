"""Checking a table, with a runner that plays its device."""

from dataclasses import replace
from functools import partial

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import LatencyTable, network_terms
from nasdeploy.spaces import load_space
from nasdeploy.workflows import table as module
from nasdeploy.workflows.table import RecheckSize, check, spread
from tests.latency.tables import AT, CONDITIONS, FINGERPRINT, timing
from tests.wording import assert_stops

SPACE = load_space("digits", 10)
KNOWN = {key: timing(1e-5 + 1e-10 * block.macs) for key, block in SPACE.distinct_blocks().items()}


def measured_table():
    networks = {
        arch: sum(KNOWN[k].median for k in SPACE.plan(arch).keys) for arch in (SPACE.smallest(), SPACE.largest())
    }
    conditions = CONDITIONS.model_copy(update={"space": SPACE.name, "space_digest": SPACE.digest})
    terms = [network_terms(KNOWN, SPACE, arch, "calibration", timing(s)) for arch, s in networks.items()]
    return LatencyTable.fitted(conditions, AT, KNOWN, terms)


TABLE = measured_table()


class Replay:
    """Measures what the table says, times a factor for blocks and one for whole networks."""

    fingerprint = FINGERPRINT

    def __init__(self, blocks=1.0, networks=1.0, noise=""):
        self.blocks, self.networks, self.noise, self.asked = blocks, networks, noise, []

    def measure(self, models, rounds, protocol, *, on_visits, reference=None):
        self.asked.append(list(models))
        yield {key: self.timing(key) for key in models}

    def timing(self, key):
        whole = {SPACE.arch(n.arch).text: n.timing.median for n in TABLE.networks}
        seconds = self.blocks * KNOWN[key].median if key in KNOWN else self.networks * whole[key]
        return replace(timing(seconds), noise=self.noise)


def checked(runner, **options):
    return check(TABLE, SPACE, runner, Progress(), **{"sample": RecheckSize(6, 2), "strict": False, **options})


def test_what_has_not_changed_holds():
    runner = Replay()
    found = checked(runner)
    assert found.holds
    assert (found.entries.n, found.entries.median, found.networks.n, found.networks.median) == (6, 1.0, 2, 1.0)
    assert (found.differences, found.noisy) == ([], 0)
    assert found.prediction_error == pytest.approx(0, abs=1e-9)
    by_latency = sorted(KNOWN, key=lambda key: KNOWN[key].median)
    assert (runner.asked[0][0], runner.asked[0][-1]) == (by_latency[0], by_latency[-1])


@pytest.mark.parametrize(
    ("factors", "holds"),
    [((1.02, 1.02), True), ((1.05, 1.0), False), ((1.0, 0.95), False), ((0.94, 0.94), False)],
)
def test_three_percent_are_a_tie_and_more_is_not(factors, holds):
    found = checked(Replay(*factors))
    assert found.holds == holds
    assert (found.entries.median, found.networks.median) == pytest.approx(factors)
    assert found.prediction_error == pytest.approx(abs(1 / factors[1] - 1), abs=1e-9)


def test_noise_is_counted():
    assert checked(Replay(noise="spread")).noisy == 8


def test_another_device_is_said_or_with_strict_refused(capsys):
    runner = Replay()
    runner.fingerprint = replace(FINGERPRINT, governor="powersave")
    assert checked(runner).differences == ["governor: measured with performance, here powersave"]
    assert "the device differs from the table's: governor" in capsys.readouterr().err
    with assert_stops(UserError, match=r"measured on another device \(governor: .*nasdeploy profile --device cpu"):
        checked(runner, strict=True)


def test_another_space_is_refused():
    with pytest.raises(UserError, match="not of cifar10"):
        check(TABLE, load_space("cifar10", 10), Replay(), Progress(), sample=RecheckSize(), strict=False)


def test_what_is_measured_are_the_blocks_and_networks_of_these_keys(monkeypatch):
    made = []
    monkeypatch.setattr(
        module, "block_models", lambda blocks, device: {key: partial(made.append, key) for key in blocks}
    )
    monkeypatch.setattr(module, "network_model", lambda plan, device: made.append(plan))

    class Making(Replay):
        def measure(self, models, rounds, protocol, *, on_visits, reference=None):
            for model in models.values():
                model()
            return super().measure(models, rounds, protocol, on_visits=on_visits)

    runner = Making()
    checked(runner)
    assert made == [*runner.asked[0], SPACE.plan(SPACE.smallest()), SPACE.plan(SPACE.largest())]


@pytest.mark.parametrize(("number", "found"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (30, list(range(10)))])
def test_spread(number, found):
    assert spread(list(range(10)), number) == found
