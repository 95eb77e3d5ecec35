"""The machine's speed taken out of a table, on a toy world in which it is known."""

from dataclasses import replace

import numpy as np
import pytest

from nasdeploy.latency.campaign import POWERS, drift_corrected_table
from nasdeploy.latency.protocol import corrected
from tests.latency.tables import AT, CONDITIONS, SPACE, archs, entries, timing, true_seconds

USUAL = 1e-3


def measured(seconds, speed, told):
    """What takes `seconds` on a machine that is `speed` times slower, where the reference graph says `told` times."""
    return replace(timing(seconds * speed), reference=USUAL * told)


def table_in_a_noisy_world(seed, reference):
    """`reference(speed, draw)`: what the reference graph says of a speed. Groups are of six blocks or networks."""
    draw, known = np.random.default_rng(seed), entries(seed)
    groups = [float(np.exp(draw.normal(0, 0.25))) for _ in range(len(known) + len(archs()))]
    told = [reference(speed, draw) for speed in groups]
    blocks = {key: measured(t.median, groups[n // 6], told[n // 6]) for n, (key, t) in enumerate(known.items())}
    chosen = archs()[::3]
    order = draw.permutation(len(chosen))
    networks, first = {}, len(known)
    for place, number in enumerate(order):
        group = first + place // 6
        networks[chosen[number]] = measured(true_seconds(chosen[number], known), groups[group], told[group])
    roles = {arch: "calibration" if place % 2 == 0 else "held-out" for place, arch in enumerate(chosen)}
    return drift_corrected_table(SPACE, CONDITIONS, AT, blocks, networks, roles), known


def error(table, known):
    """Mean absolute relative error over the whole space, up to a constant factor."""
    ratios = np.array([table.predict(SPACE.plan(arch)).seconds / true_seconds(arch, known) for arch in archs()])
    return float(np.abs(ratios / np.median(ratios) - 1).mean())


def without_reference(table, known):
    return error(type(table).fitted(CONDITIONS, AT, *raw(table)), known)


def raw(table):
    """Entries and networks as they were measured."""
    usual = np.median([t.reference for t in [*table.entries.values(), *(n.timing for n in table.networks)]])
    entries = {key: corrected(t, usual, -table.steadied) for key, t in table.entries.items()}
    networks = []
    for network in table.networks:
        timing = corrected(network.timing, usual, -table.steadied)
        total = SPACE.plan(SPACE.arch(network.arch)).total(lambda block: entries[block.key].undisturbed)
        networks.append(replace(network, entries=total, timing=timing))
    return entries, networks


@pytest.mark.parametrize("seed", range(3))
def test_a_reference_that_tells_the_speed_takes_it_out(seed):
    table, known = table_in_a_noisy_world(seed, lambda speed, draw: speed)
    assert table.steadied == 1.0
    assert error(table, known) < 1e-6
    assert without_reference(table, known) > 0.02


@pytest.mark.parametrize("seed", range(3))
def test_a_reference_with_noise_of_its_own_is_believed_in_part(seed):
    table, known = table_in_a_noisy_world(seed, lambda speed, draw: speed * float(np.exp(draw.normal(0, 0.2))))
    assert 0 < table.steadied < 1
    assert error(table, known) < without_reference(table, known)


def test_a_reference_that_knows_nothing_is_not_believed():
    powers = [
        table_in_a_noisy_world(seed, lambda speed, draw: float(np.exp(draw.normal(0, 0.25))))[0].steadied
        for seed in range(5)
    ]
    assert sorted(powers)[2] == 0.0


def test_timings_are_divided_by_a_power_of_the_drift():
    found = corrected(measured(2e-3, speed=2.0, told=4.0), USUAL, power=0.5)
    assert found.median == pytest.approx(2e-3)
    assert (found.p10 / found.median, found.p95 / found.median) == pytest.approx((0.99, 1.03))
    assert found.reference == 4 * USUAL
    assert corrected(timing(1e-3), USUAL, power=1.0) == timing(1e-3)


def test_without_a_reference_everything_stays():
    known = entries()
    roles = dict.fromkeys(archs()[::7], "calibration")
    networks = {arch: timing(true_seconds(arch, known)) for arch in roles}
    table = drift_corrected_table(SPACE, CONDITIONS, AT, known, networks, roles)
    assert (table.steadied, table.entries) == (0.0, known)


def test_what_is_measured_later_does_not_change_the_power():
    table, known = table_in_a_noisy_world(0, lambda speed, draw: speed)
    arch = archs()[1]
    assert table.with_measured(SPACE, {arch: timing(true_seconds(arch, known))}).steadied == table.steadied
    assert POWERS[0] == 0.0
