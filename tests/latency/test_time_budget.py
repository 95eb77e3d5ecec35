"""How long a measurement takes, against one that is played through on a clock of its own."""

from dataclasses import replace

import numpy as np
import pytest

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.latency.campaign import Journal
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.table import Conditions
from nasdeploy.latency.time_budget import (
    Pace,
    begun_with,
    sampled_blocks,
    total,
    trial_protocol,
    with_networks_within,
    within,
)
from nasdeploy.spaces import load_space
from tests.latency.tables import CONDITIONS, timing
from tests.wording import assert_stops

SPACE = load_space("digits", 10)
BLOCKS = SPACE.distinct_blocks()
PACE = Pace(opening=0.02, call=2e-5, per_mac=1e-7)
PROTOCOL = MeasurementProtocol()


def seconds(block):
    return PACE.call + PACE.per_mac * block.macs


def run_length(block, protocol):
    return max(seconds(block), protocol.shortest_run_s)


def test_pace_is_found_from_a_trial():
    trial = trial_protocol(PROTOCOL)
    blocks = sampled_blocks(SPACE)
    runs = trial.warmup + 1
    elapsed = sum(PACE.opening + runs * run_length(block, trial) for block in blocks.values())
    found = Pace.of(blocks, {key: timing(seconds(block)) for key, block in blocks.items()}, elapsed, trial)
    assert (found.opening, found.call, found.per_mac) == pytest.approx((PACE.opening, PACE.call, PACE.per_mac))


def test_the_sample_has_the_cheapest_and_the_dearest_block():
    macs = [block.macs for block in BLOCKS.values()]
    sampled = [block.macs for block in sampled_blocks(SPACE).values()]
    assert (sampled[0], sampled[-1], len(sampled)) == (min(macs), max(macs), 8)


def test_blocks_take_their_openings_and_runs():
    runs = PROTOCOL.warmup + PROTOCOL.blocks.visits * (PROTOCOL.discarded + PROTOCOL.kept)
    measuring = sum(runs * run_length(block, PROTOCOL) for block in BLOCKS.values())
    opening = PACE.opening * len(BLOCKS)
    # One in fifty is the reference, which is visited again after every eighth.
    expected = opening * (1 + 1 / 49) + measuring * (1 + 1 / 49 + 1 / 8)
    assert PACE.of_blocks(list(BLOCKS.values()), PROTOCOL) == pytest.approx(expected)


def test_networks_take_more_the_more_and_the_slower_they_are():
    twenty, forty = (PACE.of_networks(SPACE, number, PROTOCOL) for number in (20, 40))
    assert forty == pytest.approx(2 * twenty, rel=0.03)
    assert PACE.of_networks(SPACE, 0, PROTOCOL) == 0
    assert replace(PACE, per_mac=1e-6).of_networks(SPACE, 20, PROTOCOL) > 2 * twenty


def test_a_large_budget_changes_nothing():
    assert within(1e6, PACE, SPACE, PROTOCOL) == PROTOCOL


def test_visits_are_given_up_before_networks():
    needed = total(PACE, SPACE, PROTOCOL)
    found = [within(needed * share, PACE, SPACE, PROTOCOL) for share in np.linspace(1, 0.3, 30)]
    visits = [(p.blocks.visits, p.networks.visits) for p in found]
    networks = [p.calibration_networks + p.held_out_networks for p in found]
    assert visits == sorted(visits, reverse=True)
    assert networks == sorted(networks, reverse=True)
    assert len(set(visits)) > 2
    assert len(set(networks)) > 2
    fewest = min(v for v, n in zip(visits, networks, strict=True) if n == networks[0])
    assert all(v <= fewest for v, n in zip(visits, networks, strict=True) if n < networks[0])


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.4])
def test_what_is_chosen_fits(share):
    budget = share * total(PACE, SPACE, PROTOCOL)
    assert total(PACE, SPACE, within(budget, PACE, SPACE, PROTOCOL)) <= budget


def test_what_was_spent_already_counts():
    budget, spent = 0.9 * total(PACE, SPACE, PROTOCOL), 0.3 * total(PACE, SPACE, PROTOCOL)
    found = within(budget, PACE, SPACE, PROTOCOL, spent)
    assert total(PACE, SPACE, found) + spent <= budget
    assert found.blocks.visits < within(budget, PACE, SPACE, PROTOCOL).blocks.visits


def test_after_slow_blocks_fewer_networks_fit():
    def seconds(protocol):
        number = protocol.calibration_networks + protocol.held_out_networks
        return PACE.of_networks(SPACE, number, protocol)

    left = seconds(PROTOCOL)
    assert with_networks_within(left, PACE, SPACE, PROTOCOL, slower=1.0) == PROTOCOL
    found = with_networks_within(left, PACE, SPACE, PROTOCOL, slower=3.0)
    assert 3.0 * seconds(found) <= left
    assert found.blocks == PROTOCOL.blocks
    # What cannot be left out is not: the table would be of no use.
    least = with_networks_within(0.0, PACE, SPACE, PROTOCOL, slower=1.0)
    assert (least.calibration_networks, least.held_out_networks, least.networks.visits) == (6, 10, 3)


def test_gaps_take_their_time():
    idle = PROTOCOL.with_idle(100.0)
    gaps = 20 * idle.networks.visits * idle.kept * 0.1
    assert PACE.of_networks(SPACE, 20, idle) == pytest.approx(PACE.of_networks(SPACE, 20, PROTOCOL) + gaps)
    blocks = list(BLOCKS.values())
    assert PACE.of_blocks(blocks, idle) == PACE.of_blocks(blocks, PROTOCOL)


def test_too_small_a_budget_tells_how_much_is_needed():
    with assert_stops(UserError, match=r"--budget-min 0\.01 is too short: the \d+ blocks of space digits and 16") as e:
        within(0.6, PACE, SPACE, PROTOCOL)
    enough = 60 * float(typed(e.value).rsplit(" ", 1)[1])
    assert within(enough, PACE, SPACE, PROTOCOL).blocks.visits == 1


def test_a_stopped_measurement_keeps_its_protocol(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert begun_with(path) is None
    protocol = replace(PROTOCOL, blocks=Rounds(50, 2))
    Journal(path, Conditions.of(SPACE, CONDITIONS.device, CONDITIONS.fingerprint, protocol))
    assert begun_with(path) == protocol
    path.write_text('{"conditions": 3}\n')
    assert begun_with(path) is None
